"""Lets Python run in the source folder of an installed fastbn.

``python -m fastbn`` puts the current folder first on the path. In a clone whose package was installed with
``pip install .`` that is this folder, which has no compiled modules; the installed package, further down the path, has.
"""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path


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


def use_built(search_path: list[str]) -> None:
    """Point the `__path__` of the package, and that of `fastbn._core`, to where it was built."""
    built = find_built(Path(search_path[0]), sys.path)
    search_path[:] = [str(built)]
    sys.modules[__package__].__path__[:] = [str(built / "_core")]      # imported already, as the home of this module
