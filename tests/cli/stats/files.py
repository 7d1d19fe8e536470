"""Bytes of valid and damaged .npy and .npz files."""

import io
import struct
import zipfile

import numpy as np

from tests.cli.stats.arrays import normal

GOOD = normal(500, 3)
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n"


def npy(x):
    file = io.BytesIO()
    np.lib.format.write_array(file, x, allow_pickle=True)
    return file.getvalue()


def npy_with_header(text, version=(1, 0)):
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text.encode()


def npz(arrays, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def damaged(data, at, byte=b"\x55"):
    return data[:at] + byte + data[at + 1:]
