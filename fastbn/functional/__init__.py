"""Normalization without state: forward, inference and backward, one file for each member of the family."""

from fastbn._core.saved import Saved
from fastbn._core.saved_groups import GroupSaved
from fastbn.functional.batchnorm import batch_norm_backward, batch_norm_inference, batch_norm_training
from fastbn.functional.groupnorm import group_norm_backward, group_norm_inference, group_norm_training
from fastbn.functional.instancenorm import instance_norm_backward, instance_norm_inference, instance_norm_training

__all__ = [
    "GroupSaved",
    "Saved",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_training",
    "group_norm_backward",
    "group_norm_inference",
    "group_norm_training",
    "instance_norm_backward",
    "instance_norm_inference",
    "instance_norm_training",
]
