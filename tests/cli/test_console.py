"""The command line with standard streams that are closed, full or broken, and with unusual file names."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from fastbn.__main__ import main
from fastbn.cli import console
from fastbn.cli.console import guarded, printable, show, tell, write_file
from tests.process import PATIENCE, settings

posix = pytest.mark.skipif(os.name != "posix", reason="streams are closed by a shell")
LONG = "long.npy"       # its table does not fit in the buffer of a pipe
COMMANDS = [["--help"], ["--version"], ["stats", "--help"], ["info"], ["info", "--json"], ["stats", LONG],
            ["stats", LONG, "--json", "-"]]
commands = pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
# With a buffer, a write error appears late; without one, it may not appear at all.
buffering = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / LONG, np.arange(40_000, dtype=np.float32).reshape(2, -1))
    return tmp_path


def run(folder, arguments, streams="", unbuffered="", **options):
    """Run the command line in a shell that redirects its streams; return exit code, output and messages."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m fastbn "$@" {streams}', sys.executable, *arguments],
        **(settings({"PYTHONUNBUFFERED": unbuffered}) | {"cwd": folder}), capture_output=True, timeout=PATIENCE,
        check=False, **options)
    return done.returncode, done.stdout, done.stderr


@posix
@buffering
@commands
def test_a_reader_that_closed_the_pipe_before(arguments, unbuffered, folder):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run([sys.executable, "-m", "fastbn", *arguments], stdout=pipe, stderr=subprocess.PIPE,
                              **(settings({"PYTHONUNBUFFERED": unbuffered}) | {"cwd": folder}), check=False)
    assert (done.returncode, done.stderr) == (141, "")


@posix
@buffering
def test_a_reader_that_closes_the_pipe(unbuffered, folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "fastbn", "stats", LONG, "--json", "out.json"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **(settings({"PYTHONUNBUFFERED": unbuffered}) | {"cwd": folder}))
    assert process.stdout.read(12) == "mean, std = "
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(PATIENCE) == 141
    assert len(json.loads((folder / "out.json").read_text())["mean"]) == 20_000


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@buffering
@commands
def test_no_room_on_standard_output(arguments, unbuffered, folder):
    message = "standard output: cannot be written: No space left on device\n"
    assert run(folder, arguments, ">/dev/full", unbuffered) == (1, "", message)


@posix
@buffering
@commands
def test_closed_standard_output(arguments, unbuffered, folder):
    assert run(folder, arguments, ">&-", unbuffered) == (1, "", "standard output is closed\n")


@posix
@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", "<&- 2>&-"])
@pytest.mark.parametrize(("arguments", "code"), [
    (["stats", "none.npy"], 1), (["stats"], 2), (["stats", LONG, "--axis", "x"], 2), (["nothing"], 2)], ids=str)
def test_errors_never_go_to_standard_output(arguments, code, streams, folder):
    if "/dev/full" in streams and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    assert run(folder, arguments, streams)[:2] == (code, "")


@posix
def test_warnings_without_standard_error(folder):
    (folder / "bad.npy").write_bytes(b"x")
    code, out, _ = run(folder, ["stats", LONG, "bad.npy", "--on-error", "skip"], "2>&-")
    assert code == 0
    assert out.startswith("mean, std = (")


@posix
def test_closed_standard_input(folder):
    assert run(folder, ["stats", "-"], "<&-") == (1, "", "-: is closed; expected the bytes of an .npy file\n")


@posix
def test_files_do_not_get_the_descriptors_of_closed_streams(folder):
    # A file with the descriptor of standard error would get the messages of C libraries.
    code, out, err = run(folder, ["stats", LONG, "--json", "out.json"], "<&- >&- 2>&-")
    assert (code, out, err) == (1, "", "")
    assert json.loads((folder / "out.json").read_text())["channels"] == 20_000


def test_an_invalid_number_of_threads():
    expected = "FASTBN_NUM_THREADS='abc'; expected an integer between 1 and "
    for arguments in (["--help"], ["stats", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-m", "fastbn", *arguments], **settings({"FASTBN_NUM_THREADS": "abc"}),
                              capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    for arguments in (["info"], ["stats", "x.npy"], ["demo"], ["fold", "a.onnx", "b.onnx"]):
        done = subprocess.run([sys.executable, "-m", "fastbn", *arguments], **settings({"FASTBN_NUM_THREADS": "abc"}),
                              capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(expected)
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("text", "escaped"), [
    ("a b.png", "a b.png"), ("größe ±.png", "größe ±.png"), ("a\nb", r"a\nb"), ("\x1b[31mred", r"\x1b[31mred"),
    ("\x7f\x9b", r"\x7f\x9b"), ("\u202egnp.exe", r"\u202egnp.exe"), ("\udcff", r"\udcff"), ("", ""),
], ids=ascii)
def test_printable(text, escaped):
    assert printable(text) == escaped


ODD = "a\x1b[31m\nb.npy"


def test_names_are_escaped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = r"a\x1b[31m\nb.npy"
    assert main(["stats", ODD]) == 1
    assert capsys.readouterr() == ("", f"{shown}: No such file or directory\n")
    np.save(ODD, np.array([[1.0, np.nan], [2.0, 3.0]]))
    assert main(["stats", ODD, "none.npy", "--on-error", "skip"]) == 0
    assert capsys.readouterr().err == (f"{shown}: has NaN or Inf in channel 1\nskipped: none.npy: No such file or "
                                       "directory\ninputs counted: 1; skipped: 1\n")
    with pytest.raises(SystemExit):
        main(["stats", ODD, "--json", "\x1b/x"])
    assert capsys.readouterr().err.endswith("argument --json: there is no directory '\\x1b'\n")
    with pytest.raises(SystemExit):
        main(["info", ODD])
    assert capsys.readouterr().err.endswith(f"error: unrecognized arguments: {shown}\n")


def test_characters_that_standard_output_cannot_encode():
    program = r"from fastbn.cli.console import show; show('\u00b1 \udcff x')"
    done = subprocess.run([sys.executable, "-c", program], **settings({"PYTHONIOENCODING": "ascii"}),
                          capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, "\\xb1 \\udcff x\n"), done.stderr


@pytest.mark.parametrize(("error", "code", "message"), [
    (KeyboardInterrupt(), 130, "interrupted\n"), (MemoryError(), 1, "there is not enough memory\n")], ids=repr)
def test_one_line(error, code, message, capsys):
    def command():
        raise error

    assert guarded(command) == code
    assert capsys.readouterr() == ("", message)


def test_an_internal_error_keeps_its_traceback():
    def command():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(command)


def test_lines(capsys):
    show("a", "", "b")
    tell("c")
    assert capsys.readouterr() == ("a\n\nb\n", "c\n")


def test_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    write_file(tmp_path / "x", b"before")

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(console, "replace", full)
    with pytest.raises(console.OutputError, match="x: cannot be written: No space left on device"):
        write_file(tmp_path / "x", b"after")
    assert (tmp_path / "x").read_bytes() == b"before"


def test_ctrl_c_in_any_command(monkeypatch, capsys, heard_signals):
    monkeypatch.setattr("fastbn.cli.info.config", lambda: signal.raise_signal(signal.SIGINT))
    assert main(["info"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_demo_checks_first_that_it_can_write(tmp_path, monkeypatch, capsys):
    def refuse(**options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(SystemExit) as end:
        main(["demo"])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith("--out: fastbn-demo.png: cannot be written: Read-only file system\n")
