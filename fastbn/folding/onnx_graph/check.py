"""Compare the outputs of two models in ONNX Runtime on random inputs."""

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
# The lengths tried for axes of unknown length, in this order.
LENGTHS = (32, 64, 224, 8, 1)
FLOATS: dict[str, type[np.floating[Any]]] = {
    "tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}
INTEGERS: dict[str, np.dtype[Any]] = {f"tensor({name})": np.dtype(name) for name in (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")}
NUMBERS = "fiub"  # the kinds of numeric dtypes
# ONNX Runtime begins its messages with a status, the file, and a position in its source code.
_PREAMBLE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .+? failed: ?|"
                       r"/onnxruntime_src/\S+:\d+ [^()]*\([^()]*\)(?: const)? ")
# Relative to the largest value of an output.
TOLERANCES: dict[np.dtype[Any], float] = {
    np.dtype(np.float16): 1e-2, np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-4}


class CheckError(RuntimeError):
    """Two models cannot be compared, or their outputs differ."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The difference between the outputs of two models.

    Attributes
    ----------
    absolute : float
        The largest difference.
    relative : float
        The largest difference in an output, divided by the largest value of that output.
    inputs : int
        The number of random inputs.
    constant : bool
        Whether the outputs do not depend on the input, as in some untrained models. The comparison then proves little.
    """

    absolute: float
    relative: float
    inputs: int
    constant: bool


class Reference:
    """A model and its outputs for random inputs, to compare other models with.

    Parameters
    ----------
    path : Path
    shapes : mapping of str to tuple of int
        The shapes of inputs, by name. For other inputs, an unknown batch is 2, and other unknown lengths are the first
        of `LENGTHS` that the model runs with.

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
        inputs, outputs = first_that_runs(session, shapes)
        self.inputs: list[dict[str, Any]] = inputs
        self.outputs: list[Values] = [outputs, *(run(session, feed) for feed in inputs[1:])]
        self.names: list[str] = [o.name for o in session.get_outputs()]
        if not any(np.isfinite(leaf).any() for leaf in leaves(self.outputs) if leaf.dtype.kind in NUMBERS):
            raise CheckError("no output of the model is a finite number on random inputs: there is nothing to compare")

    def compare(self, folded: bytes, tolerance: float | None = None) -> Agreement:
        """Run the folded model on the same inputs.

        Parameters
        ----------
        folded : bytes
            The model in the format of a file.
        tolerance : float, optional
            The largest difference allowed in an output, as a fraction of its largest value; by default 1e-4, or 1e-2 in
            float16. Outputs that are not floating-point numbers must be equal.

        Returns
        -------
        Agreement

        Raises
        ------
        CheckError
            If an output differs by more than the tolerance.
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
    """Return a session for a model or a path, without the optimizations of ONNX Runtime, which include folding."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the error classes of ONNX Runtime have no common base
        raise CheckError(f"ONNX Runtime cannot load {name}: {in_one_line(error)}") from error


def run(session: Any, feed: dict[str, Any]) -> Values:
    """Return the outputs of a session."""
    try:
        values: Values = session.run(None, feed)
    except Exception as error:  # as in load
        raise CheckError(f"ONNX Runtime cannot run the model: {in_one_line(error)}") from error
    return values


def check_shapes(shapes: Shapes, known: Mapping[str, Sequence[int | str | None]]) -> None:
    """Raise CheckError unless each shape fits the input of its name."""
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
    """Return random inputs with the first length of unknown axes that the model runs with, and its first outputs."""
    is_open = any(not isinstance(size, int) for i in session.get_inputs() if i.name not in shapes for size in i.shape)
    reasons = []
    for length in LENGTHS if is_open else LENGTHS[:1]:
        feeds = [draw(session, shapes, length, seed) for seed in range(DRAWS)]
        try:
            return feeds, run(session, feeds[0])
        except CheckError as error:
            reasons.append(str(error))
    raise CheckError(f"{reasons[0]} (on random inputs; set their shapes with --input-shape)")


def draw(session: Any, shapes: Shapes, length: int, seed: int) -> dict[str, Any]:
    """Return random inputs: normal values for floating-point types; zeros and ones, valid as indices, for others."""
    rng = np.random.default_rng(seed)
    lengths: dict[str, int] = {}
    feed = {}
    for i in session.get_inputs():
        shape = shapes.get(i.name) or tuple(
            size if isinstance(size, int) else lengths.setdefault(size or f"{i.name} {axis}", length if axis else BATCH)
            for axis, size in enumerate(i.shape))
        if i.type not in FLOATS and i.type not in INTEGERS:
            raise CheckError(f"input {i.name!r} is a {i.type}, for which there are no random values")
        try:
            if i.type in FLOATS:
                feed[i.name] = rng.standard_normal(shape).astype(FLOATS[i.type])
            else:
                feed[i.name] = rng.integers(0, 2, shape).astype(INTEGERS[i.type])
        except (MemoryError, ValueError) as error:  # NumPy raises ValueError if the size overflows
            raise CheckError(f"input {i.name!r} of shape {shape} does not fit in memory") from error
    return feed


def leaves(values: Any) -> Iterator[Any]:
    """Yield the arrays in outputs, which may be nested sequences and maps."""
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

    The difference is infinite if shapes or dtypes differ, or if only one of two values is NaN or infinite.
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
    """Return the message of an exception as one line, without the preamble of ONNX Runtime."""
    return " ".join(_PREAMBLE.sub("", str(error)).split()) or type(error).__name__
