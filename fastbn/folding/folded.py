"""Folding itself: a batch norm and the layer beside it become one layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.folding.certificate import Certificate, Probe, certify
from fastbn.folding.errors import FoldingError
from fastbn.folding.layer import Layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.affine import ChannelAffine


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """The parameters of a layer that does what it and a batch norm did.

    Attributes
    ----------
    weight : ndarray, shape and dtype of the layer's
        Read-only.
    bias : ndarray of the weight's dtype, shape (O,)
        Read-only.
    certificate : Certificate
        How far the outputs are from those of the unfolded layer.
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    certificate: Certificate


def constant_of(affine: ChannelAffine) -> NDArray[np.float64]:
    """Return what a batch norm maps zero to, a channel."""
    with np.errstate(all="ignore"):  # the folded parameters are looked at
        return affine.shift - affine.mean * affine.scale


def fold_after(layer: Layer, affine: ChannelAffine) -> Folded:
    """Fold a batch norm into the layer before it.

    (W x + b - mean) scale + shift = (scale W) x + ((b - mean) scale + shift)
    """
    check_channels(affine, layer.out_channels, "output")
    with np.errstate(all="ignore"):
        exact = replace(layer, weight=layer.weight * layer.per_output(affine.scale),
                        bias=(layer.bias - affine.mean) * affine.scale + affine.shift)
    return rounded(layer, affine, exact, Probe(before=False))


def fold_before(layer: Layer, affine: ChannelAffine, probe: Probe) -> Folded:
    """Fold a batch norm into the layer behind it, where the borders allow it.

    W (scale x + constant) + b = (W scale) x + (b + W constant), with constant = shift - mean scale
    """
    check_channels(affine, layer.in_channels, "input")
    with np.errstate(all="ignore"):
        added = layer.weight * layer.per_input(constant_of(affine))
        exact = replace(layer, weight=layer.weight * layer.per_input(affine.scale),
                        bias=layer.bias + added.sum(axis=tuple(range(2, added.ndim))).ravel())
    return rounded(layer, affine, exact, probe)


def check_channels(affine: ChannelAffine, channels: int, side: str) -> None:
    """Raise FoldingError unless a batch norm has as many channels as the layer."""
    if len(affine.mean) != channels:
        raise FoldingError(f"bn has {len(affine.mean)} channels; expected {channels}, the {side} channels of weight")


def rounded(layer: Layer, affine: ChannelAffine, exact: Layer, probe: Probe) -> Folded:
    """Return the parameters of `exact` in the layer's dtype, with a certificate."""
    weight, bias = exact.parameters()
    weight.flags.writeable = bias.flags.writeable = False
    folded = Layer.from_parameters(weight, bias, groups=layer.groups, transposed=layer.transposed)
    return Folded(weight, bias, certify(layer, affine, folded, probe))
