"""fastbn stats on inputs that cannot be counted, and its limits."""

import errno
import io
import json
import os
import struct
import sys

import numpy as np
import pytest

from fastbn.__main__ import main
from fastbn.cli.stats.readers import grid
from tests.cli.stats.arrays import expect, normal, stats
from tests.cli.stats.files import GOOD, HEADER, npy, npy_with_header


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Small blocks, so that some blocks are read before the error."""
    monkeypatch.setattr(grid, "BLOCK_BYTES", 1024)


@pytest.fixture
def unreadable(tmp_path):
    """A valid file, and a path for one that cannot be read."""
    np.save(tmp_path / "good.npy", GOOD)
    return tmp_path / "bad.npy"


def refused(bad, reason, capsys):
    arguments = ["stats", str(bad.parent / "good.npy"), str(bad)]
    assert main(arguments) == 1
    assert capsys.readouterr() == ("", f"{bad}: {reason}\n")
    assert main([*arguments, "--on-error", "skip"]) == 0
    assert capsys.readouterr().err == f"skipped: {bad}: {reason}\ninputs counted: 1; skipped: 1\n"


def test_a_missing_file(unreadable, capsys):
    refused(unreadable, "No such file or directory", capsys)


def test_a_file_without_permission(unreadable, monkeypatch, capsys):
    np.save(unreadable, GOOD)
    opened = os.open

    def denied(path, *others):      # as for all users but root
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


def test_errors_of_paths_precede_all_reads(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "good.npy", GOOD)
    monkeypatch.setattr("fastbn.cli.stats.run.count", lambda *_: pytest.fail("an input was read"))
    assert main(["stats", str(tmp_path / "good.npy"), str(tmp_path / "none.npy")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'none.npy'}: No such file or directory\n"


@pytest.mark.parametrize(("axis", "shape"), [(2, (500, 3)), (-3, (500, 3))])
def test_a_missing_axis(axis, shape, tmp_path, capsys):
    np.save(tmp_path / "x.npy", GOOD)
    assert main(["stats", str(tmp_path / "x.npy"), "--axis", str(axis)]) == 1
    assert capsys.readouterr() == (
        "", f"{tmp_path / 'x.npy'}: has shape {shape}, which has no axis {axis}; see --axis\n")


def test_a_missing_member(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", a=GOOD, b=GOOD)
    assert main(["stats", str(tmp_path / "x.npz"), "--member", "c"]) == 1
    assert capsys.readouterr() == ("", f"{tmp_path / 'x.npz'}: has no member 'c'; it has 'a', 'b'\n")


def test_all_inputs_skipped(tmp_path, capsys):
    (tmp_path / "x.npy").write_bytes(npy(GOOD)[:-1])
    assert main(["stats", str(tmp_path / "x.npy"), "--on-error", "skip"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "nothing was counted; inputs skipped: 1"


def test_a_file_truncated_while_it_is_read(tmp_path, capsys, monkeypatch):
    from fastbn.cli.stats.counting.tally import Tally

    path, of, blocks = tmp_path / "x.npy", Tally.of, []
    np.save(path, GOOD)

    def cut(block, *others, **options):
        blocks.append(block.size)
        os.truncate(path, 4000)
        return of(block, *others, **options)

    monkeypatch.setattr(Tally, "of", cut)
    assert main(["stats", str(path)]) == 1
    assert capsys.readouterr() == ("", f"{path}: ends in the middle of its array\n")
    assert len(blocks) == 3     # of 1,020 bytes each, after a header of 128


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_no_output_over_an_input(option, tmp_path, capsys):
    path = tmp_path / "x.png"
    before = npy(GOOD)
    path.write_bytes(before)
    assert main(["stats", str(path), option, str(path)]) == 2
    assert "x.png: is an input or part of one; choose another output path" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["x.png", "below/link.png"])
def test_no_output_over_an_input_in_a_folder(name, tmp_path, capsys):
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    (images / "x.png").write_bytes(b"an image")
    (images / "below" / "link.png").symlink_to(images / "x.png")
    assert main(["stats", str(images), "--on-error", "skip", "--plot", str(images / name)]) == 2
    assert capsys.readouterr().err == (
        f"{images / name}: is an input or part of one; choose another output path\n")
    assert (images / "x.png").read_bytes() == b"an image"
    # A new picture in the folder is not an input.
    assert main(["stats", str(images), "--on-error", "skip", "--plot", str(images / "new.png")]) == 1
    assert "is an input" not in capsys.readouterr().err


def test_only_some_of_many_members_are_named(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", **{f"a{number:03}": GOOD for number in range(100)}, **{"n" * 200: GOOD})
    assert main(["stats", str(tmp_path / "x.npz"), "--member", "zz"]) == 1
    names = ", ".join(f"'a{number:03}'" for number in range(8))
    assert capsys.readouterr() == ("", f"{tmp_path / 'x.npz'}: has no member 'zz'; it has {names} and 93 more\n")


def test_an_archive_that_claims_a_huge_directory(tmp_path, capsys):
    path, size = tmp_path / "x.npz", 3 << 30
    with open(path, "wb") as file:
        file.truncate(size)     # a hole, without space on the disk
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
def test_standard_input_that_claims_too_much(name, monkeypatch, capsys):
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
def test_invalid_sizes(text, tmp_path, capsys):
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
def test_other_exceptions_of_readers(place, name, tmp_path, monkeypatch, capsys):
    error, reason = FAILURES[name]
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npy"
    np.save(bad, GOOD)
    np.savez(good, x=GOOD, y=GOOD)
    function = f"fastbn.cli.stats.readers.{place}"
    module, _, attribute = function.rpartition(".")
    original = getattr(__import__(module, fromlist=[attribute]), attribute)

    def failing(stream, *others):
        if getattr(stream, "name", 0) is not None and isinstance(stream, io.FileIO):   # only for the .npy file
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
    """Nested folders with a path longer than the limit of the system."""
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
