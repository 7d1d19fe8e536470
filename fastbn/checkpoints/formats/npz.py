"""The npz format, a ZIP archive of npy files, with metadata as JSON in the archive's comment."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from fastbn._core.npz import MOST_COMMENT_BYTES, NpzReader
from fastbn.checkpoints.formats.archive import Archive
from fastbn.checkpoints.formats.json_scanner import Scanner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Entry(NamedTuple):
    """A member of an archive: an npy file, and how to compress it."""

    data: bytes
    compression: int = zipfile.ZIP_STORED


class Npz(Archive):
    """An open npz archive."""

    def __init__(self, file: BinaryIO) -> None:
        self._reader = NpzReader(file)
        self.names: list[str] = self._reader.names
        self.metadata: dict[str, str] = _metadata(self._reader.comment)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, which is read for this."""
        return self._reader.read(name).shape

    def read(self, name: str) -> NDArray[Any]:
        """Return one array in native byte order."""
        return self._reader.read(name)

    def entry(self, name: str) -> Entry:
        """Return one array of any dtype in its stored form."""
        return Entry(self._reader.member(name), self._reader.compression(name))

    @staticmethod
    def encode(array: NDArray[Any]) -> Entry:
        """Return the stored form of an array."""
        npy = io.BytesIO()
        np.lib.format.write_array(npy, array, allow_pickle=False)
        return Entry(npy.getvalue())

    @staticmethod
    def dump(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
        """Return the bytes of an archive."""
        comment = json.dumps(dict(metadata)).encode() if metadata else b""
        if len(comment) > MOST_COMMENT_BYTES:
            raise ValueError(f"the settings of these layers take {len(comment)} bytes; an npz file has room for "
                             f"{MOST_COMMENT_BYTES}; use safetensors")
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, entry in entries.items():
                info = zipfile.ZipInfo(f"{name}.npy")   # a fixed date, so that equal arrays give equal bytes
                info.compress_type = entry.compression
                archive.writestr(info, entry.data)
            archive.comment = comment
        return file.getvalue()


def _metadata(comment: bytes) -> dict[str, str]:
    if not comment:
        return {}
    try:
        scanner = Scanner(comment.decode())
        metadata = {key: scanner.string() for key in scanner.members()}
        scanner.end()
    except ValueError as error:
        raise ValueError(f"the archive's comment is not metadata: {error}") from None
    return metadata
