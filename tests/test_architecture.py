"""The structure of the package: imports point down its layers, and functions and files stay small."""

import ast
import re
from pathlib import Path

import pytest

import fastbn

ROOT = Path(fastbn.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
SOURCES = sorted([*FILES, *ROOT.rglob("*.pyx"), *ROOT.rglob("*.pxi")])
# From top to bottom. A module imports from its own row or from lower ones.
ROWS = (
    ("__main__", "cli"),
    ("folding",),
    ("layers", "mpi"),
    ("checkpoints", "sklearn", "dask"),
    ("statistics",),
    ("affine", "functional"),
    ("_core",),
)
# The root imports all public names; hooks of PyInstaller run outside the package.
APART = ("fastbn", "fastbn._pyinstaller")
MOST_POSITIONAL = 6
MOST_LINES = 420


def name_of(path):
    """The dotted name of a module."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def cython_imports(path):
    """The import statements of a Cython file and of the files it includes, as a module of Python."""
    lines = []
    for line in path.read_text().splitlines():
        include = re.match(r'include "(.+)"', line)
        if include:
            lines += ast.unparse(cython_imports(path.parent / include[1])).splitlines()
        elif re.match(r"\s*(from \S+ c?import|c?import) ", line):
            lines.append(line.strip().replace("cimport", "import"))
    return ast.parse("\n".join(lines))


MODULES = {name_of(path): ast.parse(path.read_text()) for path in FILES if path.stem.isidentifier()}
# A compiled module has the imports of its source, of its declarations and of its stub.
COMPILED = {name_of(path): ast.Module([
    *cython_imports(path).body,
    *(cython_imports(path.with_suffix(".pxd")).body if path.with_suffix(".pxd").exists() else ()),
    *(ast.parse(path.with_suffix(".pyi").read_text()).body if path.with_suffix(".pyi").exists() else ()),
], []) for path in ROOT.rglob("*.pyx")}


def row(module):
    """The number of the row of a module, from the top."""
    first = module.split(".")[1]
    return next(k for k, names in enumerate(ROWS) if first in names)


def imports(module, at_import=False):
    """The modules of the package that a module imports, anywhere; or only when it is imported itself."""
    found = set()
    stack = [(MODULES | COMPILED)[module]]
    while stack:
        node = stack.pop()
        if at_import and (isinstance(node, (ast.FunctionDef, ast.Lambda)) or (
                isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")):
            continue
        stack += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name in names if name in MODULES or name in COMPILED}
            found |= known | ({node.module} if known != names else set())
    return {name for name in found if name.split(".")[0] == "fastbn"} - {module}


def test_every_module_has_a_row():
    for module in MODULES:
        if module not in APART and not module.startswith("fastbn._pyinstaller"):
            assert row(module) in range(len(ROWS))


@pytest.mark.parametrize("module", [
    name for name in MODULES | COMPILED if not name.startswith(APART[1]) and name != APART[0]])
def test_imports_point_down(module):
    for other in imports(module):
        assert other != "fastbn" or row(module) == 0, f"{module} imports the root, which imports everything"
        if other != "fastbn":
            assert row(other) >= row(module), f"{module} imports {other}, which is above it"


@pytest.mark.parametrize("at_import", [True, False], ids=["at import", "anywhere"])
def test_no_cycles(at_import):
    names = MODULES.keys() - {"fastbn"} | COMPILED.keys()
    graph = {name: imports(name, at_import) & names for name in names}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name):], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


def functions():
    """Every function of the package, with a name for messages."""
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{module}.{node.name}", node


def test_few_positional_parameters():
    many = {}
    for name, node in functions():
        parameters = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        count = len(parameters) - (parameters[:1] in (["self"], ["cls"]))
        if count > MOST_POSITIONAL:
            many[name] = count
    assert not many


def test_no_casts_of_own_classes():
    # The readers of files cast streams of the standard library, whose types are too wide.
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("cast", "typing.cast"):
                assert module.startswith("fastbn.cli.stats.readers"), ast.unparse(node)


def test_short_files():
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}
