"""The tutorial: all of its code, and its notebook."""

import json
import runpy

import pytest

pytest.importorskip("sklearn", reason="the demo extra is not installed: no scikit-learn")

from tests.documents import ROOT, blocks, run

NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"


def test_all_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(ROOT / "docs" / "tutorial.md")
    assert names["with_batch_norm"] > 95
    assert len(names["folded"]) == 2


def test_the_notebook_is_the_tutorial(monkeypatch):
    assert NOTEBOOK.read_text() == runpy.run_path(str(ROOT / "docs" / "notebook.py"))["notebook"]()
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == len([*blocks(ROOT / "docs" / "tutorial.md")]) + 1
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path not in ("", str(ROOT))])
    exec("\n".join(code), {"__name__": "__main__"})
