"""The documents: their code runs, their files exist, and the reference has every public name."""

import ast
import re
import runpy

import pytest

from tests import process
from tests.documents import ROOT, blocks, run

DOCS = ROOT / "docs"
# tests/interop/test_scale_document.py runs the code of scale.md, on two ranks.
DOCUMENTS = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")
                   if any(blocks(path)) and path.name != "scale.md")
ENTRY = re.compile(r"^\.\. auto(?:class|function|exception|data):: ([\w.]+)$", re.MULTILINE)
PATH = re.compile(r"`((?:benchmarks|docs|examples|fastbn|tests)/[\w./-]+)`")
# Public modules are in the root of the package; private code is in folders, but for these three.
MODULES = ["fastbn", "fastbn.checkpoints", "fastbn.folding", "fastbn.functional",
           *(f"fastbn.{path.stem}" for path in sorted((ROOT / "fastbn").glob("[a-z]*.py")))]


def public_names(module):
    """Return the names of a module's ``__all__``, without importing what it needs."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", None) == "__all__" for target in node.targets):
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path} has no __all__")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")      # of Keras
@pytest.mark.parametrize("name", DOCUMENTS)
def test_code_blocks_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)     # some write files
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    run(DOCS / name)


def test_every_guide_is_found():
    assert {"getting-started.md", "guides/training.md", "guides/checkpoints.md"} <= set(DOCUMENTS)


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_has_every_public_name(module):
    entries = {entry for path in (DOCS / "reference").glob("*.md") for entry in ENTRY.findall(path.read_text())}
    undocumented = {name for name in public_names(module) if not {f"{module}.{name}", f"fastbn.{name}"} & entries}
    assert undocumented <= {"functional"}       # a module, which has a page


@pytest.mark.parametrize("path", [ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))], ids=lambda path: path.name)
def test_files_that_are_named_exist(path):
    named = [name for name in PATH.findall(path.read_text()) if not re.search("[A-Z]{4}", name)]      # NAME, FRAMEWORK
    missing = [name for name in named if not (ROOT / name).exists()]
    assert path.name == "changelog.md" or not missing


def test_the_description_of_the_kernels_has_every_file():
    kernels = ROOT / "fastbn" / "_core" / "kernels"
    named = re.findall(r"`([a-z]+/\w+\.pxi)`", (DOCS / "how-it-works.md").read_text())
    assert set(named) == {path.relative_to(kernels).as_posix() for path in kernels.glob("*/*.pxi")}


@pytest.mark.parametrize("command", ["info", "demo", "stats", "fold"])
def test_the_guide_of_the_command_line_has_every_option(command):
    options = set(re.findall(r"--[a-z-]+", process.run("-m", "fastbn", command, "--help").stdout)) - {"--help"}
    guide = (DOCS / "guides" / "command-line.md").read_text() + (DOCS / "guides" / "folding.md").read_text()
    assert options
    assert not [option for option in options if option not in guide]


@pytest.mark.parametrize("name", ["data_flow", "family"])
def test_the_diagram_is_what_its_script_draws(name):
    script = DOCS / "diagrams" / f"{name}.py"
    draw = runpy.run_path(str(script))["draw"]
    assert script.with_suffix(".svg").read_text() == draw()
