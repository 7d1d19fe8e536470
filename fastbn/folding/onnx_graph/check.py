"""Whether two models do the same: both run by ONNX Runtime on random inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Values = list[Any]
Shapes = Mapping[str, tuple[int, ...]]

DRAWS = 2
BATCH = 2
# Tried in this order for axes whose length is open: few networks take each of them.
LENGTHS = (32, 64, 224, 8, 1)
FLOATS = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}
INTEGERS = {f"tensor({name})": np.dtype(name) for name in (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")}
NUMBERS = "fiub"  # the kinds of dtype that are
# What ONNX Runtime says before what is wrong: a status, the file, and where in its sources it noticed.
_PREAMBLE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .+? failed: ?|"
                       r"/onnxruntime_src/\S+:\d+ [^()]*\([^()]*\)(?: const)? ")
# Of the largest value of an output.
TOLERANCES = {np.dtype(np.float16): 1e-2, np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-4}


class CheckError(RuntimeError):
    """Models that cannot be compared, or do not do the same."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the outputs of two models were from each other.

    Attributes
    ----------
    absolute : float
        The largest difference.
    relative : float
        The largest difference in an output over the largest value of that output.
    inputs : int
        Random inputs that both were run on.
    constant : bool
        Whether the outputs were the same for all of them, as those of untrained models can be: then they say little.
    """

    absolute: float
    relative: float
    inputs: int
    constant: bool


class Reference:
    """A model and what it makes of random inputs, for others to be compared with.

    Parameters
    ----------
    path : Path
    shapes : mapping of str to tuple of int
        Of inputs whose shape is open, by name. For others the batch is 2, and other open axes are as long as the model
        runs with.

    Raises
    ------
    CheckError
        If ONNX Runtime cannot load the model, or run it on such inputs.
    """

    def __init__(self, path: Path, shapes: Shapes) -> None:
        session = load(str(path), path.name)
        if not session.get_outputs():
            raise CheckError("the model has no outputs: there is nothing to compare")
        check_shapes(shapes, {i.name: i.shape for i in session.get_inputs()})
        self.inputs, outputs = first_that_runs(session, shapes)
        self.outputs = [outputs, *(run(session, feed) for feed in self.inputs[1:])]
        self.names = [o.name for o in session.get_outputs()]
        if not any(np.isfinite(leaf).any() for leaf in leaves(self.outputs) if leaf.dtype.kind in NUMBERS):
            raise CheckError("no output of the model is a finite number on random inputs: there is nothing to compare")

    def compare(self, folded: bytes, tolerance: float | None = None) -> Agreement:
        """Run the folded model on the same inputs.

        Parameters
        ----------
        folded : bytes
            As they would be in a file.
        tolerance : float, optional
            How far an output may be off, as a fraction of its largest value: 1e-4, or 1e-2 in float16, if not given.
            Outputs that are not floating-point numbers must be equal.

        Returns
        -------
        Agreement

        Raises
        ------
        CheckError
            If an output differs by more.
        """
        session = load(folded, "the folded model")
        absolute = relative = 0.0
        for feed, expected in zip(self.inputs, self.outputs, strict=True):
            for name, old, new in zip(self.names, expected, run(session, feed), strict=True):
                for a, b in zip_longest(leaves([old]), leaves([new]), fillvalue=np.array(None)):
                    difference, size = distance(a, b)
                    ratio = difference / size if size else math.inf if difference else 0.0
                    limit = (tolerance or TOLERANCES[a.dtype]) if a.dtype in TOLERANCES else 0.0
                    if not ratio <= limit:
                        raise CheckError(f"output {name!r} of the folded model differs by {difference:.3g}, "
                                         f"{ratio:.3g} of its largest value; the tolerance is {limit:g}")
                    absolute, relative = max(absolute, difference), max(relative, ratio)
        constant = all(np.array_equal(a, b) for values in self.outputs[1:]
                       for a, b in zip_longest(leaves(self.outputs[0]), leaves(values)))
        return Agreement(absolute, relative, len(self.inputs), constant)


def load(model: str | bytes, name: str) -> Any:
    """Return a session that runs a model, or one at a path, as it is written: ONNX Runtime has folds of its own."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each status, below no common one
        raise CheckError(f"ONNX Runtime cannot load {name}: {in_one_line(error)}") from error


