"""The .npz file of channel statistics."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from fastbn._core.files import check_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise an error unless the path of a new file ends in .npz; files with other names can be read."""
    check_path(path)
    if not os.fsdecode(path).lower().endswith(".npz"):
        raise ValueError(f"path must end in .npz, got {os.fspath(path)!r}")


def dump(arrays: Mapping[str, NDArray[np.float64]], axis: int) -> bytes:
    """Return the bytes of a file with these arrays and this channel axis."""
    data = io.BytesIO()
    flags = {"axis": np.array(axis, np.int64), "extrema": np.array("min" in arrays, np.int64)}
    np.savez(data, **flags, **arrays)  # type: ignore[arg-type]
    return data.getvalue()


def read(file: BinaryIO) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the arrays and the channel axis.

    Raises
    ------
    ValueError
        If it is not such a file.
    """
    from fastbn._core.npz import NpzReader  # imports zipfile, which takes milliseconds

    archive = NpzReader(file)
    arrays = {name: archive.read(name) for name in archive.names}
    numbers = {}
    for name in ("axis", "extrema"):
        number = arrays.pop(name, None)
        if number is None or number.shape != () or number.dtype.kind != "i":
            raise ValueError(f"{name} is missing or not an integer; was this file written by ChannelStats.save?")
        numbers[name] = int(number)
    if numbers["extrema"] != ("min" in arrays):
        raise ValueError("min does not agree with the flag extrema; the file is damaged")
    return arrays, numbers["axis"]
