"""Fold a batch norm into a linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastbn.folding.arithmetic import Folded, affine_of, fold_after, fold_before
from fastbn.folding.certificate import Probe
from fastbn.folding.layer import Layer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from fastbn.affine import ChannelAffine
    from fastbn.layers.batchnorm import BatchNorm


def fold_linear(weight: ArrayLike, bias: ArrayLike | None, bn: BatchNorm | ChannelAffine) -> Folded:
    """Fold a batch norm that follows a linear layer into the layer.

    Parameters
    ----------
    weight : array_like of float32, float64, float16 or bfloat16, shape (O, I)
    bias : array_like, shape (O,), or None
    bn : BatchNorm or ChannelAffine
        With O channels.

    Returns
    -------
    Folded
        As from `fold_conv`.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        As `fold_conv`.

    Examples
    --------
    >>> import fastbn
    >>> bn = fastbn.ChannelAffine(mean=[1.0], scale=[2.0], shift=[0.5])
    >>> folded = fastbn.fold_linear([[3.0, 4.0]], [2.0], bn)
    >>> folded.weight, folded.bias
    (array([[6., 8.]]), array([2.5]))
    """
    return fold_after(_layer(weight, bias), affine_of(bn))


def fold_before_linear(bn: BatchNorm | ChannelAffine, weight: ArrayLike, bias: ArrayLike | None) -> Folded:
    """Fold a batch norm that precedes a linear layer into the layer.

    Parameters
    ----------
    bn : BatchNorm or ChannelAffine
        With I channels.
    weight, bias
        As in `fold_linear`.

    Returns
    -------
    Folded
        As from `fold_before_conv`.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        As `fold_conv`.

    Examples
    --------
    >>> import fastbn
    >>> bn = fastbn.ChannelAffine(mean=[1.0, 0.0], scale=[2.0, 1.0], shift=[0.0, 1.0])
    >>> folded = fastbn.fold_before_linear(bn, [[3.0, 4.0]], None)
    >>> folded.weight, folded.bias
    (array([[6., 4.]]), array([-2.]))
    """
    return fold_before(_layer(weight, bias), affine_of(bn), Probe(before=True))


def _layer(weight: ArrayLike, bias: ArrayLike | None) -> Layer:
    layer = Layer.from_parameters(weight, bias)
    if layer.kernel:
        raise ValueError(f"weight has {len(layer.kernel) + 2} axes; expected 2, (O, I)")
    return layer
