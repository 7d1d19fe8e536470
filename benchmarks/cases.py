"""What is measured: operations, shapes, and the suites that combine them.

- training: training, inference and backward through the functional interface
- inference: what services run: fused inference, half precision, images
- statistics: ChannelStats, and training on padded sequences
- family: layer, RMS, group and instance norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    Shape = tuple[int, ...]

LAYOUTS = ("planes", "rows")
MB = 1 << 20
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1}
_POOL = 1 << 20  # numbers drawn; large arrays repeat them


@dataclass(frozen=True)
class Case:
    """A shape (N, C, ...) in one memory layout: "planes" with the channels first, or "rows" with the channels last."""

    shape: Shape
    layout: str

    @property
    def name(self) -> str:
        """The shape in one word."""
        return "x".join(map(str, self.shape))

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[1]

    @property
    def size(self) -> int:
        """Elements of one array."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of one float32 array."""
        return 4 * self.size

    @property
    def axis(self) -> int:
        """The channel axis in memory."""
        return {"planes": 1, "rows": -1}[self.layout]

    @property
    def array_shape(self) -> Shape:
        """The shape with the axes in the order of memory."""
        return self.shape if self.layout == "planes" else (*self.shape[:1], *self.shape[2:], *self.shape[1:2])


@dataclass(frozen=True)
class Operation:
    """What is timed.

    Attributes
    ----------
    name, title : str
        In the results, and in the tables.
    kind : str
        The method of a `benchmarks.peers.Peer` that does it.
    dtype : str
        Of x.
    residual, activation
        What follows the transform.
    fresh : bool
        Return a new array; otherwise write into a warm buffer if the library can.
    frozen : bool
        A backward pass with given statistics.
    baseline : tuple (name, title), optional
        An operation of fastbn to compare with.
    """

    name: str
    title: str
    kind: str
    dtype: str = "float32"
    residual: bool = False
    activation: str | None = None
    fresh: bool = False
    frozen: bool = False
    baseline: tuple[str, str] | None = None

    @property
    def arrays(self) -> int:
        """Arrays that are read or written at least once."""
        if self.kind == "step":
            return 5
        return 1 if self.kind == "moments" else 3 if self.residual or self.kind == "backward" else 2

    def nbytes(self, case: Case) -> int:
        """Return the bytes of x."""
        return ITEM_BYTES[self.dtype] * case.size

    def applies(self, case: Case) -> bool:
        """Return whether the operation is defined on a case."""
        has_variance = case.size > case.channels
        return has_variance or self.frozen or self.kind not in ("training", "backward", "step")


@dataclass(frozen=True)
class Suite:
    """Operations, each with its cases; `document` names the files of figures, text and chart, without a suffix."""

    name: str
    document: str
    plan: Mapping[Operation, Sequence[Case]]


def both(*shapes: Shape) -> list[Case]:
    """Return each shape in each of its layouts; (N, C) is rows."""
    return [Case(shape, layout) for shape in shapes for layout in LAYOUTS if len(shape) > 2 or layout == "rows"]


def rows(*shapes: Shape) -> list[Case]:
    """Return each shape with the channels last."""
    return [Case(shape, "rows") for shape in shapes]


def plan(*parts: tuple[Iterable[Operation], Sequence[Case]]) -> dict[Operation, list[Case]]:
    """Return the cases that apply to each operation."""
    return {op: [case for case in cases if op.applies(case)] for operations, cases in parts for op in operations}


CASES = both((32, 64, 112, 112), (32, 256, 56, 56), (32, 512, 28, 28), (32, 1024, 14, 14), (32, 2048, 7, 7),
             (1, 64, 56, 56), (1, 256, 14, 14), (1, 2048, 7, 7), (8, 64, 8, 8), (64, 512), (256, 1024), (4096, 256),
             (32, 128, 1000), (8, 3, 224, 224), (16, 40, 28, 28), (1, 64))
TINY_CASES = both((2, 8, 7, 7), (4, 3, 16, 16), (8, 24), (1, 64))
SMALL_CALL = rows((1, 64))
# Few, because compilers take seconds for each.
STEP_CASES = both((32, 64, 112, 112), (32, 256, 56, 56), (32, 512, 28, 28), (32, 2048, 7, 7), (8, 64, 28, 28),
                  (64, 512), (4096, 256))

TRAINING = (
    Operation("training", "Training", "training"),
    Operation("training_fresh", "Training, new array", "training", fresh=True, baseline=("training", "preallocated")),
    Operation("inference", "Inference", "inference"),
    Operation("inference_fresh", "Inference, new array", "inference", fresh=True,
              baseline=("inference", "preallocated")),
    Operation("backward", "Backward", "backward"),
    Operation("backward_fresh", "Backward, new array", "backward", fresh=True, baseline=("backward", "preallocated")),
)
STEP = Operation("training_step", "Training step: forward and backward of batch norm + ReLU", "step",
                 activation="relu")
CALL = Operation("call", "Small call: `bn(x, out=y)` in evaluation mode", "call")
AFFINE = (
    Operation("bn", "Batch norm", "affine"),
    Operation("bn_relu", "Batch norm + ReLU", "affine", activation="relu"),
    Operation("bn_residual_relu", "Batch norm + residual + ReLU", "affine", residual=True, activation="relu"),
)
ACTIVATIONS = tuple(
    Operation(f"bn_{name}", f"Batch norm + {name}", "affine", activation=name, baseline=("bn", "batch norm alone"))
    for name in ("relu6", "leaky_relu", "hardswish", "hard_sigmoid", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh",
                 "mish", "softplus", "elu"))
