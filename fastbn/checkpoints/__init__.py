"""Checkpoints: the conventions of the frameworks, safe file formats, and the conversion of layers.

`load`, `save` and `restore` read and write files. `convert` and `convert_momentum` translate between the conventions in
`CONVENTIONS`. `from_torch`, `from_keras` and `from_onnx` convert objects of other frameworks. `fastbn.BatchNorm` has
methods of the same names for single layers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbn.checkpoints.conventions import CONVENTIONS, Convention
    from fastbn.checkpoints.conversion import convert, convert_momentum
    from fastbn.checkpoints.frameworks.keras import from_keras
    from fastbn.checkpoints.frameworks.onnx import from_onnx
    from fastbn.checkpoints.frameworks.torch import from_torch
    from fastbn.checkpoints.loading import load, load_layer, restore
    from fastbn.checkpoints.saving import save, save_layer

__all__ = [
    "CONVENTIONS",
    "Convention",
    "convert",
    "convert_momentum",
    "from_keras",
    "from_onnx",
    "from_torch",
    "load",
    "load_layer",
    "restore",
    "save",
    "save_layer",
]

if not TYPE_CHECKING:
    _MODULES = {
        "conventions": ("CONVENTIONS", "Convention"),
        "conversion": ("convert", "convert_momentum"),
        "frameworks.keras": ("from_keras",),
        "frameworks.onnx": ("from_onnx",),
        "frameworks.torch": ("from_torch",),
        "loading": ("load", "load_layer", "restore"),
        "saving": ("save", "save_layer"),
    }

    def __getattr__(name: str) -> Any:
        """Import a public name on first use, so that ``import fastbn`` does not load the file formats."""
        for module, names in _MODULES.items():
            if name in names:
                globals()[name] = value = getattr(import_module(f"{__name__}.{module}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
