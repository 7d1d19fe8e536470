"""The package in a source folder, while another copy is installed."""

import shutil
from pathlib import Path

import pytest

import fastbn
from fastbn._core.source_tree import find_built, is_built
from tests.process import output

PACKAGE = Path(fastbn._core.views.__file__).parents[1]


@pytest.fixture
def clone(tmp_path):
    """A source folder without compiled modules."""
    package = tmp_path / "fastbn"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    return package


def test_only_a_folder_with_compiled_modules_is_built(clone):
    assert is_built(PACKAGE)
    assert not is_built(clone)


def test_a_built_folder_is_its_own_answer(clone):
    assert find_built(PACKAGE, [str(clone.parent)]) == PACKAGE


def test_the_installed_package_serves_a_clone(clone):
    assert find_built(clone, [str(clone.parent), "/nowhere", str(PACKAGE.parent)]) == PACKAGE


def test_without_any_the_error_tells_what_to_do(clone):
    with pytest.raises(ImportError, match="pip install -e"):
        find_built(clone, [str(clone.parent)])


def test_import_in_a_clone(clone):
    code = (
        f"import sys; sys.path[:0] = [{str(clone.parent)!r}]; sys.path.append({str(PACKAGE.parent)!r})\n"
        "import numpy as np, fastbn\n"
        "print(fastbn.__file__); print(fastbn._core.views.__file__)\n"
        "print(fastbn.BatchNorm(2)(np.eye(2)).shape)"
    )
    own, compiled, shape = output(code).splitlines()
    assert Path(own).parent == clone
    assert Path(compiled).parents[1] == PACKAGE
    assert shape == "(2, 2)"
