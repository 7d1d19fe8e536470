"""Normalization without state: forward, inference and backward, one file for each member of the family."""

from fastbn._core.saved import Saved
from fastbn.functional.batchnorm import batch_norm_backward, batch_norm_inference, batch_norm_training
from fastbn.functional.renorm import SavedRenorm, batch_renorm_backward, batch_renorm_training

__all__ = [
    "Saved",
    "SavedRenorm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_training",
    "batch_renorm_backward",
    "batch_renorm_training",
]
