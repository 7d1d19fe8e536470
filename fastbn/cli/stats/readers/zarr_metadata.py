"""The metadata of a Zarr folder, checked before Zarr reads them.

Zarr runs every codec that the metadata name, and one of them, pickle, can execute arbitrary code.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from fastbn._core.checks import shortened
from fastbn._core.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

ARRAY, GROUP = ".zarray", ".zgroup"     # metadata files of version 2 of the format
NODE = "zarr.json"                      # of version 3, for arrays and groups

# Codecs between numbers and bytes. Others, such as pickle, json2 and msgpack2, create Python objects.
CODECS = ("blosc", "bytes", "bz2", "crc32c", "delta", "gzip", "lz4", "lzma", "shuffle", "transpose", "zlib", "zstd")
SHARDING = "sharding_indexed"           # a codec that contains codecs
NUMCODECS = "numcodecs."                # prefix in version 3 for names of version 2
NUMBERS = re.compile(r"[<>|][biufc][0-9]{1,2}|bool|(u?int|float|complex)[0-9]{1,3}")
MOST_BYTES = 1 << 24                    # of metadata, which may include the attributes of a whole group


def is_zarr(folder: str) -> bool:
    """Return whether a folder is a Zarr array or group."""
    return any(_has(folder, name) for name in (ARRAY, GROUP, NODE))


def array_version(folder: str) -> int | None:
    """Return the version of the format of an array, or None for a group.

    Raises
    ------
    OSError
        If the metadata cannot be read.
    ValueError
        If they are invalid, or name a codec or a dtype that is not allowed.
    """
    version = None
    if _has(folder, ARRAY):
        _check_array_2(_read(folder, ARRAY))
        version = 2
    if _has(folder, NODE):
        node = _read(folder, NODE)
        if node.get("node_type") != "group":
            _check_array_3(node)
            version = 3
    return version


def arrays_in(group: str) -> list[str]:
    """Return the names of the arrays of a group."""
    with os.scandir(group) as entries:
        return sorted(entry.name for entry in entries if _has(entry.path, ARRAY) or (
            _has(entry.path, NODE) and _read(entry.path, NODE).get("node_type") != "group"))


def _has(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))


def _read(folder: str, name: str) -> dict[str, Any]:
    with open_regular(os.path.join(folder, name)) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES} bytes")
    try:
        content = json.loads(data.decode())     # json would accept other encodings than UTF-8
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name} is not a JSON object")
    return content


def _check_array_2(content: dict[str, Any]) -> None:
    filters = _field(content, "filters", list, type(None)) or []
    compressor = _field(content, "compressor", dict, type(None))
    for codec in [*filters, *([compressor] if compressor else [])]:
        _check_name(codec, "id")
    _check_dtype(content, "dtype")
    _check_sizes(content, content)


def _check_array_3(content: dict[str, Any]) -> None:
    for codec in _codecs(content):
        _check_name(codec, "name")
    if content.get("storage_transformers"):
        raise ValueError("it has storage transformers, which are not supported")
    _check_dtype(content, "data_type")
    chunks = _field(content, "chunk_grid", dict)
    if chunks.get("name") != "regular":
        raise ValueError(f"it has a chunk grid {shortened(str(chunks.get('name')))}; expected 'regular'")
    _check_sizes(content, _field(chunks, "configuration", dict), "chunk_shape")


def _codecs(content: dict[str, Any], key: str = "codecs") -> Iterator[Any]:
    """Yield all codecs; those inside a sharding codec replace it."""
    for codec in _field(content, key, list):
        if isinstance(codec, dict) and codec.get("name") == SHARDING:
            inner = _field(codec, "configuration", dict)
            yield from _codecs(inner)
            yield from _codecs(inner, "index_codecs")
        else:
            yield codec


def _field(content: dict[str, Any], key: str, *types: type) -> Any:
    value = content.get(key)
    if not isinstance(value, types):
        raise ValueError(f"it has {key} {shortened(json.dumps(value))}")
    return value


def _check_name(codec: Any, key: str) -> None:
    name = codec.get(key) if isinstance(codec, dict) else codec     # version 3 allows a plain name
    if not isinstance(name, str) or name.removeprefix(NUMCODECS) not in CODECS:
        raise ValueError(f"it has the codec {shortened(str(name))}; expected {', '.join(CODECS[:-1])} or {CODECS[-1]}")


def _check_dtype(content: dict[str, Any], key: str) -> None:
    name = content.get(key)
    if not isinstance(name, str) or NUMBERS.fullmatch(name) is None:
        raise ValueError(f"it has {key} {shortened(json.dumps(name))}; expected a numeric dtype")


def _check_sizes(content: dict[str, Any], grid: dict[str, Any], key: str = "chunks") -> None:
    shape, chunks = _field(content, "shape", list), _field(grid, key, list)
    sizes = [*shape, *chunks]
    if (len(shape) != len(chunks) or not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
            or min(shape, default=0) < 0 or min(chunks, default=1) < 1):
        raise ValueError(f"it has shape {shortened(str(shape))} in {key} {shortened(str(chunks))}")
