"""Find the compiled modules if Python runs in the source folder of an installed fastbn.

``python -m fastbn`` puts the current folder first on the path. In a clone whose package was installed with
``pip install .``, that folder has no compiled modules; the installed package, later on the path, has them.
"""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import fastbn._core

if TYPE_CHECKING:
    from collections.abc import MutableSequence


def is_built(package: Path) -> bool:
    """Return whether a package folder has the compiled modules."""
    return any((package / "_core" / f"views{suffix}").exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES)


def find_built(here: Path, path: list[str]) -> Path:
    """Return `here`, or if it was not built, the first built fastbn on `path`.

    Raises
    ------
    ImportError
        If there is none.
    """
    for folder in (here, *(Path(entry or ".") / "fastbn" for entry in path)):
        if is_built(folder):
            return folder
    raise ImportError(
        f"the compiled modules of fastbn are neither in {here} nor installed; in a clone, run: pip install -e .")


def use_built(search_path: MutableSequence[str]) -> None:
    """Set the `__path__` of the package, and that of the imported `fastbn._core`, to the built folders."""
    built = find_built(Path(search_path[0]), sys.path)
    search_path[:] = [str(built)]
    fastbn._core.__path__[:] = [str(built / "_core")]
