"""The public names: where they claim to live, what pickles call them, and their examples."""

import ast
import copy
import doctest
import importlib
import inspect
import pickle
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import fastbn
from tests import doctests

PUBLIC = {name: getattr(fastbn, name) for name in fastbn.__all__ if callable(getattr(fastbn, name))}
MODULES = sorted(module.name for module in pkgutil.walk_packages(fastbn.__path__, "fastbn."))
PRIVATE = ("fastbn.cli", "fastbn.layers", "fastbn.statistics")
PLAN = fastbn.ChannelAffine([0.0], [1.0], [0.0]).bind((2, 1))


@pytest.mark.parametrize("name", PUBLIC)
def test_names(name):
    assert PUBLIC[name].__module__ == "fastbn"
    assert PUBLIC[name].__qualname__ == name
    assert pickle.loads(pickle.dumps(PUBLIC[name])) is PUBLIC[name]


@pytest.mark.parametrize("value", [
    fastbn.ChannelStats(2).update(np.ones((3, 2))), fastbn.ChannelAffine([0.0], [1.0], [0.0]), PLAN,
], ids=lambda value: type(value).__name__)
def test_pickles_name_no_private_module(value):
    data = pickle.dumps(value)
    assert b"fastbn._core" not in data
    assert b"fastbn.statistics" not in data
    assert repr(pickle.loads(data)) == repr(copy.copy(value)) == repr(value)


def test_source_can_be_shown():
    assert "def update" in inspect.getsource(fastbn.ChannelStats.update)
    assert "def set_num_threads" in inspect.getsource(fastbn.set_num_threads)


@pytest.mark.parametrize("name", ["fastbn", *(
    name for name in MODULES if name.count(".") == 1 and "_" not in name and name not in PRIVATE)])
def test_public_modules_have_all(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    assert [public for public in module.__all__ if not hasattr(module, public)] == []


def written(path, module):
    """Names of what has examples in a source file."""

    def below(node, name):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ">>>" in (ast.get_docstring(node) or ""):
            yield name
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
                yield from below(child, f"{name}.{child.name}")

    return sorted(below(ast.parse(path.read_text()), module))


def test_examples_are_found_once(monkeypatch):
    monkeypatch.setattr(doctest.DocTestFinder, "_from_module", doctests.from_module)
    expected, found = [], []
    for name in ("fastbn", *MODULES):
        spec = importlib.util.find_spec(name)
        if not spec.origin.endswith(".py") or name.endswith(".__main__") or "_pyinstaller" in name:
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:     # of an extra that is not installed
            continue
        expected += written(Path(spec.origin), name)
        found += [test.name for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    # A class without functions is found at the root.
    assert sorted(name.replace("fastbn.affine.Plan", "fastbn.Plan") for name in expected) == sorted(found)