HALVES = (
    Operation("bn_float16", "float16: inference", "affine", "float16", baseline=("bn", "float32")),
    Operation("bn_bfloat16", "bfloat16: inference", "affine", "bfloat16", baseline=("bn", "float32")),
    Operation("training_float32", "float32: training, for comparison", "training"),
    Operation("training_float16", "float16: training", "training", "float16",
              baseline=("training_float32", "float32")),
    Operation("training_bfloat16", "bfloat16: training", "training", "bfloat16",
              baseline=("training_float32", "float32")),
)
IMAGES = Operation("images", "Images: uint8 NHWC to float32 NCHW", "images", "uint8")
PLAN = Operation("plan", "Small call: a bound plan", "plan")
MOMENTS = Operation("moments", "ChannelStats.update, float32", "moments")
MOMENTS_UINT8 = Operation("moments_uint8", "ChannelStats.update, uint8", "moments", "uint8")
SEQUENCES = (
    Operation("sequences", "Training on sequences, no padding", "sequences"),
    Operation("padded", "Training on sequences, half of the steps padding", "padded",
              baseline=("sequences", "no padding")),
)
GROUPS = 32     # of group norm
ROW_NORMS = tuple(Operation(f"{name}_norm{suffix}", f"{title}{text}", f"{name}_norm{suffix}")
                  for name, title in (("layer", "Layer norm"), ("rms", "RMS norm"))
                  for suffix, text in (("", ""), ("_backward", ", backward")))
CHANNEL_NORMS = tuple(Operation(f"{name}_norm{suffix}", f"{title}{text}", f"{name}_norm{suffix}")
                      for name, title in (("group", f"Group norm of {GROUPS} groups"), ("instance", "Instance norm"))
                      for suffix, text in (("", ""), ("_backward", ", backward")))
# `pytest benchmarks` measures these.
KERNELS = (
    *(op for op in TRAINING if not op.fresh),
    Operation("frozen_backward", "Backward, given statistics", "backward", frozen=True),
    Operation("relu", "Training + ReLU", "training", activation="relu"),
    Operation("residual_relu", "Training + residual + ReLU", "training", residual=True, activation="relu"),
)

SUITES = {suite.name: suite for suite in (
    Suite("training", "benchmarks", plan((TRAINING, CASES), ((STEP,), STEP_CASES), ((CALL,), SMALL_CALL))),
    Suite("inference", "inference", plan(
        (AFFINE, both((1, 64, 56, 56), (1, 256, 14, 14), (1, 2048, 7, 7), (8, 64, 28, 28), (8, 256, 28, 28),
                      (32, 64, 112, 112), (32, 256, 56, 56), (64, 512), (4096, 256))),
        (HALVES, both((1, 64, 56, 56), (8, 256, 28, 28), (32, 64, 112, 112), (32, 256, 56, 56), (32, 512, 28, 28))),
        ((IMAGES,), rows((1, 3, 224, 224), (8, 3, 224, 224), (32, 3, 224, 224), (1, 3, 1080, 1920))),
        ((PLAN,), SMALL_CALL),
        (ACTIVATIONS, both((32, 64, 112, 112), (8, 64, 28, 28))))),
    Suite("statistics", "statistics-benchmarks", plan(
        ((MOMENTS,), [*both((1, 64, 128, 128), (32, 64, 128, 128)), *rows((100_000, 64))]),
        ((MOMENTS_UINT8,), [*both((32, 3, 256, 128), (1024, 3, 256, 128)), *rows((64, 3, 224, 224))]),
        (SEQUENCES, rows((64, 256, 512), (64, 64, 512))))),
    Suite("family", "family-benchmarks", plan(
        (ROW_NORMS, rows((256, 64), (128, 768), (1024, 1024), (64, 8192), (8192, 768), (16384, 1024), (2048, 8192))),
        (CHANNEL_NORMS, both((32, 256, 56, 56), (8, 320, 64, 64), (1, 64, 256, 256), (32, 64, 14, 14))))),
)}
TINY_SUITES = {suite.name: suite for suite in (
    Suite("training", "benchmarks", plan(
        (TRAINING, TINY_CASES), ((STEP,), both((2, 8, 7, 7), (8, 24))), ((CALL,), SMALL_CALL))),
    Suite("inference", "inference", plan(
        (AFFINE, both((2, 8, 7, 7), (8, 24))), (HALVES, both((2, 8, 7, 7))), ((IMAGES,), rows((2, 3, 16, 16))),
        ((PLAN,), SMALL_CALL), (ACTIVATIONS, both((2, 8, 7, 7))))),
    Suite("statistics", "statistics-benchmarks", plan(
        ((MOMENTS, MOMENTS_UINT8), both((2, 3, 8, 8))), (SEQUENCES, rows((4, 64, 8))))),
    Suite("family", "family-benchmarks", plan(
        (ROW_NORMS, rows((8, 24))), (CHANNEL_NORMS, both((2, 64, 7, 7))))),
)}
OPERATIONS = {op.name: op for suite in SUITES.values() for op in suite.plan}


def filled(shape: Shape, seed: int) -> NDArray[np.float32]:
    """Return a new array of normal numbers, allocated by NumPy (which asks for huge pages) and warm."""
    pool = np.random.default_rng(seed).standard_normal(min(_POOL, math.prod(shape)), np.float32)
    return np.resize(pool, shape)


def parameters(channels: int) -> dict[str, NDArray[np.float32]]:
    """Return gamma, beta and given statistics of a layer."""
    rng = np.random.default_rng(7)
    return {
        "gamma": rng.uniform(0.5, 1.5, channels).astype(np.float32),
        "beta": rng.normal(0, 0.1, channels).astype(np.float32),
        "mean": rng.normal(0, 0.1, channels).astype(np.float32),
        "var": rng.uniform(0.5, 1.5, channels).astype(np.float32),
    }
