"""Includes the kernels of all ISA levels, one of which `fastbn._core.dispatch` imports by name."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

KERNELS = Path(__file__).parents[1] / "_core" / "kernels"

hiddenimports = sorted({
    f"fastbn._core.kernels.{file.name.removesuffix(suffix)}"
    for suffix in EXTENSION_SUFFIXES for file in KERNELS.glob(f"*{suffix}") if "." not in file.name.removesuffix(suffix)
})
