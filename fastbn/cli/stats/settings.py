"""What the options of a run decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastbn.cli.stats.limits import MOST_MEMORY
from fastbn.cli.stats.missing import ALL_COUNT, Missing

if TYPE_CHECKING:
    from fastbn.cli.stats.kind import Kind


@dataclass(frozen=True)
class Settings:
    """What decides which values are counted, and how.

    Attributes
    ----------
    axis : int
        The channel axis of arrays; that of images is always the last.
    members : tuple of str
        Which arrays of npz archives; all if empty.
    threads : int or None
    missing : Missing
        Which values do not count.
    convert : str
        The mode to which images are converted: "RGB", "L" or "none".
    max_memory : int
        Bytes that channels, an image or a chunk may take.
    expected : Kind or None
        What the first input must be; that of most, if they were asked.
    """

    axis: int = -1
    members: tuple[str, ...] = ()
    threads: int | None = None
    missing: Missing = ALL_COUNT
    convert: str = "none"
    max_memory: int = MOST_MEMORY
    expected: Kind | None = None
