"""Checkpoint files, built byte by byte.

Nothing here uses fastbn's own writers, so that a reader and a writer cannot be wrong together.
"""

import io
import json
import struct
import zipfile

import numpy as np

CHANNELS = 5
VECTORS = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"
NAMES = (*VECTORS, COUNTER)


def state(dtype="float32"):
    """Return a state of five channels under PyTorch's names."""
    rng = np.random.default_rng(7)
    vectors = {name: (rng.random(CHANNELS) + 0.5).astype(dtype) for name in VECTORS}
    return vectors | {COUNTER: np.array(9, np.int64)}


# safetensors

LETTERS = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "uint8": "U8",
           "bool": "BOOL", "complex64": "C64"}


def bfloat16(array):
    """Return bfloat16 values as integers: the upper halves of float32."""
    return (np.asarray(array, "<f4").view("<u4") >> 16).astype("<u2")


def entries(arrays, bf16=()):
    """Return the entries of a header, each a dictionary of JSON texts, and the data."""
    out, data = {}, b""
    for name, value in arrays.items():
        array = bfloat16(value) if name in bf16 else np.asarray(value)
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        out[name] = {"dtype": json.dumps("BF16" if name in bf16 else LETTERS[array.dtype.name]),
                     "shape": json.dumps(array.shape), "data_offsets": json.dumps([len(data), len(data) + len(raw)])}
        data += raw
    return out, data


def header_text(items, metadata=None):
    texts = [] if metadata is None else [f'"__metadata__":{metadata}']
    for name, item in items.items():
        pairs = ",".join(f'"{key}":{value}' for key, value in item.items())
        texts.append(f"{json.dumps(name)}:{{{pairs}}}")
    return "{" + ",".join(texts) + "}"


def safetensors(arrays=None, metadata=None, bf16=()):
    """Return a valid file."""
    items, data = entries(state() if arrays is None else arrays, bf16)
    return framed(header_text(items, metadata), data)


def framed(header, data=b"", length=None):
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header) if length is None else length) + header + data


# npz

def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


def npy_of(header, data, version=b"\1\0", length=None):
    header = header.encode("latin-1")
    width = 4 if version == b"\2\0" else 2
    length = len(header) if length is None else length
    return b"\x93NUMPY" + version + length.to_bytes(width, "little") + header + data


def zipped(members, method=zipfile.ZIP_STORED, comment=b""):
    """Return an archive of (name, bytes) pairs; duplicate names are allowed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.filename = name    # ZipInfo normalizes names; a malicious writer does not
            info.compress_type = method
            archive.writestr(info, data)
        archive.comment = comment
    return file.getvalue()


def members(arrays=None):
    return [(f"{name}.npy", npy(value)) for name, value in (state() if arrays is None else arrays).items()]


def npz(arrays=None, metadata=None, method=zipfile.ZIP_STORED):
    """Return a valid file."""
    return zipped(members(arrays), method, b"" if metadata is None else metadata.encode())
