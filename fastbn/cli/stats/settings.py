"""Settings of a run, from the options of the command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastbn.cli.stats.limits import MOST_MEMORY

if TYPE_CHECKING:
    from fastbn.statistics.selection import NanPolicy


@dataclass(frozen=True)
class Missing:
    """Which values are missing, each in its own channel.

    Attributes
    ----------
    nan : {"propagate", "raise", "omit"}
        Treatment of NaN: it makes its channel NaN, is an error, or is missing.
    nodata : int, float or None
        Values equal to it are missing. It is rounded to the dtype of an array first; no value of an integer array
        equals a fraction or a number outside the range of the dtype.
    """

    nan: NanPolicy = "propagate"
    nodata: int | float | None = None

    @property
    def some(self) -> bool:
        """Whether any value can be missing."""
        return self.nan == "omit" or self.nodata is not None


NOTHING_MISSING = Missing()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which values count, and how they are read.

    Attributes
    ----------
    axis : int
        The channel axis of arrays; that of images is always the last.
    members : tuple of str
        Names of the arrays to read from npz archives; all arrays if empty.
    threads : int or None
    missing : Missing
    convert : {"RGB", "L", "none"}
        The mode to which images are converted.
    max_memory : int
        Bytes that the statistics, an image or a Zarr chunk may take.
    """

    axis: int = -1
    members: tuple[str, ...] = ()
    threads: int | None = None
    missing: Missing = NOTHING_MISSING
    convert: str = "none"
    max_memory: int = MOST_MEMORY
