"""python -m fastbn stats on inputs that cannot be counted: each is named in one line, and none is counted by half."""

import errno
import io
import json
import os
import re
import struct
import sys
import zipfile

import numpy as np
import pytest

from fastbn.__main__ import main
from fastbn.cli.stats.readers import grid
from tests.cli.stats.arrays import expect, normal, stats

GOOD = normal(500, 3)
ADDRESS = re.compile("0x[0-9a-f]+")     # of an object of Python's parser, in a message of NumPy's


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that some of every file is read before what is wrong with it is met."""
    monkeypatch.setattr(grid, "BLOCK_BYTES", 1024)


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


def encrypted():
    data = bytearray(npz({"x": npy(GOOD)}))
    for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(magic) + at] |= 1
    return bytes(data)


def flagged(flag, name=b"x"):
    """A member whose central directory has a flag; or, for names in UTF-8, whose local header has that name."""
    data = bytearray(npz({"x": npy(GOOD)}))
    local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    at = local + 6 if name != b"x" else central + 8
    data[at:at + 2] = flag.to_bytes(2, "little")
    data[local + 30:local + 31] = name
    return bytes(data)


def claiming(shape):
    """An archive of less than a kilobyte whose member claims to have a shape."""
    return npz({"x": npy_with_header(HEADER % shape) + bytes(4000)}, compression=zipfile.ZIP_DEFLATED)


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n"
X = npy(GOOD)
STORED, DEFLATED = npz({"x": X}), npz({"x": X}, compression=zipfile.ZIP_DEFLATED)
CHANNELS = "has 4 channels; earlier inputs have 3"

MALFORMED = {
    # name: the file's bytes, what is said of it
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
    # Nothing of it is in the total of the others.
    found = stats(tmp_path, good, bad, good, "--on-error", "skip")
    expect(found, [GOOD, GOOD])
    assert found["inputs"] == 2
    [skipped] = found["skipped"]
    assert skipped["path"] == str(bad)
    again, summary = capsys.readouterr().err.splitlines(keepends=True)
    assert summary == "inputs counted: 2; skipped: 1\n"
    assert again == f"skipped: {bad}: {skipped['reason']}\n"
    assert ADDRESS.sub("", again) == ADDRESS.sub("", f"skipped: {errors}")


def test_channels_are_those_of_the_first_that_is_whole(tmp_path):
    bad, four = npz({"x": npy(normal(50, 7)), "y": b""}), normal(20, 4)
    (tmp_path / "a.npz").write_bytes(bad)
    np.save(tmp_path / "b.npy", four)
    found = stats(tmp_path, tmp_path / "a.npz", tmp_path / "b.npy", "--on-error", "skip")
    expect(found, [four])


@pytest.fixture
def unreadable(tmp_path):
    """A good file and something at a path that cannot be read."""
    np.save(tmp_path / "good.npy", GOOD)
    return tmp_path / "bad.npy"


def refused(bad, reason, capsys):
    arguments = ["stats", str(bad.parent / "good.npy"), str(bad)]
    assert main(arguments) == 1
    assert capsys.readouterr() == ("", f"{bad}: {reason}\n")
    assert main([*arguments, "--on-error", "skip"]) == 0
    assert capsys.readouterr().err == f"skipped: {bad}: {reason}\ninputs counted: 1; skipped: 1\n"


def test_a_file_that_is_not_there(unreadable, capsys):
    refused(unreadable, "No such file or directory", capsys)


def test_a_file_that_may_not_be_read(unreadable, monkeypatch, capsys):
    np.save(unreadable, GOOD)
    opened = os.open

    def denied(path, *others):      # as it is for all users but root
        if path == str(unreadable):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *others)

    monkeypatch.setattr(os, "open", denied)
    refused(unreadable, "Permission denied", capsys)


def test_a_link_to_itself(unreadable, capsys):
    unreadable.symlink_to(unreadable)
    refused(unreadable, "Too many levels of symbolic links", capsys)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_named_pipe(unreadable, capsys):
    os.mkfifo(unreadable)
    refused(unreadable, "is not a regular file; use - to read standard input", capsys)


def test_a_folder_without_images(unreadable, capsys):
    folder = unreadable.parent / "folder"
    (folder / "below").mkdir(parents=True)
    np.save(folder / "below" / "x.npy", GOOD)
    (folder / ".hidden.png").write_bytes(b"x")
    refused(folder, "has no images; expected .bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp", capsys)


def test_what_is_wrong_at_first_sight_is_said_before_anything_is_read(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "good.npy", GOOD)
    monkeypatch.setattr("fastbn.cli.stats.run.count", lambda *_: pytest.fail("an input was read"))
    assert main(["stats", str(tmp_path / "good.npy"), str(tmp_path / "none.npy")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'none.npy'}: No such file or directory\n"


@pytest.mark.parametrize(("axis", "shape"), [(2, (500, 3)), (-3, (500, 3))])
def test_an_axis_that_is_not_there(axis, shape, tmp_path, capsys):
    np.save(tmp_path / "x.npy", GOOD)
    assert main(["stats", str(tmp_path / "x.npy"), "--axis", str(axis)]) == 1
    assert capsys.readouterr() == (
        "", f"{tmp_path / 'x.npy'}: has shape {shape}, which has no axis {axis}; see --axis\n")


def test_a_member_that_is_not_there(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", a=GOOD, b=GOOD)
    assert main(["stats", str(tmp_path / "x.npz"), "--member", "c"]) == 1
    assert capsys.readouterr() == ("", f"{tmp_path / 'x.npz'}: has no member 'c'; it has 'a', 'b'\n")


def test_nothing_is_left(tmp_path, capsys):
    (tmp_path / "x.npy").write_bytes(X[:-1])
    assert main(["stats", str(tmp_path / "x.npy"), "--on-error", "skip"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "nothing was counted; inputs skipped: 1"


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path, capsys, monkeypatch):
    from fastbn.cli.stats.counting.tally import Tally

    path, of, blocks = tmp_path / "x.npy", Tally.of, []
    np.save(path, GOOD)

    def cut(block, *others):
        blocks.append(block.size)
        os.truncate(path, 4000)
        return of(block, *others)

    monkeypatch.setattr(Tally, "of", cut)
    assert main(["stats", str(path)]) == 1
    assert capsys.readouterr() == ("", f"{path}: ends in the middle of its array\n")
    assert len(blocks) == 3     # of 1,020 bytes, behind 128 of header


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_no_output_over_an_input(option, tmp_path, capsys):
    path = tmp_path / "x.png"
    before = npy(GOOD)
    path.write_bytes(before)
    assert main(["stats", str(path), option, str(path)]) == 1
    assert "x.png: is an input, or in one; the output needs another path" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["x.png", "below/link.png"])
def test_no_output_over_an_input_in_a_folder(name, tmp_path, capsys):
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    (images / "x.png").write_bytes(b"an image")
    (images / "below" / "link.png").symlink_to(images / "x.png")
    assert main(["stats", str(images), "--on-error", "skip", "--plot", str(images / name)]) == 1
    assert capsys.readouterr().err == (
        f"{images / name}: is an input, or in one; the output needs another path\n")
    assert (images / "x.png").read_bytes() == b"an image"
    # A new picture beside the others is no input.
    assert main(["stats", str(images), "--on-error", "skip", "--plot", str(images / "new.png")]) == 1
    assert "is an input" not in capsys.readouterr().err


def test_many_members_are_not_all_named(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", **{f"a{number:03}": GOOD for number in range(100)}, **{"n" * 200: GOOD})
    assert main(["stats", str(tmp_path / "x.npz"), "--member", "zz"]) == 1
    names = ", ".join(f"'a{number:03}'" for number in range(8))
    assert capsys.readouterr() == ("", f"{tmp_path / 'x.npz'}: has no member 'zz'; it has {names} and 93 more\n")


def test_a_directory_that_is_only_claimed(tmp_path, capsys):
    path, size = tmp_path / "x.npz", 3 << 30
    with open(path, "wb") as file:
        file.truncate(size)     # a hole, which takes no room on the disk
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0))
    assert main(["stats", str(path)]) == 1
    assert capsys.readouterr() == (
        "", f"{path}: is not a readable npz archive: a directory of 3 GiB; expected up to 32 MiB; see "
        "--max-memory\n")


STANDARD_INPUT = {
    "both axes": (f"{10**18}, {10**18}", f"has shape ({10**18}, {10**18}), more values than a file can hold"),
    "beyond 63 bits": (f"2, {2**63}", f"has shape (2, {2**63}), more values than a file can hold"),
    "channels": (f"1, {10**10}", f"has shape (1, {10**10}); statistics of {10**10} channels on axis -1 take about"),
    "rows": (f"{10**10}, 1", "ends in the middle of its array"),
}


@pytest.mark.parametrize("name", STANDARD_INPUT)
def test_what_standard_input_claims(name, monkeypatch, capsys):
    shape, reason = STANDARD_INPUT[name]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(npy_with_header(HEADER % shape) + bytes(100))))
    assert main(["stats", "-"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"-: {reason}")
    assert err.count("\n") == 1


def test_standard_input_that_is_closed(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    assert main(["stats", "-"]) == 1
    assert capsys.readouterr() == ("", "-: is closed; expected the bytes of an .npy file\n")


def test_more_channels_than_memory_allows(tmp_path, capsys):
    path, x = tmp_path / "x.npy", normal(2, 3000)
    np.save(path, x)
    assert main(["stats", str(path), "--max-memory", "2M"]) == 1
    assert capsys.readouterr() == (
        "", f"{path}: has shape (2, 3000); statistics of 3000 channels on axis -1 take about 2.93 MiB of memory, "
        "expected up to 2 MiB; see --axis and --max-memory\n")
    expect(stats(tmp_path, path, "--max-memory", "3M"), [x])
    expect(stats(tmp_path, path, "--max-memory", "2M", "--axis", "0"), [x], 0)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_little_memory_is_enough_for_archives(save, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "BLOCK_BYTES", 4 << 20)
    x = np.ones((3_000_000, 2), np.float32)
    save(tmp_path / "x.npz", x=x)
    assert stats(tmp_path, tmp_path / "x.npz", "--max-memory", "2K")["count"] == [3_000_000] * 2


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5G", "2X", "1e9", "9" * 20])
def test_sizes_that_are_none(text, tmp_path, capsys):
    with pytest.raises(SystemExit) as ending:
        main(["stats", "x.npy", f"--max-memory={text}"])
    assert ending.value.code == 2
    assert f"argument --max-memory: expected a size such as 512M or 2G, got {text!r}" in capsys.readouterr().err


FAILURES = {
    "memory": (MemoryError("Unable to allocate 2 TiB"), "there is not enough memory to read it"),
    "recursion": (RecursionError("too deep"), "cannot be read: RecursionError: too deep"),
    "another": (AttributeError("of a\nlibrary\x1b[2J"), r"cannot be read: AttributeError: of a library\x1b[2J"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("place", ["npy.header", "npy.fill"])
def test_whatever_else_a_reader_raises(place, name, tmp_path, monkeypatch, capsys):
    error, reason = FAILURES[name]
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npy"
    np.save(bad, GOOD)
    np.savez(good, x=GOOD, y=GOOD)
    function = f"fastbn.cli.stats.readers.{place}"
    module, _, attribute = function.rpartition(".")
    original = getattr(__import__(module, fromlist=[attribute]), attribute)

    def failing(stream, *others):
        if getattr(stream, "name", 0) is not None and isinstance(stream, io.FileIO):   # of the .npy alone
            raise error
        return original(stream, *others)

    monkeypatch.setattr(function, failing)
    assert main(["stats", str(good), str(bad)]) == 1
    assert capsys.readouterr() == ("", f"{bad}: {reason}\n")
    found = stats(tmp_path, bad, good, "--on-error", "skip")
    expect(found, [GOOD, GOOD])
    assert found["skipped"] == [{"path": str(bad), "reason": reason}]


def test_control_characters_of_names_are_escaped(tmp_path, capsys):
    bad = tmp_path / "a\x1b[2J\nb\u202e.npy"
    bad.write_bytes(b"x")
    assert main(["stats", str(bad)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"{tmp_path}" + r"/a\x1b[2J\nb\u202e.npy: has no valid npy header: ")
    assert err.count("\n") == 1
    assert "\x1b" not in err


@pytest.fixture
def deep(tmp_path):
    """A folder within which folders lie so deep that the path is longer than the system allows."""
    depth, before = 2500, os.getcwd()
    os.chdir(tmp_path)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    yield tmp_path / "d"
    for _ in range(depth):      # shutil.rmtree would recurse
        os.chdir("..")
        os.rmdir("d")
    os.chdir(before)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be removed")
def test_deep_folders(deep, tmp_path, capsys):
    out = tmp_path / "out.json"
    np.save(tmp_path / "good.npy", GOOD)
    arguments = ["stats", str(deep), str(tmp_path / "good.npy"), "--json", str(out)]
    assert main(arguments) == 1
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith(f"{deep}/d/d")
    assert errors.endswith("/d: File name too long\n")
    assert main([*arguments, "--on-error", "skip"]) == 0
    found = json.loads(out.read_text())
    expect(found, [GOOD])
    assert [entry["reason"] for entry in found["skipped"]] == ["File name too long"]
