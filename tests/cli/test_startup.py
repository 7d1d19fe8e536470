"""Errors and Ctrl-C while the command line imports the package: one line, and no change for other programs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastbn
from fastbn._core import startup
from tests.process import DEFAULT_SIGNALS, PATIENCE, output, run, settings

PACKAGE = Path(fastbn._core.views.__file__).parents[1]
COMMANDS = [[], ["--help"], ["--version"], ["info"], ["demo"], ["demo", "--help"], ["fold", "a", "b"],
            ["stats", "x.npy"]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_wrong_isa(arguments):
    done = run("-m", "fastbn", *arguments, FASTBN_ISA="v9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("FASTBN_ISA='v9'; expected one of ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--help"], ["info"]], ids=" ".join)
def test_a_missing_compiled_module(arguments, tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "fork.*.so", "fork.*.pyd")
    shutil.copytree(PACKAGE, tmp_path / "fastbn", ignore=ignore)
    done = subprocess.run(
        [sys.executable, "-m", "fastbn", *arguments], **(settings({"PYTHONPATH": ""}) | {"cwd": tmp_path}),
        capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fastbn cannot be imported: ")
    assert "fork" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="the test sends a POSIX signal")
@pytest.mark.parametrize("module", ["numpy", "fastbn._core.views", "fastbn.layers.batchnorm", "fastbn.cli.console",
                                    "fastbn.cli.parser", "fastbn.cli.stats.run"])
def test_ctrl_c_during_imports(module, tmp_path):
    # Python imports sitecustomize at its start.
    (tmp_path / "sitecustomize.py").write_text(DEFAULT_SIGNALS + f"""
import sys

class Interrupting:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting)
""")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = run("-m", "fastbn", "info", PYTHONPATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_errors_of_the_command_line_itself_keep_their_traceback():
    program = ("import sys; sys.argv = ['fastbn', 'info']; import fastbn.cli.info\n"
               "def fail(): raise ImportError('of a bug')\n"
               "fastbn.cli.info.config = fail\n"
               "from fastbn.__main__ import main; main()")
    done = run("-c", program)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("ImportError: of a bug\n")


def test_other_programs_keep_their_hook():
    assert output("import sys, fastbn; print(sys.excepthook is sys.__excepthook__)") == "True"
    done = run("-c", "import fastbn", FASTBN_ISA="v9")
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(("argv", "orig_argv", "expected"), [
    (["-m", "info"], ["python", "-m", "fastbn", "info"], True),
    (["-m"], ["python", "-X", "dev", "-m", "fastbn"], True),
    (["-m", "info"], ["python", "-mfastbn", "info"], True),
    (["-m"], ["python", "-m", "fastbn.__main__"], True),
    (["-m", "fastbn"], ["python", "-m", "pytest", "fastbn"], False),
    (["/usr/bin/fastbn"], ["python", "/usr/bin/fastbn"], True),
    (["fastbn.exe", "info"], ["fastbn.exe", "info"], True),
    (["-c"], ["python", "-c", "import fastbn"], False),
    ([""], ["python"], False),
    ([], ["program"], False),
], ids=str)
def test_which_program_is_the_command_line(argv, orig_argv, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert startup.is_command() is expected


def test_an_embedded_interpreter_without_arguments(monkeypatch):
    monkeypatch.delattr(sys, "argv")
    assert startup.is_command() is False


@pytest.mark.parametrize(("error", "line", "code"), [
    (ImportError("FASTBN_ISA='v9'; expected one of v3"), "FASTBN_ISA='v9'; expected one of v3\n", 2),
    (ImportError("two\nlines"), "fastbn cannot be imported: two lines\n", 1),
    (KeyboardInterrupt(), "interrupted\n", 130),
], ids=repr)
def test_one_line(error, line, code, capsys):
    with pytest.raises(SystemExit) as end:
        startup._report(type(error), error, None)
    assert end.value.code == code
    assert capsys.readouterr() == ("", line)


def test_nothing_without_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit):
        startup._report(KeyboardInterrupt, KeyboardInterrupt(), None)
    monkeypatch.undo()
    assert capsys.readouterr() == ("", "")


def test_other_errors_keep_their_traceback(capsys):
    startup._report(ValueError, ValueError("a value"), None)
    assert capsys.readouterr().err.endswith("ValueError: a value\n")
