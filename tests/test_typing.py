"""Type checkers accept the README's code, and know the type of every public symbol."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastbn
from tests.process import PATIENCE, ROOT

PACKAGES = Path(fastbn.__file__).parents[1]     # the folder that the checkers search for fastbn
BLOCK = re.compile(r"(<!-- needs (\w+) -->\n)?```python\n(.*?)```", re.DOTALL)


def is_installed(name):
    return importlib.util.find_spec(name) is not None


def check(tool, *arguments, cwd):
    """Run a type checker and return the process; skip the test if the tool is not installed."""
    if not is_installed(tool):
        pytest.skip(f"{tool} is not installed: pip install {tool}")
    paths = {} if PACKAGES.name == "site-packages" else {"PYTHONPATH": str(PACKAGES), "MYPYPATH": str(PACKAGES)}
    return subprocess.run([sys.executable, "-m", tool, *arguments], cwd=cwd, env=os.environ | paths, check=False,
                          capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The Python code of README.md in one file, without the blocks for packages that are not installed."""
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert blocks
    path = tmp_path_factory.mktemp("readme") / "readme.py"
    path.write_text("\n".join(code for _, package, code in blocks if not package or is_installed(package)))
    return path


def test_mypy_accepts_the_readme(program):
    # Blocks use the same names for values of different types.
    options = ("--strict", "--allow-redefinition", "--ignore-missing-imports", "--follow-imports=silent",
               "--config-file=", "--cache-dir=.cache")
    done = check("mypy", *options, program.name, cwd=program.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright_accepts_the_readme(program):
    settings = {"include": [program.name], "reportMissingImports": False, "reportMissingModuleSource": False}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    done = check("pyright", cwd=program.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_type_of_every_public_symbol_is_known(tmp_path):
    done = check("pyright", "--verifytypes", "fastbn", "--ignoreexternal", "--outputjson", cwd=tmp_path)
    report = json.loads(done.stdout)["typeCompleteness"]
    unknown = [symbol["name"] for symbol in report["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert unknown == []
    assert report["completenessScore"] == 1
