"""Normalization without state: forward, inference and backward, one file for each member of the family."""

from fastbn._core.saved import Saved
from fastbn.functional.batchnorm import batch_norm_backward, batch_norm_inference, batch_norm_training
from fastbn.functional.conditional import (
    conditional_batch_norm_backward,
    conditional_batch_norm_inference,
    conditional_batch_norm_training,
)
from fastbn.functional.inplace import inplace_batch_norm_backward, inplace_batch_norm_training

__all__ = [
    "Saved",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_training",
    "conditional_batch_norm_backward",
    "conditional_batch_norm_inference",
    "conditional_batch_norm_training",
    "inplace_batch_norm_backward",
    "inplace_batch_norm_training",
]
