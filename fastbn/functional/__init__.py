"""Normalization without state: forward, inference and backward, one file for each member of the family.

The functions of second order, one file for each kind, are the same closed form for all members.
"""

from fastbn._core.saved import Saved
from fastbn._core.saved_groups import GroupSaved
from fastbn._core.saved_rows import RowSaved
from fastbn.functional.backward_backward import (
    batch_norm_backward_backward,
    group_norm_backward_backward,
    instance_norm_backward_backward,
    layer_norm_backward_backward,
    rms_norm_backward_backward,
)
from fastbn.functional.batchnorm import batch_norm_backward, batch_norm_inference, batch_norm_training
from fastbn.functional.conditional import (
    conditional_batch_norm_backward,
    conditional_batch_norm_inference,
    conditional_batch_norm_training,
)
from fastbn.functional.groupnorm import group_norm_backward, group_norm_inference, group_norm_training
from fastbn.functional.inplace import inplace_batch_norm_backward, inplace_batch_norm_training
from fastbn.functional.instancenorm import instance_norm_backward, instance_norm_inference, instance_norm_training
from fastbn.functional.jvp import batch_norm_jvp, group_norm_jvp, instance_norm_jvp, layer_norm_jvp, rms_norm_jvp
from fastbn.functional.layernorm import layer_norm_backward, layer_norm_inference, layer_norm_training
from fastbn.functional.renorm import SavedRenorm, batch_renorm_backward, batch_renorm_training
from fastbn.functional.rmsnorm import rms_norm_backward, rms_norm_inference, rms_norm_training
from fastbn.functional.whitening import whitening_backward, whitening_inference, whitening_training
from fastbn.functional.whitening_saved import WhiteningSaved

__all__ = [
    "GroupSaved",
    "RowSaved",
    "Saved",
    "SavedRenorm",
    "WhiteningSaved",
    "batch_norm_backward",
    "batch_norm_backward_backward",
    "batch_norm_inference",
    "batch_norm_jvp",
    "batch_norm_training",
    "batch_renorm_backward",
    "batch_renorm_training",
    "conditional_batch_norm_backward",
    "conditional_batch_norm_inference",
    "conditional_batch_norm_training",
    "group_norm_backward",
    "group_norm_backward_backward",
    "group_norm_inference",
    "group_norm_jvp",
    "group_norm_training",
    "inplace_batch_norm_backward",
    "inplace_batch_norm_training",
    "instance_norm_backward",
    "instance_norm_backward_backward",
    "instance_norm_inference",
    "instance_norm_jvp",
    "instance_norm_training",
    "layer_norm_backward",
    "layer_norm_backward_backward",
    "layer_norm_inference",
    "layer_norm_jvp",
    "layer_norm_training",
    "rms_norm_backward",
    "rms_norm_backward_backward",
    "rms_norm_inference",
    "rms_norm_jvp",
    "rms_norm_training",
    "whitening_backward",
    "whitening_inference",
    "whitening_training",
]
