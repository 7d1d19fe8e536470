"""The overview, the name of the program, the list of commands, and the metadata of the package for them."""

import os
import re
import subprocess
import sys

import pytest

from fastbn.__main__ import main
from fastbn._core.extras import hint, missing
from fastbn.cli import arguments
from fastbn.cli.parser import COMMANDS, DOCUMENTATION, build_parser, join_values
from tests.process import PATIENCE, ROOT, run, settings

MODULE = "python -m fastbn"


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The console script, as pip writes it."""
    path = tmp_path_factory.mktemp("bin") / "fastbn"
    path.write_text("import sys\nfrom fastbn.__main__ import main\nsys.exit(main())\n")
    return path


def run_script(script, *given):
    return subprocess.run([sys.executable, str(script), *given], **settings({"PYTHONPATH": os.pathsep.join(sys.path)}),
                          capture_output=True, timeout=PATIENCE, check=False)


def test_overview(capsys):
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("fastbn ")
    for command in COMMANDS:
        assert f"  {command.name:<7}{command.summary}\n" in out
        assert f"$ {MODULE} {command.name}" in out
    assert out.endswith(f"Documentation: {DOCUMENTATION}\n")
    assert max(map(len, out.splitlines())) < 100


def test_the_overview_needs_no_valid_number_of_threads():
    done = run("-m", "fastbn", FASTBN_NUM_THREADS="abc")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_program_has_the_name_by_which_it_was_called(script):
    for name, done in ((MODULE, run("-m", "fastbn")), ("fastbn", run_script(script))):
        assert done.returncode == 0, done.stderr
        assert f"         $ {name} info\n" in done.stdout
        assert f"Options of a command: {name} COMMAND --help\n" in done.stdout
    for name, done in ((MODULE, run("-m", "fastbn", "info", "x")), ("fastbn", run_script(script, "info", "x"))):
        assert done.returncode == 2
        assert done.stderr.startswith(f"usage: {name} ")
        assert done.stderr.endswith(f"{name}: error: unrecognized arguments: x\n")


def test_both_programs_print_the_same(script):
    for given in (["--version"], ["info"], ["demo", "--help"], ["stats", "none.npy"]):
        module, called = run("-m", "fastbn", *given), run_script(script, *given)
        assert called.returncode == module.returncode
        assert called.stderr == module.stderr
        # The name of the program changes the line breaks of the usage.
        assert called.stdout.split() == module.stdout.replace(MODULE, "fastbn").split()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command.name, "--help"])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"usage: {MODULE} {command.name} ")


def test_every_example_has_valid_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        assert build_parser().parse_args([command.name, *command.example.split()]).run is command.run


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in Python 3.11")
@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="there is no source tree")
def test_metadata():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"fastbn": "fastbn.__main__:main"}
    assert project["urls"]["Documentation"] == DOCUMENTATION
    extras = set(project["optional-dependencies"])
    named = re.compile(r"""(?<!np\.)(?:hint\(|missing\(.*, |require\(.*?, .*?, )["'](\w+)["']""")
    found = {name for path in (ROOT / "fastbn").rglob("*.py") for name in named.findall(path.read_text())}
    assert {"dask", "demo", "images", "onnx", "population", "sklearn", "stats", "zarr"} <= found
    assert found <= extras


def test_hints():
    assert hint("demo") == 'pip install ".[demo]"'
    assert missing("A", "b", "c") == 'A needs b, which is not installed: pip install ".[c]"'


def test_values_that_begin_with_a_minus_sign():
    options = {"--nodata"}
    assert join_values(["x", "--nodata", "-inf", "--axis", "-1"], options) == ["x", "--nodata=-inf", "--axis", "-1"]
    assert join_values(["x", "--nodata"], options) == ["x", "--nodata"]
    assert join_values([], options) == []


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("-9223372036854775808", -2**63), ("1e3", 1000), ("-0.5", -0.5), ("1" * 400, int("1" * 400))])
def test_numbers(text, value):
    assert arguments.number(text) == value
    assert type(arguments.number(text)) is type(value)


def test_numbers_that_are_not_finite():
    assert arguments.number("-inf") == float("-inf")
    assert arguments.number("nan") != arguments.number("nan")
