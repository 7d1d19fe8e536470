"""The arithmetic of folding: a batch norm and a neighboring layer become one layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.overrides import check_methods
from fastbn.affine import ChannelAffine
from fastbn.folding.certificate import Certificate, Probe, certify
from fastbn.folding.errors import FoldingError
from fastbn.folding.layer import Layer
from fastbn.layers.batchnorm import BatchNorm

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """The parameters of a layer that replaces a layer and a batch norm.

    Attributes
    ----------
    weight : ndarray
        With the shape and the dtype of the layer's weight. Read-only.
    bias : ndarray, shape (O,)
        With the dtype of the weight. Read-only.
    certificate : Certificate
        The measured difference between the outputs of the folded and the original layer.
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    certificate: Certificate


def affine_of(bn: BatchNorm | ChannelAffine) -> ChannelAffine:
    """Return the transform of a batch norm at inference."""
    if isinstance(bn, ChannelAffine):
        return bn
    if not isinstance(bn, BatchNorm):
        raise TypeError(f"bn must be a BatchNorm or a ChannelAffine, got {type(bn).__name__}")
    if type(bn).frozen is BatchNorm.frozen:     # an overridden frozen describes the overridden __call__
        check_methods(bn, "bn", BatchNorm, ("__call__",))
    return bn.frozen()


def constant_of(affine: ChannelAffine) -> NDArray[np.float64]:
    """Return the value that a batch norm maps zero to, for each channel."""
    with np.errstate(all="ignore"):  # the folded parameters are checked instead
        return affine.shift - affine.mean * affine.scale


def fold_after(layer: Layer, affine: ChannelAffine) -> Folded:
    """Fold a batch norm into the layer before it.

    (W x + b - mean) scale + shift = (scale W) x + ((b - mean) scale + shift)
    """
    check_channels(affine, layer.out_channels, "output")
    with np.errstate(all="ignore"):
        exact = replace(layer, weight=layer.weight * layer.per_output(affine.scale),
                        bias=(layer.bias - affine.mean) * affine.scale + affine.shift)
    return _rounded(layer, affine, exact, Probe(before=False))


def fold_before(layer: Layer, affine: ChannelAffine, probe: Probe) -> Folded:
    """Fold a batch norm into the layer after it. The caller has checked the borders.

    W (scale x + constant) + b = (W scale) x + (b + W constant), with constant = shift - mean scale
    """
    check_channels(affine, layer.in_channels, "input")
    with np.errstate(all="ignore"):
        added = layer.weight * layer.per_input(constant_of(affine))
        exact = replace(layer, weight=layer.weight * layer.per_input(affine.scale),
                        bias=layer.bias + added.sum(axis=tuple(range(2, added.ndim))).ravel())
    return _rounded(layer, affine, exact, probe)


def check_channels(affine: ChannelAffine, channels: int, side: str) -> None:
    """Raise FoldingError unless a batch norm has as many channels as the layer."""
    if len(affine.mean) != channels:
        raise FoldingError(f"bn has {len(affine.mean)} channels; expected {channels}, the {side} channels of weight")


def _rounded(layer: Layer, affine: ChannelAffine, exact: Layer, probe: Probe) -> Folded:
    # The parameters of `exact` in the layer's dtype, with a certificate.
    weight, bias = exact.parameters()
    weight.flags.writeable = bias.flags.writeable = False
    folded = Layer.from_parameters(weight, bias, groups=layer.groups, transposed=layer.transposed)
    return Folded(weight, bias, certify(layer, affine, folded, probe))
