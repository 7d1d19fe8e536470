"""The interface of a file format: named arrays and text metadata."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Archive(ABC):
    """An open file with a validated directory; arrays are read on request.

    Parameters
    ----------
    file : binary file
        Open for reading and seeking.

    Attributes
    ----------
    names : list of str
        Array names.
    metadata : dict of str to str

    Raises
    ------
    ValueError
        If the file is malformed.
    """

    names: list[str]
    metadata: dict[str, str]

    @abstractmethod
    def __init__(self, file: BinaryIO) -> None:
        """Read and check the directory."""

    def under(self, prefix: str) -> list[str]:
        """Return the names that begin with a prefix, sorted; the search does not visit the other names."""
        begin = end = bisect_left(self._sorted, prefix)
        while end < len(self._sorted) and self._sorted[end].startswith(prefix):
            end += 1
        return self._sorted[begin:end]

    def has(self, prefix: str) -> bool:
        """Return whether a name begins with a prefix."""
        first = bisect_left(self._sorted, prefix)
        return first < len(self._sorted) and self._sorted[first].startswith(prefix)

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.names)

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""

    @abstractmethod
    def read(self, name: str) -> NDArray[Any]:
        """Return one array in native byte order.

        Raises
        ------
        ValueError
            If the array is malformed, or has a dtype that is not supported.
        """

    @abstractmethod
    def entry(self, name: str) -> Any:
        """Return one array of any dtype in its stored form, as `dump` accepts it."""

    @staticmethod
    @abstractmethod
    def encode(array: NDArray[Any]) -> Any:
        """Return the stored form of an array of float32, float64 or int64."""

    @staticmethod
    @abstractmethod
    def dump(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
        """Return the bytes of a file. Equal arguments give equal bytes.

        Parameters
        ----------
        entries : mapping of str to object
            Stored forms by name.
        metadata : mapping of str to str

        Raises
        ------
        ValueError
            If the format has no room for the metadata.
        """
