"""The conditions at the borders under which a batch norm folds into the convolution after it.

A batch norm maps x to scale * x + constant, with constant = shift - mean * scale. The scale always folds into the
weight of the next layer. The constant folds into the bias only if every output sees it through every tap of the kernel:

- Zero padding is applied after the batch norm, so at the borders some taps see zeros instead of the constant. Either
  there is no padding, or the constant is zero. Reflected, replicated and circular padding repeat outputs of the batch
  norm, which include the constant.
- A transposed convolution scatters its input. Outputs in the interior see all taps only with a stride of 1. Outputs at
  the borders see fewer, unless they are cropped: padding - output_padding >= dilation * (kernel - 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from fastbn._core.checks import check_integer, listed
from fastbn.folding.errors import FoldingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Padding: TypeAlias = "int | Sequence[int] | Literal['valid', 'same']"
PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
# The modes of np.pad by PyTorch's names.
PADDING_MODES: dict[PaddingMode, Literal["constant", "reflect", "edge", "wrap"]] = {
    "zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def explicit_padding(padding: Padding, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Return the padding at the end of each spatial axis, from an argument as of ``torch.nn.Conv2d``.

    Parameters
    ----------
    padding : int, sequence of int, "valid" or "same"
        For "same" the result assumes a dilation of 1, which decides only how much padding there is.
    kernel : tuple of int

    Raises
    ------
    TypeError, ValueError
        If `padding` is anything else, or a number is negative.
    """
    if isinstance(padding, str):
        if padding not in ("valid", "same"):
            raise ValueError(f"padding must be an integer, a sequence of integers, 'valid' or 'same', got {padding!r}")
        return tuple(k // 2 if padding == "same" else 0 for k in kernel)
    return per_axis(padding, len(kernel), "padding", 0)


def per_axis(value: int | Sequence[int], rank: int, name: str, least: int) -> tuple[int, ...]:
    """Return one integer for each spatial axis, from one integer for all or from a sequence."""
    if not isinstance(value, (tuple, list)):
        return (check_integer(value, name, least),) * rank
    if len(value) != rank:
        raise ValueError(f"{name} must be one integer or {rank}, one for each spatial axis, got {value!r}")
    return tuple(check_integer(v, name, least) for v in value)


def check_padding_mode(mode: object) -> PaddingMode:
    """Return one of PyTorch's padding modes."""
    for known in PADDING_MODES:
        if isinstance(mode, str) and mode == known:
            return known
    raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {mode!r}")


def check_conv_borders(constant: NDArray[np.float64], padded: bool) -> None:
    """Raise FoldingError if the convolution pads with zeros and the constant is not zero."""
    if padded and constant.any():
        raise FoldingError(
            "the convolution pads with zeros after the batch norm, which does not map zero to zero in "
            f"channels {_channels(constant)}, so that no bias is right at the borders")


def check_transposed_borders(constant: NDArray[np.float64], uniform: bool) -> None:
    """Raise FoldingError if some outputs see fewer taps than others and the constant is not zero."""
    if not uniform and constant.any():
        raise FoldingError(
            "the transposed convolution gives some outputs fewer taps than others (all have the same number only with "
            "stride 1 and padding - output_padding >= dilation * (kernel - 1)), and the batch norm does not map zero "
            f"to zero in channels {_channels(constant)}, so that no bias is right everywhere")


def all_taps_everywhere(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], cropped: Sequence[int]
) -> bool:
    """Return whether every output of a transposed convolution sees every tap of the kernel.

    Parameters
    ----------
    kernel, stride, dilation : sequence of int
    cropped : sequence of int
        The smaller number of outputs cropped at the two ends of each axis: the padding less the output padding.
    """
    return all(s == 1 and c >= d * (k - 1) for k, s, d, c in zip(kernel, stride, dilation, cropped, strict=True))


def _channels(constant: NDArray[np.float64]) -> str:
    return listed(np.flatnonzero(constant).tolist())
