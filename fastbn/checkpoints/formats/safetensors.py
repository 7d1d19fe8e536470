"""The safetensors format, https://huggingface.co/docs/safetensors#format.

A file consists of the length of the header (8 bytes, little-endian), the header (JSON), and the data of all tensors
without gaps. The header gives dtype, shape and data_offsets of each tensor, and strings under ``__metadata__``.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from fastbn._core.checks import check_complete, shortened
from fastbn.checkpoints.formats.archive import Archive
from fastbn.checkpoints.formats.json_scanner import INTEGERS, SPACE, Scanner, integers_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# About 100,000 tensors, which take half a second to read. The format allows ten times as much.
MOST_HEADER_BYTES = 10_000_000
METADATA = "__metadata__"
BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
# An entry with its members in the usual order; other entries are read member by member, at half the speed.
_ENTRY = re.compile(SPACE.join((
    "", r"\{", '"dtype"', ":", '"([A-Z0-9_]{1,20})"', ",", '"shape"', ":", INTEGERS, ",", '"data_offsets"', ":",
    INTEGERS, r"\}")))
WRITTEN = {"float64": "F64", "float32": "F32", "int64": "I64"}


class Tensor(NamedTuple):
    """The dtype, the shape and the position of a tensor in the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Entry(NamedTuple):
    """A tensor in its stored form."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Safetensors(Archive):
    """An open safetensors file."""

    def __init__(self, file: BinaryIO) -> None:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not size:
            raise ValueError("the file is empty; expected a header and tensors")
        if size < 10 or length > min(size - 8, MOST_HEADER_BYTES):
            raise ValueError(f"header of {length} bytes does not fit; the file has {size} bytes, and headers of up to "
                             f"{MOST_HEADER_BYTES} are read")
        header = file.read(length)
        if not header.startswith(b"{"):
            raise ValueError(f"header begins with {header[:1]!r}; expected {b'{'!r}")
        self._file = file
        self._data = 8 + length
        try:
            text = header.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"header is not UTF-8: {error.reason} at byte {error.start}") from None
        self._tensors, metadata = _parse(text)
        _check_tiling(self._tensors, size - self._data)
        self.names: list[str] = list(self._tensors)
        self.metadata: dict[str, str] = metadata

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, without reading its data."""
        return self._tensors[name].shape

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor in native byte order; bfloat16 becomes float32, without loss."""
        dtype = self._tensors[name].dtype
        if dtype not in DTYPES:
            raise ValueError(f"{shortened(name)} has dtype {dtype}; expected one of {', '.join(DTYPES)}")
        _, shape, data = self.entry(name)
        array = np.frombuffer(data, DTYPES[dtype]).reshape(shape)
        if dtype == "BF16":  # the upper half of a float32
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(array.dtype.newbyteorder("="))

    def entry(self, name: str) -> Entry:
        """Return one tensor of any dtype in its stored form."""
        dtype, shape, begin, end = self._tensors[name]
        self._file.seek(self._data + begin)
        return Entry(dtype, shape, check_complete(self._file.read(end - begin), end - begin, name))

    @staticmethod
    def encode(array: NDArray[Any]) -> Entry:
        """Return the stored form of an array of float32, float64 or int64."""
        return Entry(WRITTEN[array.dtype.name], array.shape, array.astype(array.dtype.newbyteorder("<")).tobytes())

    @staticmethod
    def dump(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
        """Return the bytes of a file."""
        # Wide dtypes first, and a header whose length is a multiple of eight, so that every tensor is aligned.
        order = sorted(entries, key=lambda name: (-BITS[entries[name].dtype], name))
        header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
        at = 0
        for name in order:
            dtype, shape, data = entries[name]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
            at += len(data)
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return b"".join((len(text).to_bytes(8, "little"), text, *(entries[name].data for name in order)))


def _parse(text: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    scanner = Scanner(text)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in scanner.members():
        if name == METADATA:
            metadata = {key: scanner.string() for key in scanner.members()}
        else:
            tensors[name] = _parse_tensor(scanner, name)
    scanner.end()
    return tensors, metadata


def _parse_tensor(scanner: Scanner, name: str) -> Tensor:
    found = scanner.match(_ENTRY)
    dtype, shape, offsets = _members(scanner, name) if found is None else (
        found[1], integers_of(found[2]), integers_of(found[3]))
    if dtype not in BITS:
        raise ValueError(f"{shortened(name)} has dtype {shortened(dtype)}; expected one of {', '.join(BITS)}")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{shortened(name)} has data_offsets {offsets}; expected (begin, end)")
    begin, end = offsets
    if math.prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise ValueError(f"{shortened(name)} has {end - begin} bytes, which are not shape {shape} of {dtype}")
    return Tensor(dtype, shape, begin, end)


def _members(scanner: Scanner, name: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    dtype = shape = offsets = None
    for key in scanner.members():
        if key == "dtype":
            dtype = scanner.string()
        elif key == "shape":
            shape = scanner.integers()
        elif key == "data_offsets":
            offsets = scanner.integers()
        else:
            raise ValueError(f"{shortened(name)} has the key {shortened(key)}; expected dtype, shape, data_offsets")
    if dtype is None or shape is None or offsets is None:
        raise ValueError(f"{shortened(name)} must have dtype, shape and data_offsets")
    return dtype, shape, offsets


def _check_tiling(tensors: Mapping[str, Tensor], size: int) -> None:
    # The format requires that every byte belongs to exactly one tensor.
    for name, tensor in tensors.items():
        if tensor.end > size:
            raise ValueError(f"{shortened(name)} ends at byte {tensor.end} of the data, which have {size}")
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at:
            raise ValueError(f"{shortened(name)} begins at byte {tensor.begin} of the data; expected {at}, the end of "
                             "the one before it")
        at = tensor.end
    if at < size:
        raise ValueError(f"tensors end at byte {at} of the data, which have {size}")
