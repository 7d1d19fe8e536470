"""The network that several programs train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from examples.nn.layers import Activated, Convolution, GlobalAverage, Linear, activation
from examples.nn.model import Sequential

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CLASSES = 10


def convolutional(
    filters: Sequence[int], strides: Sequence[int], norm: Callable[[int], Any] | None, rng: np.random.Generator,
) -> Sequential:
    """Return convolutions with ReLUs for images of one channel, an average over positions, and a linear layer.

    Parameters
    ----------
    filters, strides : sequence of int
        Of each convolution.
    norm : callable or None
        Returns a normalization for a number of channels. With None, convolutions have a bias instead.
    rng : numpy.random.Generator
        Of the initial weights.
    """
    layers: list[Any] = []
    for channels, count, stride in zip((1, *filters), filters, strides, strict=False):
        layers.append(Convolution(channels, count, rng, stride=stride, bias=norm is None))
        layers.append(activation("relu") if norm is None else Activated(norm(count), "relu"))
    return Sequential(*layers, GlobalAverage(), Linear(filters[-1], CLASSES, rng, scale=np.sqrt(1 / filters[-1])))
