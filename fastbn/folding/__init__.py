"""Fold batch norms into the neighboring convolutions and linear layers, for inference.

`fold_conv` and `fold_linear` fold a batch norm that follows the layer; `fold_before_conv` and `fold_before_linear` fold
one that precedes it. ``python -m fastbn fold`` folds all batch norms of an ONNX model.
"""

from fastbn.folding.arithmetic import Folded
from fastbn.folding.certificate import Certificate
from fastbn.folding.conv import fold_before_conv, fold_conv
from fastbn.folding.errors import FoldingError
from fastbn.folding.linear import fold_before_linear, fold_linear

__all__ = [
    "Certificate",
    "Folded",
    "FoldingError",
    "fold_before_conv",
    "fold_before_linear",
    "fold_conv",
    "fold_linear",
]
