"""Batch norms that vanish into the layers beside them: for inference, once training is over.

`fold_conv` and `fold_linear` fold a batch norm that comes after a layer, `fold_before_conv` and `fold_before_linear`
one that comes before it. ``python -m fastbn fold`` does all of a graph in an ONNX file.
"""

from fastbn.folding.certificate import Certificate
from fastbn.folding.errors import FoldingError
from fastbn.folding.folded import Folded
from fastbn.folding.parameters import fold_before_conv, fold_before_linear, fold_conv, fold_linear

__all__ = [
    "Certificate",
    "Folded",
    "FoldingError",
    "fold_before_conv",
    "fold_before_linear",
    "fold_conv",
    "fold_linear",
]
