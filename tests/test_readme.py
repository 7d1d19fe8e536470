"""The README's code runs from top to bottom, and its quick start is what CI tests."""

from tests.documents import ROOT, run


def test_code_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)     # one block writes a file
    names = run(ROOT / "README.md")
    total, x = names["total"], names["x"]
    assert (total.count == x.size // 3).all()
    assert abs(total.mean - x.mean((0, 2, 3), dtype=float)).max() < 1e-12


def test_quick_start_is_two_commands():
    text = (ROOT / "README.md").read_text()
    quick = text.split("## Quick start\n")[1].split("##")[0]
    commands = [line.strip() for line in quick.splitlines() if line.startswith("    ")]
    assert commands == [
        'pip install ".[demo]" && python -m fastbn demo',
        'pip install -e ".[test]" && python -m pytest',
    ]


def test_it_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
