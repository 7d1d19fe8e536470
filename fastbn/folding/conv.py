"""Fold a batch norm into a convolution, ordinary or transposed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastbn._core.checks import check_flag
from fastbn.folding.arithmetic import Folded, affine_of, check_channels, constant_of, fold_after, fold_before
from fastbn.folding.borders import (
    all_taps_everywhere,
    check_conv_borders,
    check_padding_mode,
    check_transposed_borders,
    explicit_padding,
    per_axis,
)
from fastbn.folding.certificate import Probe
from fastbn.folding.layer import Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from fastbn.affine import ChannelAffine
    from fastbn.folding.borders import Padding, PaddingMode
    from fastbn.layers.batchnorm import BatchNorm

RANKS = (1, 2, 3)


def fold_conv(
    weight: ArrayLike,
    bias: ArrayLike | None,
    bn: BatchNorm | ChannelAffine,
    *,
    groups: int = 1,
    transposed: bool = False,
) -> Folded:
    """Fold a batch norm that follows a convolution into the convolution.

    bn(conv(x, weight, bias)) = conv(x, folded.weight, folded.bias) for any stride, padding and dilation.

    Parameters
    ----------
    weight : array_like of float32, float64, float16 or bfloat16
        In PyTorch's layout with one to three spatial axes: ``(O, I / groups, *kernel)`` or, if transposed,
        ``(I, O / groups, *kernel)``.
    bias : array_like, shape (O,), or None
        Of one of these dtypes, not necessarily the weight's.
    bn : BatchNorm or ChannelAffine
        With O channels. A layer is folded with its running averages, in either mode; its axis is ignored. A subclass
        that overrides ``__call__`` must override ``frozen`` too.
    groups : int
        1 for a full convolution, the number of channels for a depthwise one.
    transposed : bool
        Whether the convolution is transposed.

    Returns
    -------
    Folded
        weight and bias, computed in float64 and rounded once to the dtype of `weight`; values that would be subnormal
        become zero. The certificate is the difference between the two layers on four small random inputs; it covers
        some of the output channels if the weight has more than 2^18 values.

    Raises
    ------
    RuntimeError
        If the layer has no running averages.
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If shapes do not match, a value is not finite, or a folded parameter overflows the dtype.

    References
    ----------
    Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    section 3.2, https://arxiv.org/abs/1712.05877.

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
    return fold_after(_layer(weight, bias, groups, transposed), affine_of(bn))


def fold_before_conv(
    bn: BatchNorm | ChannelAffine,
    weight: ArrayLike,
    bias: ArrayLike | None,
    *,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    padding_mode: PaddingMode = "zeros",
) -> Folded:
    """Fold a batch norm that precedes a convolution into the convolution.

    conv(bn(x), weight, bias) = conv(x, folded.weight, folded.bias). The batch norm maps zero to the constant
    shift - mean * scale, which goes into the bias. This is exact only if every output sees the constant through the
    whole kernel. Zero padding is applied after the batch norm, so a zero-padded convolution is refused unless the
    constant is zero in every channel. Reflected, replicated and circular padding are exact. A transposed convolution
    is exact with a stride of 1 and padding - output_padding of at least dilation * (kernel - 1); otherwise some outputs
    see fewer taps.

    Parameters
    ----------
    bn : BatchNorm or ChannelAffine
        With I channels.
    weight, bias, groups, transposed
        As in `fold_conv`.
    stride, padding, output_padding, dilation : int or sequence of int
        The arguments of the convolution, as in PyTorch; padding may be "valid" or "same". Without `transposed`, only
        the padding matters.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}

    Returns
    -------
    Folded
        As from `fold_conv`. The inputs for the certificate are centered at the batch norm's mean, and padded as the
        convolution pads.

    Raises
    ------
    RuntimeError, TypeError
        As `fold_conv`.
    ValueError
        As `fold_conv`; also if folding would change the result at the borders (a `fastbn.folding.FoldingError` that
        lists the channels).

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
    layer, affine = _layer(weight, bias, groups, transposed), affine_of(bn)
    check_channels(affine, layer.in_channels, "input")
    rank = len(layer.kernel)
    strides, dilations = per_axis(stride, rank, "stride", 1), per_axis(dilation, rank, "dilation", 1)
    pads, extra = explicit_padding(padding, layer.kernel), per_axis(output_padding, rank, "output_padding", 0)
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


def _layer(weight: ArrayLike, bias: ArrayLike | None, groups: int, transposed: bool) -> Layer:
    layer = Layer.from_parameters(weight, bias, groups=groups, transposed=check_flag(transposed, "transposed"))
    if len(layer.kernel) not in RANKS:
        raise ValueError(f"weight has {len(layer.kernel) + 2} axes; expected 3, 4 or 5, with one to three spatial axes")
    return layer
