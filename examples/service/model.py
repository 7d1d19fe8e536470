"""The trained network at inference, with separate or folded batch normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn import BatchNorm, ChannelAffine, fold_conv
from fastbn.cli.demo.network import CLASSES, WIDTHS, convolve, patches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SIDE = 8


class NormalizedConvolution:
    """A convolution, then batch norm and ReLU in one pass over its output: (N, H, W, C) -> (N, H-2, W-2, K).

    Parameters
    ----------
    weight : ndarray of float32, shape (C * 9, K)
    norm : ChannelAffine
    side : int
        Height and width of the output, for the plan of a single image.
    """

    def __init__(self, weight: NDArray[np.float32], norm: ChannelAffine, side: int) -> None:
        self.weight = weight
        self.norm = norm
        self.plan = norm.bind((1, side, side, weight.shape[1]), np.float32, "NHWC", activation="relu")

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output of the block."""
        y = convolve(patches(x), self.weight, x.shape)
        if y.shape == self.plan.shape:
            self.plan(y, y)
        else:
            self.norm(y, activation="relu", out=y)
        return y


class FoldedConvolution:
    """A convolution with folded batch norm, then the ReLU.

    Parameters
    ----------
    weight : ndarray of float32, shape (C * 9, K)
        Weight of the convolution before folding.
    norm : ChannelAffine
    """

    def __init__(self, weight: NDArray[np.float32], norm: ChannelAffine) -> None:
        outputs = weight.shape[1]
        folded = fold_conv(weight.T.reshape(outputs, -1, 3, 3), None, norm)
        self.weight = np.ascontiguousarray(folded.weight.reshape(outputs, -1).T)
        self.bias = folded.bias

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output of the block."""
        y = convolve(patches(x), self.weight, x.shape)
        y += self.bias
        np.maximum(y, 0, out=y)
        return y


class Classifier:
    """Classifies digits. A classifier is immutable, so threads can share it.

    Parameters
    ----------
    parameters : mapping of str to array
        Parameters from `examples.service.training.train`.

    Raises
    ------
    TypeError, ValueError
        If a parameter is missing or has a wrong shape.
    """

    def __init__(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        self._normalize = ChannelAffine.from_mean_std(take(parameters, "mean", (1,)), take(parameters, "std", (1,)))
        self._layers: list[NormalizedConvolution] = []
        self._folded_layers: list[FoldedConvolution] = []
        side, channels = SIDE, 1
        for i, filters in enumerate(WIDTHS):
            side -= 2
            weight = take(parameters, f"convolutions.{i}.weight", (9 * channels, filters))
            bn = BatchNorm(filters, axis=-1)
            bn.load_state_dict({name: take(parameters, f"norms.{i}.{name}", np.shape(value))
                                for name, value in bn.state_dict().items()})
            self._layers.append(NormalizedConvolution(weight, bn.frozen(), side))
            self._folded_layers.append(FoldedConvolution(weight, bn.frozen()))
            channels = filters
        self._weight = take(parameters, "weight", (side * side * channels, CLASSES))
        self._bias = take(parameters, "bias", (CLASSES,))

    def logits(self, images: NDArray[np.uint8], *, folded: bool = False) -> NDArray[np.float32]:
        """Return the scores of the classes.

        Parameters
        ----------
        images : ndarray of uint8, shape (N, 8, 8, 1)
        folded : bool
            Whether to use the convolutions with folded batch norm.

        Returns
        -------
        ndarray of float32, shape (N, 10)
            The bits for an image do not depend on the rest of the batch.
        """
        x = self._normalize(images)
        for layer in self._folded_layers if folded else self._layers:
            x = layer(x)
        scores: NDArray[np.float32] = (x.reshape(len(x), 1, -1) @ self._weight)[:, 0] + self._bias
        return scores


def take(parameters: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a parameter after a check of its shape and values."""
    if name not in parameters:
        raise ValueError(f"the parameters have no {name}")
    array = parameters[name]
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite")
    return array
