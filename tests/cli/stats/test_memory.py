"""fastbn stats holds a few blocks of an input in memory, for any size of the input."""

import json
import sys
import zipfile

import numpy as np
import pytest

from tests.process import output

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"),
                                reason="the peak of a process's memory is read from Linux's /proc")

# The peak of this process; the peak in getrusage includes that of the process that started it.
PROGRAM = """
import re, sys
from fastbn.__main__ import main
code = main(["stats", {path!r}, "--json", {out!r}, "--axis", "{axis}", "--max-memory", "{limit}"])
print(code, re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
MOST = 256 << 20
GB = 1 << 30


def peak(path, tmp_path, axis=-1, limit="512M"):
    """Return the JSON, or None if the run failed, and the peak of the memory in bytes."""
    out = tmp_path / "out.json"
    code, size = output(PROGRAM.format(path=str(path), out=str(out), axis=axis, limit=limit),
                        OMP_NUM_THREADS="1").splitlines()[-1].split()
    return json.loads(out.read_text()) if code == "0" else None, int(size) * 1024


def header(file, shape, fortran=False):
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": fortran, "shape": shape})


@pytest.mark.parametrize(("shape", "axis", "fortran"), [
    ((GB // 2 // 64, 64), -1, False),       # 2 GB of rows
    ((2, GB // 16), 0, False),              # two planes, each far larger than a block
    ((GB // 8 // 4, 4), -1, True),
    ((GB // 8 // (3 << 16), 3, 256, 256), 1, False),
], ids=["rows", "planes", "fortran", "images"])
def test_npy(shape, axis, fortran, tmp_path):
    path = tmp_path / "x.npy"
    values = np.prod(shape)
    with open(path, "wb") as file:
        header(file, shape, fortran)
        size = file.tell() + 4 * values
        file.truncate(size)     # holes, which read as zeros
        file.seek(size - 4)
        file.write(np.float32(-8).tobytes())
    assert size > 1.9 * MOST
    found, memory = peak(path, tmp_path, axis)
    assert memory < MOST
    channels = shape[axis]
    assert found["count"] == [values // channels] * channels
    assert found["min"] == [0] * (channels - 1) + [-8]
    assert found["max"] == [0] * channels
    np.testing.assert_allclose(found["mean"], [0] * (channels - 1) + [-8 * channels / values], rtol=1e-12)


def test_npz(tmp_path):
    block = np.ones((1 << 20, 4), np.float32)
    with (zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
          archive.open("x.npy", "w", force_zip64=True) as file):
        header(file, (32 << 20, 4))
        for factor in range(32):
            file.write(np.float32(factor) * block)
    found, memory = peak(tmp_path / "x.npz", tmp_path)
    assert memory < MOST
    assert (found["count"], found["min"], found["max"]) == ([32 << 20] * 4, [0] * 4, [31] * 4)
    np.testing.assert_allclose(found["mean"], [15.5] * 4, rtol=1e-12)
    np.testing.assert_allclose(found["std"], [np.sqrt((32 ** 2 - 1) / 12)] * 4, rtol=1e-12)


def nothing(tmp_path):
    """The peak of a run on a tiny input."""
    np.save(tmp_path / "nothing.npy", np.zeros((2, 2), np.float32))
    return peak(tmp_path / "nothing.npy", tmp_path)[1]


def test_channels_that_are_refused(tmp_path):
    """A valid file whose last axis is too long for a channel axis."""
    path, shape = tmp_path / "x.npy", (1, 2 * 10**8)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + shape[1])
    found, memory = peak(path, tmp_path)
    assert found is None
    assert memory < nothing(tmp_path) + (8 << 20)
    assert peak(path, tmp_path, axis=0)[0]["count"] == [2 * 10**8]


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_the_limit_estimates_the_memory_of_channels(dtype, tmp_path):
    channels = 200_000
    np.save(tmp_path / "x.npy", np.ones((2, channels), dtype))
    found, memory = peak(tmp_path / "x.npy", tmp_path, limit=f"{channels}K")
    assert found["channels"] == channels
    assert memory - nothing(tmp_path) < channels * 1024 * 1.25
    assert peak(tmp_path / "x.npy", tmp_path, limit=f"{channels - 1}K")[0] is None