def run(session: Any, feed: dict[str, Any]) -> Values:
    """Return the outputs of a session."""
    try:
        values: Values = session.run(None, feed)
    except Exception as error:  # as in load
        raise CheckError(f"ONNX Runtime cannot run the model: {in_one_line(error)}") from error
    return values


def check_shapes(shapes: Shapes, known: Mapping[str, Sequence[int | str | None]]) -> None:
    """Raise CheckError unless each shape is one that the input of its name can have."""
    unknown = shapes.keys() - known.keys()
    if unknown:
        raise CheckError(f"the model has no input {', '.join(map(repr, sorted(unknown)))}; it has "
                         + ", ".join(map(repr, known)))
    for name, shape in shapes.items():
        if len(shape) != len(known[name]) or any(
                isinstance(size, int) and size != given for size, given in zip(known[name], shape, strict=True)):
            sizes = ", ".join("?" if size is None else str(size) for size in known[name])
            raise CheckError(f"input {name!r} has shape ({sizes}) in the model; {shape} does not fit")


def first_that_runs(session: Any, shapes: Shapes) -> tuple[list[dict[str, Any]], Values]:
    """Return random inputs with the first length of open axes that the model runs with, and its first outputs."""
    is_open = any(not isinstance(size, int) for i in session.get_inputs() if i.name not in shapes for size in i.shape)
    reasons = []
    for length in LENGTHS if is_open else LENGTHS[:1]:
        feeds = [draw(session, shapes, length, seed) for seed in range(DRAWS)]
        try:
            return feeds, run(session, feeds[0])
        except CheckError as error:
            reasons.append(str(error))
    raise CheckError(f"{reasons[0]} (on random inputs; --input-shape tells their shapes)")


def draw(session: Any, shapes: Shapes, length: int, seed: int) -> dict[str, Any]:
    """Return normal values for floating-point inputs; for others zeros and ones, which are indices into most tables."""
    rng = np.random.default_rng(seed)
    lengths: dict[str, int] = {}
    feed = {}
    for i in session.get_inputs():
        shape = shapes.get(i.name) or tuple(
            size if isinstance(size, int) else lengths.setdefault(size or f"{i.name} {axis}", length if axis else BATCH)
            for axis, size in enumerate(i.shape))
        if i.type not in FLOATS and i.type not in INTEGERS:
            raise CheckError(f"input {i.name!r} is a {i.type}, which there are no random values for")
        try:
            if i.type in FLOATS:
                feed[i.name] = rng.standard_normal(shape).astype(FLOATS[i.type])
            else:
                feed[i.name] = rng.integers(0, 2, shape).astype(INTEGERS[i.type])
        except (MemoryError, ValueError) as error:  # ValueError beyond what NumPy can count
            raise CheckError(f"input {i.name!r} of shape {shape} does not fit in memory") from error
    return feed


def leaves(values: Any) -> Iterator[Any]:
    """Yield the arrays in outputs, which may be sequences and maps."""
    if isinstance(values, Mapping):
        yield from leaves(list(values.keys()))
        yield from leaves(list(values.values()))
    elif isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        for value in values:
            yield from leaves(value)
    else:
        yield np.asarray(values)


def distance(a: Any, b: Any) -> tuple[float, float]:
    """Return the largest difference of two arrays and the largest absolute value of the first.

    The difference is infinite where shapes or dtypes differ, and where only one is NaN or infinite.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf, 0.0
    if a.dtype.kind not in NUMBERS:
        return (0.0 if np.array_equal(a, b) else math.inf), 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return math.inf, 0.0
    a, b = a[finite], b[finite]
    return (float(np.abs(a - b).max()), float(np.abs(a).max())) if a.size else (0.0, 0.0)


def in_one_line(error: Exception) -> str:
    """Return what an exception says, all of it but what ONNX Runtime says before."""
    return " ".join(_PREAMBLE.sub("", str(error)).split()) or type(error).__name__
