"""Layers from and to other frameworks: their conventions, their objects, and files that are safe to load.

`BatchNorm` has these as methods: ``BatchNorm.load``, ``save``, ``from_torch``, ``from_keras`` and ``from_onnx``. `load`
and `save` of this package are for files of several layers.
"""

from fastbn.checkpoints.conventions import CONVENTIONS, Convention
from fastbn.checkpoints.conversion import convert, convert_momentum
from fastbn.checkpoints.layers import load_layer, restore, save_layer
from fastbn.checkpoints.objects import from_keras, from_onnx, from_torch
from fastbn.checkpoints.several import load, save

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
