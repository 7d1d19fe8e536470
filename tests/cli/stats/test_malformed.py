"""fastbn stats on malformed files: each gets one line, and no part of it is counted."""

import re
import zipfile

import numpy as np
import pytest

from fastbn.__main__ import main
from fastbn.cli.stats.readers import grid
from tests.cli.stats.arrays import expect, normal, stats
from tests.cli.stats.files import GOOD, HEADER, damaged, npy, npy_with_header, npz

ADDRESS = re.compile("0x[0-9a-f]+")     # of an object, in a message of NumPy


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Small blocks, so that some blocks are read before the error."""
    monkeypatch.setattr(grid, "BLOCK_BYTES", 1024)


def encrypted():
    data = bytearray(npz({"x": npy(GOOD)}))
    for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(magic) + at] |= 1
    return bytes(data)


def flagged(flag, name=b"x"):
    """An archive with a flag in the central directory, or with another name and the flag in the local header."""
    data = bytearray(npz({"x": npy(GOOD)}))
    local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    at = local + 6 if name != b"x" else central + 8
    data[at:at + 2] = flag.to_bytes(2, "little")
    data[local + 30:local + 31] = name
    return bytes(data)


def claiming(shape):
    """A small archive with a member that claims a shape."""
    return npz({"x": npy_with_header(HEADER % shape) + bytes(4000)}, compression=zipfile.ZIP_DEFLATED)


X = npy(GOOD)
STORED, DEFLATED = npz({"x": X}), npz({"x": X}, compression=zipfile.ZIP_DEFLATED)
CHANNELS = "has 4 channels; earlier inputs have 3"
MALFORMED = {
    # name: bytes of the file, beginning of the message
    "truncated.npy": (X[:-1], f"ends after {len(X) - 1} of its {len(X)} bytes"),
    "header alone.npy": (X[:128], f"ends after 128 of its {len(X)} bytes"),
    "cut in the header.npy": (X[:50], "has no valid npy header: EOF: reading array header, expected 118"),
    "cut in the magic.npy": (X[:5], "has no valid npy header: EOF: reading magic string, expected 8"),
    "nothing.npy": (b"", "has no valid npy header: EOF: reading magic string, expected 8 bytes got 0"),
    "other magic.npy": (b"x" + X[1:], "has no valid npy header: the magic string is not correct"),
    "version 9.npy": (damaged(X, 6, b"\x09"), "has no valid npy header: npy format 9.0; expected 1.0 or 2"),
    "no dictionary.npy": (npy_with_header("[1]\n"), "has no valid npy header: Header is not a dictionary"),
    "no literal.npy": (npy_with_header("__import__('os')\n"), "has no valid npy header: "),
    "brackets.npy": (npy_with_header("(" * 5000 + "\n"), "has no valid npy header: "),
    "long header.npy": (npy_with_header(" " * 20000, (2, 0)), "has no valid npy header: "),
    "negative shape.npy": (npy_with_header(HEADER % "-2, 3"), "has no valid npy header: shape (-2, 3)"),
    "flags in the shape.npy": (npy_with_header(HEADER % "True, 3") + bytes(12),
                               "has no valid npy header: shape (True, 3)"),
    "enormous.npy": (npy_with_header(HEADER % "1000000000000, 3") + b"x", "ends after "),
    "two arrays.npy": (X + X, "has bytes after its array"),
    "objects.npy": (npy(np.array([[None, 1, 2]], object)), "holds Python objects, which are never loaded"),
    "records.npy": (npy(np.zeros((4, 3), [("a", "f4")])), "has dtype [('a', '<f4')]; expected uint8, int8, int16"),
    "dates.npy": (npy(np.zeros((4, 3), "M8[s]")),
                  "has dtype datetime64[s]; expected uint8, int8, int16, uint16, int32, uint32, int64, uint64, bool, "
                  "float16, float32 or float64"),
    "complex.npy": (npy(np.zeros((4, 3), complex)), "has dtype complex128; expected uint8"),
    "text.npy": (npy(np.array([["a", "b", "c"]])), "has dtype <U1; expected uint8"),
    "one dimension.npy": (npy(np.zeros(3)), "has shape (3,); expected two or more dimensions"),
    "no dimension.npy": (npy(np.zeros(())), "has shape (); expected two or more dimensions"),
    "empty.npy": (npy(np.zeros((0, 3))), "has shape (0, 3), no values"),
    "no channels.npy": (npy(np.zeros((4, 0))), "has shape (4, 0), no values"),
    "channels.npy": (npy(np.zeros((5, 4))), CHANNELS),
    "bytes.npy": (npy(np.zeros((5, 3), np.uint8)), "has uint8 values; earlier inputs have values of another dtype"),
    "nothing.npz": (b"", "is not a readable npz archive: File is not a zip file"),
    "an npy.npz": (X, "is not a readable npz archive: File is not a zip file"),
    "truncated.npz": (STORED[:-30], "is not a readable npz archive: File is not a zip file"),
    "no arrays.npz": (npz({}), "has no arrays"),
    "crc.npz": (damaged(STORED, 4000), "member 'x' is damaged: Bad CRC-32 for file 'x.npy'"),
    "crc of what is deflated.npz": (damaged(DEFLATED, 3000), "member 'x' is damaged: "),
    "crc of the second.npz": (damaged(npz({"a": X, "b": X}), 10000), "member 'b' is damaged: Bad CRC-32"),
    "short member.npz": (npz({"x": X[:-1]}), f"member 'x' ends after {len(X) - 1} of its {len(X)} bytes"),
    "long member.npz": (npz({"x": X + b"x"}), "member 'x' has bytes after its array"),
    "encrypted.npz": (encrypted(), "member 'x' is encrypted"),
    "bz2.npz": (npz({"x": X}, compression=zipfile.ZIP_BZIP2), "member 'x' has compression method 12; expected stored"),
    "objects.npz": (npz({"x": npy(np.array([[None, 1, 2]]))}), "member 'x' holds Python objects, which are never"),
    "second member.npz": (npz({"x": X, "y": npy(np.arange(4))}), "member 'y' has shape (4,); expected two or more"
                          " dimensions; --member NAME selects arrays of an archive"),
    "second member's channels.npz": (npz({"x": X, "y": npy(np.zeros((5, 4)))}), f"member 'y' {CHANNELS}"),
    "no array.npz": (npz({"x": b"text"}), "member 'x' has no valid npy header: EOF: reading magic string"),
    "patched data.npz": (flagged(0x20), "member 'x' is damaged: compressed patched data (flag bit 5)"),
    "strong encryption.npz": (flagged(0x40), "member 'x' is damaged: strong encryption (flag bit 6)"),
    "name.npz": (flagged(0x800, b"\xff"), "member 'x' is damaged: 'utf-8' codec can't decode byte 0xff"),
    "member twice.npz": (npz({"x": X, "y": X}).replace(b"y.npy", b"x.npy"), "has the member 'x' twice"),
    "claims channels.npz": (claiming("1, 400000000"), "member 'x' has shape (1, 400000000); statistics of 400000000 "
                            "channels on axis -1 take about 381 GiB of memory, expected up to 512 MiB; see --axis and "
                            "--max-memory"),
    "claims values.npz": (claiming("400000000, 1"), "member 'x' ends after "),
    "claims more than any file.npy": (npy_with_header(HEADER % f"{10**18}, {10**18}"), f"has shape ({10**18}, {10**18})"
                                      ", more values than a file can hold"),
    "long header of version 2.npy": (X[:6] + b"\2\0\xff\xff\xff\xff" + bytes(1000),
                                     "has no valid npy header: a header of 4294967295 bytes; expected up"),
    "text.csv": (b"1,2,3", "has no known suffix; expected .npy, .npz, an image or a folder"),
    "no suffix": (X, "has no known suffix; expected .npy, .npz, an image or a folder"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name, tmp_path, capsys):
    data, reason = MALFORMED[name]
    good, bad, out = (tmp_path / file for file in ("good.npy", name, "out.json"))
    np.save(good, GOOD)
    bad.write_bytes(data)
    assert main(["stats", str(good), str(bad), str(good), "--json", str(out)]) == 1
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith(f"{bad}: {reason}")
    assert errors.count("\n") == 1
    assert len(errors) < 400 + len(str(bad))
    assert not out.exists()
    # No part of it is in the total of the other files.
    found = stats(tmp_path, good, bad, good, "--on-error", "skip")
    expect(found, [GOOD, GOOD])
    assert found["inputs"] == 2
    [skipped] = found["skipped"]
    assert skipped["path"] == str(bad)
    again, summary = capsys.readouterr().err.splitlines(keepends=True)
    assert summary == "inputs counted: 2; skipped: 1\n"
    assert again == f"skipped: {bad}: {skipped['reason']}\n"
    assert ADDRESS.sub("", again) == ADDRESS.sub("", f"skipped: {errors}")


def test_the_first_valid_input_decides_the_channels(tmp_path):
    bad, four = npz({"x": npy(normal(50, 7)), "y": b""}), normal(20, 4)
    (tmp_path / "a.npz").write_bytes(bad)
    np.save(tmp_path / "b.npy", four)
    found = stats(tmp_path, tmp_path / "a.npz", tmp_path / "b.npy", "--on-error", "skip")
    expect(found, [four])
