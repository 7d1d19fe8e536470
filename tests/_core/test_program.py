"""Errors of the import on the command line of fastbn, and in other programs."""

import sys

import pytest

from fastbn._core.dispatch import built
from fastbn._core.program import is_command
from tests.process import run

WRONG = {"FASTBN_ISA": "none"}
MESSAGE = f"FASTBN_ISA='none'; expected one of {', '.join(built())}"


@pytest.mark.parametrize("arguments", [("--help",), ("info",), ("stats", "x.npy"), ()], ids=str)
@pytest.mark.parametrize("module", [("-m", "fastbn"), ("-mfastbn",), ("-W", "error", "-m", "fastbn.__main__")], ids=str)
def test_the_command_line_prints_one_line(module, arguments):
    done = run(*module, *arguments, **WRONG)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"fastbn: {MESSAGE}\n")


def test_other_programs_get_the_exception(tmp_path):
    (tmp_path / "other.py").write_text("import fastbn\n")
    for arguments in (("-c", "import fastbn"), ("-m", "fastbn.functional"), (str(tmp_path / "other.py"),)):
        done = run(*arguments, PYTHONPATH=".", **WRONG)
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1].endswith(MESSAGE)


@pytest.mark.parametrize(("argv", "original", "expected"), [
    (["/usr/bin/fastbn", "info"], ["python", "/usr/bin/fastbn", "info"], True),
    (["C:/Scripts/fastbn.exe"], ["C:/Scripts/fastbn.exe"], True),
    (["-m", "info"], ["python", "-I", "-m", "fastbn", "info"], True),
    (["-m", "fastbn"], ["python", "-m", "other", "fastbn"], False),
    (["-m"], ["python", "-mother"], False),
    (["-c"], ["python", "-c", "import fastbn"], False),
    (["train.py", "fastbn"], ["python", "train.py", "fastbn"], False),
    ([""], ["python"], False),
    ([], ["python"], False),
], ids=str)
def test_is_command(argv, original, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert is_command() == expected


def test_an_interpreter_without_arguments(monkeypatch):
    monkeypatch.delattr(sys, "argv")
    assert not is_command()
