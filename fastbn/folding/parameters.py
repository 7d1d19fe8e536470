"""Folding a batch norm into the parameters of the layer before or behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastbn._core.checks import check_flag
from fastbn._core.overrides import check_methods
from fastbn.affine import ChannelAffine
from fastbn.folding.borders import (
    all_taps_everywhere,
    check_conv_borders,
    check_padding,
    check_padding_mode,
    check_transposed_borders,
    per_axis,
)
from fastbn.folding.certificate import Probe
from fastbn.folding.folded import Folded, check_channels, constant_of, fold_after, fold_before
from fastbn.folding.layer import Layer
from fastbn.layers.batchnorm import BatchNorm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

CONV_RANKS = (1, 2, 3)


def fold_conv(
    weight: ArrayLike,
    bias: ArrayLike | None,
    bn: BatchNorm | ChannelAffine,
    *,
    groups: int = 1,
    transposed: bool = False,
) -> Folded:
    """Fold a batch norm that comes after a convolution into the convolution.

    bn(conv(x, weight, bias)) = conv(x, folded.weight, folded.bias), whatever stride, padding and dilation. After Jacob
    et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    section 3.2, https://arxiv.org/abs/1712.05877.

    Parameters
    ----------
    weight : array_like of float32, float64, float16 or bfloat16
        In PyTorch's layout, with one to three spatial axes: (O, I / groups, *kernel), or, transposed,
        (I, O / groups, *kernel).
    bias : array_like of one of these, not necessarily the same, shape (O,), or None
    bn : BatchNorm or ChannelAffine
        With O channels. Of a layer, the running averages count, whatever its mode. Its axis does not matter. A subclass
        that overrides ``__call__`` must override ``frozen`` too.
    groups : int
        1 for a full convolution, the number of channels for a depthwise one.
    transposed : bool
        Whether it is a transposed convolution.

    Returns
    -------
    Folded
        weight and bias, computed in float64 and rounded once to the dtype of `weight`, values that would be subnormal
        there to zero; and a certificate of the difference between the two layers. The certificate runs both on four
        small inputs; of a layer with more than 2^18 weights it computes some of the output channels.

    Raises
    ------
    RuntimeError
        If the layer keeps no running averages.
    TypeError, ValueError
        If the arguments do not fit together, a value is not finite, or a folded parameter overflows the dtype.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> weight = np.array([[[1.0, 2.0]], [[3.0, 4.0]]], np.float32)     # two outputs, one input, kernel of two
    >>> bn = fastbn.ChannelAffine(mean=[1.0, 0.0], scale=[2.0, 0.5], shift=[0.0, 5.0])
    >>> folded = fastbn.fold_conv(weight, None, bn)
    >>> folded.weight.tolist(), folded.bias.tolist()
    ([[[2.0, 4.0]], [[1.5, 2.0]]], [-2.0, 5.0])
    >>> folded.certificate
    Certificate(absolute=0.0, relative=0.0, probes=16)
    """
    return fold_after(conv_layer(weight, bias, groups, transposed), affine_of(bn))


def fold_linear(weight: ArrayLike, bias: ArrayLike | None, bn: BatchNorm | ChannelAffine) -> Folded:
    """Fold a batch norm that comes after a linear layer into the layer.

    Parameters
    ----------
    weight : array_like of float32, float64, float16 or bfloat16, shape (O, I)
    bias : array_like, shape (O,), or None
    bn : BatchNorm or ChannelAffine
        With O channels.

    Returns
    -------
    Folded
        As of `fold_conv`.

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
    return fold_after(linear_layer(weight, bias), affine_of(bn))


