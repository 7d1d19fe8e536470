"""What is measured on what: the shapes of tests/cases.py in both memory layouts, and arrays of that shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.cases import BENCHMARK_SHAPES, LAYOUTS, TINY_SHAPES, axis_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

MB = 1 << 20
_POOL = 1 << 20  # drawing every number of a large array would take longer than measuring on it


@dataclass(frozen=True)
class Case:
    """A shape in one memory layout.

    Attributes
    ----------
    shape : tuple of int
        With the channels second, whatever the layout: (N, C, ...).
    layout : {"planes", "rows"}
        Channels first, or last.
    """

    shape: tuple[int, ...]
    layout: str

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Return the case of what `dataclasses.asdict` made, after a way through JSON."""
        return cls(tuple(fields["shape"]), fields["layout"])

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
        return axis_of(self.layout)

    @property
    def array_shape(self) -> tuple[int, ...]:
        """The shape with the axes in the order of memory."""
        n, channels, *spatial = self.shape
        return self.shape if self.layout == "planes" else (n, *spatial, channels)

    @property
    def learns(self) -> bool:
        """Whether there is more than one value per channel, so that there is a variance."""
        return self.size > self.channels

    def array(self, seed: int) -> NDArray[np.float32]:
        """Return normal numbers in the order of memory."""
        return filled(self.array_shape, seed)


def cases(tiny: bool = False) -> list[Case]:
    """Return every shape in every layout it has; (N, C) is rows."""
    shapes = [named.shape for named in (TINY_SHAPES if tiny else BENCHMARK_SHAPES)]
    return [Case(shape, layout) for shape in shapes for layout in LAYOUTS if len(shape) > 2 or layout == "rows"]


def filled(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Return a new array of normal numbers, its memory from NumPy (which asks for huge pages) and warm."""
    pool = np.random.default_rng(seed).standard_normal(min(_POOL, math.prod(shape)), np.float32)
    flat = np.empty(math.prod(shape), np.float32)
    for start in range(0, flat.size, pool.size):
        part = flat[start:start + pool.size]
        part[...] = pool[:part.size]
    return flat.reshape(shape)


def parameters(channels: int) -> dict[str, NDArray[np.float32]]:
    """Return gamma, beta and given statistics of a layer."""
    rng = np.random.default_rng(7)
    return {
        "gamma": rng.uniform(0.5, 1.5, channels).astype(np.float32),
        "beta": rng.normal(0, 0.1, channels).astype(np.float32),
        "mean": rng.normal(0, 0.1, channels).astype(np.float32),
        "var": rng.uniform(0.5, 1.5, channels).astype(np.float32),
    }
