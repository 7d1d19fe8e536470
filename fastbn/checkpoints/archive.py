"""A file of named arrays, whatever its format; npz.py and safetensors.py know one format each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from fastbn.checkpoints.header import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Archive(ABC):
    """A file whose directory has been read and found to be right; arrays are read when asked for.

    Parameters
    ----------
    file : binary file
        Open for reading and seeking.

    Attributes
    ----------
    names : list of str
    metadata : dict of str to str

    Raises
    ------
    ValueError
        If the file is not as its format has it.
    """

    names: list[str]
    metadata: dict[str, str]

    @abstractmethod
    def __init__(self, file: BinaryIO) -> None:
        """Read the directory."""

    def under(self, prefix: str) -> list[str]:
        """Return the names that begin with a prefix, sorted, without a look at all others."""
        begin = end = bisect_left(self._sorted, prefix)
        while end < len(self._sorted) and self._sorted[end].startswith(prefix):
            end += 1
        return self._sorted[begin:end]

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.names)

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""

    @abstractmethod
    def read(self, name: str) -> NDArray[Any]:
        """Return one array, in native byte order."""

    @abstractmethod
    def entry(self, name: str) -> Any:
        """Return one array of any dtype as the file has it, for `dump`."""

    @staticmethod
    @abstractmethod
    def encode(array: NDArray[Any]) -> Any:
        """Return the entry of an array of float32, float64 or int64."""

    @staticmethod
    @abstractmethod
    def dump(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
        """Return the bytes of a file with these entries, which depend on nothing else."""


def read_exactly(file: IO[bytes], size: int, name: str) -> bytes:
    """Return that many bytes, those of an array, or raise an error if there are fewer."""
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"{shortened(name)} ends after {len(data)} of its {size} bytes")
    return data
