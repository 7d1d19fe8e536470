"""The Python code of the documents: where it is, and how it runs."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^(?:<!-- needs (?P<needs>[\w, ]+) -->\n)?```python\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(path):
    """Return the code of each block of a document, at its line, with the packages that a comment before it names."""
    text = path.read_text()
    for block in BLOCK.finditer(text):
        needs = block["needs"].split(", ") if block["needs"] else []
        yield "\n" * text.count("\n", 0, block.start("code")) + block["code"], needs


def run(path):
    """Run the blocks of a document in one namespace, but those that need what is not installed; return the names."""
    names = {"__name__": "__main__"}
    for code, needs in blocks(path):
        if all(importlib.util.find_spec(package) for package in needs):
            exec(compile(code, str(path), "exec"), names)
    return names
