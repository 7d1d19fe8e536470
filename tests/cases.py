"""Named shapes that tests and benchmarks share, and arrays of these shapes.

The kernels change their method at some sizes: of steps, flushes, slabs and units. The shapes lie below, at and above
each of these sizes. The kernels report the sizes, so the shapes follow if one changes. `planes` reads runs of S
elements, one for each sample and channel; `rows` reads N * S rows of C columns.
"""

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np

from fastbn._core.dispatch import kernels

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

    @property
    def layouts(self) -> tuple[str, ...]:
        """The layouts that differ: arrays (N, C) are rows in both."""
        return LAYOUTS if len(self.shape) > 2 else ("rows",)


def case(*shape: int) -> Case:
    return Case("x".join(map(str, shape)), shape)


def cases(*shapes: tuple[int, ...]) -> tuple[Case, ...]:
    """The cases of these shapes, each of them once."""
    return tuple(case(*shape) for shape in dict.fromkeys(shapes))


def around(size: int) -> tuple[int, int, int]:
    return size - 1, size, size + 1


SIZES = kernels.sizes()
LANES, TILE, SLAB, SPAN, FEW = (SIZES[name] for name in ("lanes", "tile", "slab", "span", "few"))
RUN_STEP = 4 * LANES                        # elements of a run that one step reduces
FLUSH = SIZES["flush_planes"] * RUN_STEP    # elements of a run after which its lanes go to double
ROWS = SIZES["flush_rows"] + 11             # one flush of rows, then steps of four rows, then three single rows

# For tests that need one shape.
FEW_ROWS, MANY_ROWS = case(4, 3), case(1000, 3)
ODD_PLANES, SMALL_PLANES, PLANES = case(6, 7, 7, 7), case(9, TILE, 7, 7), case(3, TILE, 14, 14)
LARGE_PLANES, LARGE_ROWS = case(4, 40, 28, 28), case(SIZES["most_rows"] + 76, TILE + 1)

NETWORKS = (
    (5, 1), FEW_ROWS.shape, MANY_ROWS.shape, (7, 7, 1, 1), (40, 1000), (2, 3, 2, 3, 4), (2, 3, 1, 2, 2, 3),
    (1, TILE, 7, 7), (1, 7, 14, 14), (40, 3, 7, 7), ODD_PLANES.shape, SMALL_PLANES.shape, PLANES.shape)
RUNS = (
    # The one to four pieces of a step, the flush of the lanes, and two flushes.
    *((2, 3, s) for pieces in (1, 2, 3, 4) for s in around(pieces * LANES)),
    *((2, 3, s) for s in (*around(FLUSH), 2 * FLUSH + RUN_STEP + 1)),
    # Few values per channel; all samples of a pivot; the elements of float16 that are converted at a time.
    *((1, 3, s) for s in around(FEW)),
    *((1, 3, s) for s in around(SIZES["pivot"])),
    *((2, 3, s) for s in around(SIZES["stage"])),
    # Channels abreast, and one channel alone.
    *((2, c, 7, 7) for c in around(SIZES["abreast"])), (1, TILE + 1, RUN_STEP), (2, 1, RUN_STEP),
    # One plane of several spans, and one span of several planes.
    (2, 3, SPAN - 1), (1, 3, SPAN), (2, 3, SPAN + 1), (1, 1, 2 * SPAN + FLUSH + 1), (SPAN // 49 + 1, 3, 7, 7),
    (2 * (SPAN // 4100) + 3, 2, 4100))
COLUMNS = (
    # Short and long steps over columns. Three rows are too few to form wide rows.
    *((3, c) for size in (LANES, SIZES["step"], TILE) for c in around(size)),
    *((ROWS, c) for size in (TILE, 2 * TILE) for c in around(size)),
    # Columns side by side, and several slabs.
    *((9, c) for size in ("doubles", "sums", "narrow", "slab") for c in around(SIZES[size])),
    (TILE + 1, 2 * SLAB), (3, 3 * SLAB // 2, 2),
    # Rows of float64, float32 and float16 that are longer than LONG_ROW bytes.
    *((5, SIZES["long_row"] // itemsize + 1) for itemsize in (8, 4, 2)),
    # The rows of a flush and of a pivot, and few rows. Wide rows, with some rows left over.
    *((r, TILE) for size in ("flush_exact", "pivot_rows", "flush_rows", "few") for r in around(SIZES[size])),
    *((r, 3) for r in (*around(FEW), *around(2 * TILE))), (TILE, 1),
    # The rows of a unit: at most, at least, and between.
    *((r, TILE + 1) for r in around(SIZES["most_rows"])),
    (SIZES["least_rows"] + 1, SIZES["unit_elements"] // SIZES["least_rows"]),
    (SIZES["unit_elements"] // SLAB + 1, SLAB))

CASES = cases(*NETWORKS, *RUNS, *COLUMNS)
# One case of each kind.
SAMPLE_CASES = cases(
    *NETWORKS, (2, 3, RUN_STEP + 1), (2, 3, FLUSH + 1), (1, 2, SPAN + 1),
    (3, LANES + 1), (ROWS, TILE + 1), (9, SLAB + 1))
# Enough work for several threads; smaller calls run on one thread.
LARGE_CASES = (LARGE_PLANES, LARGE_ROWS, *cases((2, 3, 130, 130), (4000, 24), (70, SLAB + 1)))
# For statistics of bytes: runs and columns whose sums of 16 bits go to double, and several units.
BYTE_CASES = cases(
    *((1, 2, TILE * n) for n in around(SIZES["bytes_rows"])), *((n, TILE + 1) for n in around(SIZES["bytes_rows"])),
    (SIZES["bytes_unit"] // 49 + 2, 2, 49), (SIZES["bytes_unit"] // TILE, TILE + 1))
EMPTY_CASES = cases((0, 3), (0, 3, 4, 4), (2, 3, 0), (2, 3, 0, 5), (2, 3, 5, 0))


class Inputs(NamedTuple):
    """The arguments of one call."""

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
    """(N, C, *spatial) unchanged, or with the channels last."""
    return x if layout == "planes" else np.ascontiguousarray(np.moveaxis(x, 1, -1))


@functools.lru_cache(maxsize=32)
def normal(c: Case, seed: int) -> Any:
    """Normal values of a case, which many tests in a row share."""
    values = np.random.default_rng([zlib.crc32(c.name.encode()), seed]).standard_normal(c.shape)
    values.flags.writeable = False
    return values


def array(c: Case, layout: str, dtype: Any = np.float32, mean: float = 0.0, std: float = 1.0, seed: int = 0) -> Any:
    """Normal values of a case, the same in both layouts."""
    return arranged((mean + std * normal(c, seed)).astype(dtype), layout)


def inputs(c: Case, layout: str, dtype: Any = np.float32) -> Inputs:
    """The arguments of a forward pass and a backward pass of a case; the parameters have the dtype of x."""
    rng = np.random.default_rng(c.channels)
    scale, shift, mean = (rng.standard_normal(c.channels).astype(dtype) for _ in range(3))
    return Inputs(
        x=array(c, layout, dtype, 0.5, 2.0), residual=array(c, layout, dtype, seed=1),
        dy=array(c, layout, dtype, seed=2),
        gamma=scale, beta=shift, mean=mean, var=(mean * mean + 0.5).astype(dtype), axis=axis_of(layout))
