"""A strict reader of NumPy's npz format: a ZIP archive of npy files.

Nothing in a file is unpickled or evaluated, and the size of the file bounds the memory in use. The npy format is
documented at https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, ZIP in PKWARE's APPNOTE.TXT.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from fastbn._core.checks import check_complete, shortened

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Constant vectors deflate to a thousandth of their size: a new layer of 2**15 channels must still fit.
LEAST_EXPANDED_BYTES = 1 << 20
MOST_EXPANSION = 32
MOST_DIRECTORY_BYTES = 1 << 19
MOST_MEMBERS = 4096
MOST_NPY_HEADER_BYTES = 1024
MOST_COMMENT_BYTES = 0xFFFF

DTYPES = ("f8", "f4", "f2", "i8", "i4")
# The header that numpy.save and common other writers produce for plain dtypes. numpy.load evaluates it as Python.
_NPY_HEADER = re.compile(
    r"\{ ?'descr': ?'([^']{1,20})', ?'fortran_order': ?(True|False), ?"
    r"'shape': ?\((|[0-9]{1,18},|[0-9]{1,18}(?:, ?[0-9]{1,18}){1,31})\),? ?\} *\n?")
_END = struct.Struct("<4s4H2LH")      # end of central directory: magic, disks, entries, size, offset, comment
_END_MAGIC = b"PK\5\6"
_ZIP64_LOCATOR_MAGIC = b"PK\6\7"
_ZIP64_LOCATOR_BYTES = 20
_ENCRYPTED = 0x1
# zipfile raises these for damaged archives; RuntimeError includes NotImplementedError.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError, RuntimeError, UnicodeDecodeError)


class NpzReader:
    """An open npz archive with a validated directory; arrays are read on request.

    Parameters
    ----------
    file : binary file
        Open for reading and seeking.

    Attributes
    ----------
    names : list of str
        Array names, without ``.npy``.
    comment : bytes
        The comment of the ZIP archive.

    Raises
    ------
    ValueError
        If the archive is malformed.
    """

    names: list[str]
    comment: bytes

    def __init__(self, file: BinaryIO) -> None:
        size = file.seek(0, os.SEEK_END)
        _check_directory(file, size)
        try:
            archive = zipfile.ZipFile(file)
        except _ZIP_ERRORS as error:
            raise ValueError(f"the archive's directory is damaged: {error}") from None
        self._archive = archive
        self._members = _members(archive, size)
        self._left = max(LEAST_EXPANDED_BYTES, MOST_EXPANSION * size)
        self._arrays: dict[str, NDArray[Any]] = {}
        self.names = list(self._members)
        self.comment = archive.comment

    def read(self, name: str) -> NDArray[Any]:
        """Return one array in native byte order.

        Raises
        ------
        ValueError
            If the member is malformed, or has a dtype that is not supported.
        """
        if name not in self._arrays:
            self._arrays[name] = _parse_npy(self.member(name), name)
        return self._arrays[name]

    def member(self, name: str) -> bytes:
        """Return the npy file of one array, of any dtype.

        Raises
        ------
        ValueError
            If the member is damaged, or expands beyond the limit.
        """
        member = self._members[name]
        if member.flag_bits & _ENCRYPTED:
            raise ValueError(f"{shortened(name)} is encrypted")
        # zipfile bounds the expansion of one read only for these methods.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{shortened(name)} has compression method {member.compress_type}; expected stored or "
                             "deflated")
        if member.file_size > self._left:
            raise ValueError(f"{shortened(name)} expands to {member.file_size} bytes; expected no more than "
                             f"{MOST_EXPANSION} times the file, or {LEAST_EXPANDED_BYTES}, in all that is read")
        self._left -= member.file_size
        try:
            with self._archive.open(member) as file:
                # An unbounded read would expand everything.
                return check_complete(file.read(member.file_size), member.file_size, name)
        except _ZIP_ERRORS as error:
            raise ValueError(f"{shortened(name)} is damaged: {error}") from None

    def compression(self, name: str) -> int:
        """Return the compression method of a member, as a constant of `zipfile`."""
        return self._members[name].compress_type


def _check_directory(file: BinaryIO, size: int) -> None:
    # zipfile builds an object for each entry of the directory, so limit the directory first.
    file.seek(0)
    if file.read(4) not in (b"PK\3\4", _END_MAGIC[:4]):
        raise ValueError("the file is not an npz archive")
    start = max(0, size - _END.size - MOST_COMMENT_BYTES - _ZIP64_LOCATOR_BYTES)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(_END_MAGIC)
    if at < 0 or at + _END.size > len(tail):
        raise ValueError("the archive has no end of its directory; it may have been cut short")
    _, disk, first_disk, here, entries, length, offset, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise ValueError("the archive does not end where its directory says")
    if tail[max(0, at - _ZIP64_LOCATOR_BYTES):at].startswith(_ZIP64_LOCATOR_MAGIC):
        raise ValueError("the archive is a ZIP64 archive, which npz files of less than 4 GB are not; use safetensors")
    if disk or first_disk or here != entries:
        raise ValueError("the archive is one part of several")
    if entries > MOST_MEMBERS or length > MOST_DIRECTORY_BYTES:
        raise ValueError(f"the archive has {entries} members in a directory of {length} bytes; expected no more than "
                         f"{MOST_MEMBERS} in {MOST_DIRECTORY_BYTES}")
    if offset + length != start + at:
        raise ValueError(f"the archive's directory of {length} bytes at byte {offset} does not reach its end at byte "
                         f"{start + at}")


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        path = member.orig_filename
        if path != member.filename or "\\" in path or ":" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise ValueError(f"the archive has a member {shortened(path)}; expected a plain relative path")
        if not path.endswith(".npy"):
            raise ValueError(f"the archive has a member {shortened(path)}; expected names that end in .npy")
        if path.removesuffix(".npy") in members:
            raise ValueError(f"the archive has the member {shortened(path)} twice")
        if not 0 <= member.header_offset < size:
            raise ValueError(f"the archive's member {shortened(path)} begins at byte {member.header_offset} of {size}")
        members[path.removesuffix(".npy")] = member
    return members


def _parse_npy(data: bytes, name: str) -> NDArray[Any]:
    magic, version = data[:6], tuple(data[6:8])
    if magic != b"\x93NUMPY" or version not in ((1, 0), (2, 0)):
        raise ValueError(f"{shortened(name)} begins with {data[:8]!r}; expected npy format 1.0 or 2.0")
    start = 10 if version == (1, 0) else 12
    begin = start + int.from_bytes(data[8:start], "little")
    header = None
    if begin <= len(data) and begin - start <= MOST_NPY_HEADER_BYTES:
        header = _NPY_HEADER.fullmatch(data[start:begin].decode("latin-1"))
    if header is None:
        found = shortened(data[start:begin][:100].decode("latin-1"))
        raise ValueError(f"{shortened(name)} has the npy header {found}; expected what numpy.save writes for a vector")
    descr, fortran, dimensions = header.groups()
    if descr[0] not in "<>" or descr[1:] not in DTYPES:
        raise ValueError(f"{shortened(name)} has dtype {descr!r}; expected one of {', '.join(DTYPES)}")
    if fortran == "True":
        raise ValueError(f"{shortened(name)} is in Fortran order; expected a vector, which has none")
    shape = tuple(int(n) for n in dimensions.split(",") if n)
    dtype = np.dtype(descr)
    if math.prod(shape) * dtype.itemsize != len(data) - begin:
        raise ValueError(f"{shortened(name)} has {len(data) - begin} bytes, which are not shape {shape} of {descr}")
    return np.frombuffer(data, dtype, offset=begin).reshape(shape).astype(dtype.newbyteorder("="))
