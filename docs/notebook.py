"""Write examples/tutorial.ipynb from docs/tutorial.md: ``python docs/notebook.py``."""

import json
import re
from pathlib import Path

DOCS = Path(__file__).parent
NOTEBOOK = DOCS.parent / "examples" / "tutorial.ipynb"
BLOCK = re.compile(r"(?:<!-- needs [\w, ]+ -->\n)?```python\n(.*?)```\n", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([\w./-]+\.md)")
# A notebook runs in its own folder; the examples are found from the root of the repository.
SETUP = "import os, sys\nsys.path.insert(0, os.path.abspath(os.pardir))"


def notebook() -> str:
    """Return the notebook as JSON: a cell for each block of code, and one for each text between two of them."""
    text = LINK.sub(r"](../docs/\1", (DOCS / "tutorial.md").read_text())
    cells = []
    for k, part in enumerate(BLOCK.split(text)):      # text and code in turn
        if part.strip():
            cells.append(cell("code" if k % 2 else "markdown", part.strip("\n")))
    cells.insert(1, cell("code", SETUP))
    for number, one in enumerate(cells):
        one["id"] = f"cell-{number}"
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"}}
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def cell(kind: str, source: str) -> dict[str, object]:
    """Return one cell."""
    lines = source.splitlines(keepends=True)
    extra: dict[str, object] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "id": "", "metadata": {}, **extra, "source": lines}


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook())