def fold_before_conv(
    bn: BatchNorm | ChannelAffine,
    weight: ArrayLike,
    bias: ArrayLike | None,
    *,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    padding_mode: str = "zeros",
) -> Folded:
    """Fold a batch norm that comes before a convolution into the convolution, where that is right.

    conv(bn(x), weight, bias) = conv(x, folded.weight, folded.bias). What the batch norm maps zero to,
    shift - mean * scale, goes into the bias, and this is right only where every output sees it through the whole
    kernel. Zero padding comes after the batch norm, so a padded convolution cannot take it up unless it is zero in
    every channel; reflected, replicated and circular padding can. A transposed convolution can with a stride of 1 and
    padding - output_padding at least dilation * (kernel - 1); else some outputs see fewer taps.

    Parameters
    ----------
    bn : BatchNorm or ChannelAffine
        With I channels.
    weight, bias, groups, transposed
        As in `fold_conv`.
    stride, padding, output_padding, dilation : int or sequence of int
        Of the convolution, as in PyTorch; padding also "valid" or "same". Only padding matters to one that is not
        transposed.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}

    Returns
    -------
    Folded
        As of `fold_conv`. The inputs of the certificate lie around bn's mean, and are padded where the convolution
        pads.

    Raises
    ------
    RuntimeError
        If the layer keeps no running averages.
    TypeError, ValueError
        As `fold_conv`; and ValueError where folding would change the result at the borders, with the channels.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> weight = np.array([[[1.0, 2.0]]])
    >>> bn = fastbn.ChannelAffine(mean=[1.0], scale=[2.0], shift=[0.0])
    >>> folded = fastbn.fold_before_conv(bn, weight, None)
    >>> folded.weight, folded.bias
    (array([[[2., 4.]]]), array([-6.]))
    >>> fastbn.fold_before_conv(bn, weight, None, padding=1)        # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fastbn.folding.errors.FoldingError: the convolution pads with zeros after the batch norm, ... channels 0, ...
    """
    layer, affine = conv_layer(weight, bias, groups, transposed), affine_of(bn)
    check_channels(affine, layer.in_channels, "input")
    rank = len(layer.kernel)
    strides, dilations = per_axis(stride, rank, "stride", 1), per_axis(dilation, rank, "dilation", 1)
    pads, extra = check_padding(padding, layer.kernel), per_axis(output_padding, rank, "output_padding", 0)
    mode = check_padding_mode(padding_mode)
    if transposed:
        if isinstance(padding, str) or mode != "zeros":
            raise ValueError("a transposed convolution takes padding in integers and padding_mode 'zeros', got "
                             f"padding {padding!r} and padding_mode {padding_mode!r}")
        cropped = [p - e for p, e in zip(pads, extra, strict=True)]
        uniform = all_taps_everywhere(layer.kernel, strides, dilations, cropped)
        check_transposed_borders(constant_of(affine), uniform)
        return fold_before(layer, affine, Probe(before=True, crop=uniform))
    if any(extra):
        raise ValueError(f"output_padding is for transposed convolutions; expected 0, got {output_padding!r}")
    if mode == "zeros":
        check_conv_borders(constant_of(affine), any(pads))
    around = tuple(k if p else 0 for k, p in zip(layer.kernel, pads, strict=True))
    return fold_before(layer, affine, Probe(before=True, padding=around, padding_mode=mode))


def fold_before_linear(bn: BatchNorm | ChannelAffine, weight: ArrayLike, bias: ArrayLike | None) -> Folded:
    """Fold a batch norm that comes before a linear layer into the layer.

    Parameters
    ----------
    bn : BatchNorm or ChannelAffine
        With I channels.
    weight, bias
        As in `fold_linear`.

    Returns
    -------
    Folded
        As of `fold_before_conv`.

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
    return fold_before(linear_layer(weight, bias), affine_of(bn), Probe(before=True))


def conv_layer(weight: ArrayLike, bias: ArrayLike | None, groups: int, transposed: bool) -> Layer:
    """Return the layer of a convolution, or raise the error of its arguments."""
    layer = Layer.from_parameters(weight, bias, groups=groups, transposed=check_flag(transposed, "transposed"))
    if len(layer.kernel) not in CONV_RANKS:
        raise ValueError(f"weight has {len(layer.kernel) + 2} axes; expected 3, 4 or 5, with one to three spatial axes")
    return layer


def linear_layer(weight: ArrayLike, bias: ArrayLike | None) -> Layer:
    """Return the layer of a matrix, or raise the error of its arguments."""
    layer = Layer.from_parameters(weight, bias)
    if layer.kernel:
        raise ValueError(f"weight has {len(layer.kernel) + 2} axes; expected 2, (O, I)")
    return layer


def affine_of(bn: BatchNorm | ChannelAffine) -> ChannelAffine:
    """Return what a batch norm is at inference."""
    if isinstance(bn, ChannelAffine):
        return bn
    if not isinstance(bn, BatchNorm):
        raise TypeError(f"bn must be a BatchNorm or a ChannelAffine, got {type(bn).__name__}")
    if type(bn).frozen is BatchNorm.frozen:     # else it says itself what it is at inference
        check_methods(bn, "bn", BatchNorm, ("__call__",))
    return bn.frozen()
