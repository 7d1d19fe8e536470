"""The README's code runs as it stands, block after block."""

import importlib.util
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_code_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)     # some write files
    text = README.read_text()
    blocks = re.findall(r"(<!-- needs torch -->\n)?```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 13
    has_torch = importlib.util.find_spec("torch") is not None
    namespace = {}
    for needs_torch, code in blocks:
        if not needs_torch or has_torch:
            exec(compile(code, str(README), "exec"), namespace)
    total, x = namespace["total"], namespace["x"]
    assert (total.count == x.size // 3).all()
    assert abs(total.mean - x.mean((0, 2, 3), dtype=float)).max() < 1e-12


def test_example_of_folding_runs():
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "folding.md").read_text(), re.DOTALL)
    namespace = {}
    exec(compile(code, "docs/folding.md", "exec"), namespace)
    folded, bn = namespace["folded"], namespace["bn"]
    assert folded.weight.shape == (8, 3, 5, 5)
    scale = np.float32(1 / np.sqrt(1 + bn.eps))
    np.testing.assert_allclose(folded.weight, namespace["weight"] * scale, rtol=1e-6)


def test_quick_start_is_two_commands():
    text = README.read_text()
    quick = text.split("## Quick start\n")[1].split("##")[0]
    commands = [line.strip() for line in quick.splitlines() if line.startswith("    ")]
    assert commands == [
        'pip install ".[demo]" && python -m fastbn demo',
        'pip install -e ".[test]" && python -m pytest',
    ]
