"""Named shapes, shared by the tests and the benchmarks, and the arrays made of them.

The kernels take 64 elements a step, sum up to 2048 in float before they go to double, and hand spans of 32768 to
threads: the lengths lie below, at and above each of these.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np

LAYOUTS = ("planes", "rows")
DTYPES = ("float32", "float64")


class Case(NamedTuple):
    """A named shape (N, C, *spatial)."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def count(self) -> int:
        """Values per channel."""
        return int(np.prod(self.shape)) // self.channels


def case(*shape: int) -> Case:
    return Case("x".join(map(str, shape)), shape)


CASES = (
    # one channel, and few
    case(5, 1), case(64, 1), case(2, 1, 64), case(3, 1, 2049), case(4, 3), case(1000, 3), case(7, 7, 1, 1),
    # small planes: below, at and above 64 lanes
    case(6, 7, 7, 7), case(40, 3, 7, 7), case(33, 64, 7, 7), case(5, 65, 63), case(5, 3, 64), case(5, 7, 65),
    case(9, 64, 14, 14), case(2, 3, 2, 3, 4), case(2, 3, 1, 2, 2, 3),
    # about the steps of a run, and about a span
    case(3, 3, 2047), case(3, 3, 2048), case(3, 3, 2049), case(2, 3, 32767), case(1, 3, 32768), case(2, 3, 32769),
    case(1, 1, 70001), case(700, 3, 49), case(17, 2, 4100),
    # a batch of one
    case(1, 64, 7, 7), case(1, 65, 64), case(1, 7, 196),
    # wide rows, one below, at and above a slab and a tile
    case(2, 64), case(33, 63), case(64, 64), case(31, 65), case(129, 128), case(600, 64), case(40, 1000),
    case(9, 1024), case(35, 1025), case(65, 2048), case(3, 1500, 2),
)
LARGE_CASES = (case(1100, 65), case(4000, 24), case(4, 40, 28, 28), case(2, 3, 130, 130), case(70, 1025))
EMPTY_CASES = (case(0, 3), case(0, 3, 4, 4), case(2, 3, 0), case(2, 3, 0, 5), case(2, 3, 5, 0))

BENCHMARK_SHAPES = tuple(case(*shape) for shape in (
    (32, 64, 112, 112), (32, 256, 56, 56), (32, 512, 28, 28), (32, 1024, 14, 14), (32, 2048, 7, 7),
    (1, 64, 56, 56), (1, 256, 14, 14), (1, 2048, 7, 7), (8, 64, 8, 8), (64, 512), (256, 1024), (4096, 256),
    (32, 128, 1000), (8, 3, 224, 224), (16, 40, 28, 28), (1, 64)))
TINY_SHAPES = (case(2, 8, 7, 7), case(4, 3, 16, 16), case(8, 24), case(1, 64))


class Inputs(NamedTuple):
    """What one call takes."""

    x: Any
    residual: Any
    dy: Any
    gamma: Any
    beta: Any
    mean: Any
    var: Any
    axis: int


def axis_of(layout: str) -> int:
    return {"planes": 1, "rows": -1}[layout]


def arranged(x: Any, layout: str) -> Any:
    """(N, C, *spatial) as it is, or with the channels last."""
    return x if layout == "planes" else np.ascontiguousarray(np.moveaxis(x, 1, -1))


def array(c: Case, layout: str, dtype: Any = np.float32, mean: float = 0.0, std: float = 1.0, seed: int = 0) -> Any:
    """Normal values of a case, the same in both layouts."""
    rng = np.random.default_rng([zlib.crc32(c.name.encode()), seed])
    return arranged((mean + std * rng.standard_normal(c.shape)).astype(dtype), layout)


def inputs(c: Case, layout: str, dtype: Any = np.float32) -> Inputs:
    """Everything that a forward and a backward of a case take; the parameters have the dtype of x."""
    rng = np.random.default_rng(c.channels)
    scale, shift, mean = (rng.standard_normal(c.channels).astype(dtype) for _ in range(3))
    return Inputs(
        x=array(c, layout, dtype, 0.5, 2.0), residual=array(c, layout, dtype, seed=1),
        dy=array(c, layout, dtype, seed=2),
        gamma=scale, beta=shift, mean=mean, var=(mean * mean + 0.5).astype(dtype), axis=axis_of(layout))
