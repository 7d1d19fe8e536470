"""Choose the kernels for this CPU, once, at import.

``FASTBN_ISA=v2|v3|v4`` overrides the choice. The import fails if the CPU or the build does not have that level.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING

from fastbn._core.kernels import cpu

# Best first, each with the x86-64 level that it requires.
LEVELS = {"v4": 4, "v3": 3, "v2": 2, "base": 1}


def built() -> list[str]:
    """Return the levels of this build, best first."""
    return [name for name in LEVELS if importlib.util.find_spec(f"fastbn._core.kernels.{name}")]


def supported() -> list[str]:
    """Return the levels of `built` that this CPU can run, best first."""
    level = cpu.level()
    return [name for name in built() if LEVELS[name] <= level]


def choose(wanted: str | None) -> str:
    """Return the level to use: `wanted`, or the best one for None.

    Raises
    ------
    ImportError
        If `wanted` is unknown, not built, or not supported by this CPU; or if this CPU supports no built level.
    """
    can = supported()
    if not wanted:
        if not can:
            raise ImportError(f"fastbn was built for {', '.join(built())}, and this CPU has x86-64 level {cpu.level()}")
        return can[0]
    if wanted not in LEVELS:
        raise ImportError(f"FASTBN_ISA={wanted!r}; expected one of {', '.join(built())}")
    if wanted not in built():
        raise ImportError(f"FASTBN_ISA={wanted!r}, but this build has only {', '.join(built())}")
    if wanted not in can:
        raise ImportError(f"FASTBN_ISA={wanted!r}, but this CPU has only {', '.join(can)}")
    return wanted


isa: str = choose(os.environ.get("FASTBN_ISA", "").strip().lower() or None)
if TYPE_CHECKING:
    from fastbn._core.kernels import v2

    kernels = v2  # one stub describes all levels, which share their source
else:
    kernels = importlib.import_module(f"fastbn._core.kernels.{isa}")
