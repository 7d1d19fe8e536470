"""The code in the documents runs as it stands, block after block."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize(("name", "blocks"), [("service.md", 4), ("statistics.md", 8)])
def test_code_blocks_run(name, blocks):
    found = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    assert len(found) == blocks
    namespace = {}
    for code in found:
        exec(compile(code, name, "exec"), namespace)
