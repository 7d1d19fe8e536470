"""Where a layer mixes its input with zeros of its own, and what that allows of a batch norm before it.

A batch norm maps x to scale * x + constant, with constant = shift - mean * scale. The scale can always go into the
weight of the layer behind it. The constant can go into the bias only if every output sees it through every tap of the
kernel:

- Zero padding comes after the batch norm. At the borders some taps meet zeros instead of the constant, so the padding
  must be none, or the constant zero. Reflected, replicated and circular padding repeat values that went through the
  batch norm, constant included.
- A transposed convolution scatters. An output inside sees all taps only with a stride of 1; an output at the borders
  never does, unless they are cropped: padding - output_padding >= dilation * (kernel - 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastbn._core.checks import check_integer, listed
from fastbn.folding.errors import FoldingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# PyTorch's names, and those that np.pad has for them.
PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def check_padding(padding: int | Sequence[int] | str, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Return how much each spatial axis is padded at its end, in the manner of ``torch.nn.Conv2d``.

    Parameters
    ----------
    padding : int, sequence of int, "valid" or "same"
        "same" counts as if the dilation were 1: whether there is padding does not depend on it.
    kernel : tuple of int

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or a number is negative.
    """
    if isinstance(padding, str):
        if padding not in ("valid", "same"):
            raise ValueError(f"padding must be an integer, a sequence of integers, 'valid' or 'same', got {padding!r}")
        return tuple(k // 2 if padding == "same" else 0 for k in kernel)
    return per_axis(padding, len(kernel), "padding", 0)


def per_axis(value: int | Sequence[int], rank: int, name: str, least: int) -> tuple[int, ...]:
    """Return one integer for each spatial axis, from one for all or a sequence."""
    if not isinstance(value, (tuple, list)):
        return (check_integer(value, name, least),) * rank
    if len(value) != rank:
        raise ValueError(f"{name} must be one integer or {rank}, one for each spatial axis, got {value!r}")
    return tuple(check_integer(v, name, least) for v in value)


def check_padding_mode(mode: object) -> str:
    """Return one of PyTorch's padding modes."""
    if not isinstance(mode, str) or mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {mode!r}")
    return mode


def check_conv_borders(constant: NDArray[np.float64], padded: bool) -> None:
    """Raise FoldingError if zeros that come after the batch norm meet a constant that is not zero."""
    if padded and constant.any():
        raise FoldingError(
            "the convolution pads with zeros after the batch norm, which maps zero to something else in "
            f"channels {_channels(constant)}, so that no bias is right at the borders")


def check_transposed_borders(constant: NDArray[np.float64], uniform: bool) -> None:
    """Raise FoldingError if some outputs see fewer taps than others, and the constant is not zero."""
    if not uniform and constant.any():
        raise FoldingError(
            "the transposed convolution gives some outputs fewer taps than others (all have as many only with stride 1 "
            "and padding - output_padding >= dilation * (kernel - 1)), and the batch norm maps zero to something else "
            f"in channels {_channels(constant)}, so that no bias is right everywhere")


def all_taps_everywhere(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], cropped: Sequence[int]
) -> bool:
    """Tell whether every output of a transposed convolution sees every tap of the kernel.

    Parameters
    ----------
    kernel, stride, dilation : sequence of int
    cropped : sequence of int
        What is taken off the shorter-cropped end of each axis: the padding there, less the output padding.
    """
    return all(s == 1 and c >= d * (k - 1) for k, s, d, c in zip(kernel, stride, dilation, cropped, strict=True))


def _channels(constant: NDArray[np.float64]) -> str:
    return listed(np.flatnonzero(constant).tolist())
