"""A small convolutional network in plain NumPy around fastbn."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fastbn import BatchNorm, ChannelAffine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WIDTHS = (16, 32, 64)   # channels of the convolutions; each takes two pixels off both sides, so 8x8 ends as 2x2
CLASSES = 10


class Convolution:
    """A 3x3 convolution without padding or bias: (N, H, W, C) -> (N, H - 2, W - 2, K)."""

    def __init__(self, channels: int, filters: int, rng: np.random.Generator) -> None:
        fan_in = 9 * channels
        self.shape = (channels, 3, 3, filters)
        self.weight = normal(rng, (fan_in, filters), np.sqrt(2 / fan_in))
        self.grad: NDArray[Any] = np.zeros_like(self.weight)
        self._patches: NDArray[Any] | None = None

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the images filtered."""
        self._patches = patches(x)
        return convolve(self._patches, self.weight, x.shape)

    def backward(self, dy: NDArray[Any]) -> None:
        """Set `grad` for the last forward."""
        assert self._patches is not None
        by_pixel = self._patches.reshape(-1, self._patches.shape[-1])
        self.grad = by_pixel.T @ dy.reshape(-1, dy.shape[-1])

    def input_gradient(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx: a convolution of the padded dy with the filters turned by 180 degrees."""
        padded = np.pad(dy, ((0, 0), (2, 2), (2, 2), (0, 0)))
        turned = self.weight.reshape(self.shape)[:, ::-1, ::-1].transpose(3, 1, 2, 0).reshape(-1, self.shape[0])
        return convolve(patches(padded), turned, padded.shape)


class Shift:
    """What stands where BatchNorm would in the network without it: a bias and the ReLU."""

    gamma = None
    grad_gamma = None

    def __init__(self, channels: int) -> None:
        self.beta: NDArray[Any] = np.zeros(channels, np.float32)
        self.grad_beta: NDArray[Any] = np.zeros_like(self.beta)
        self._y: NDArray[Any] | None = None

    def __call__(self, x: NDArray[Any], *, activation: str) -> NDArray[Any]:
        """Return max(x + beta, 0)."""
        assert activation == "relu"
        self._y = np.maximum(x + self.beta, 0)
        return self._y

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx and set `grad_beta` for the last forward."""
        assert self._y is not None
        dx: NDArray[Any] = dy * (self._y > 0)
        self.grad_beta = dx.sum(axis=(0, 1, 2))
        return dx

    def train(self, mode: bool = True) -> Shift:
        """Do nothing: without statistics both modes are the same."""
        return self


class Network:
    """Three times convolution, BatchNorm (or a bias) and ReLU, then a linear layer.

    Parameters
    ----------
    normalize : bool
        Whether with batch normalization. The weights drawn from `rng` are the same in both cases.
    rng : numpy.random.Generator
    """

    def __init__(self, normalize: bool, rng: np.random.Generator) -> None:
        self.convolutions = [Convolution(c, k, rng) for c, k in pairwise((1, *WIDTHS))]
        # On arrays as small as these a second thread has nothing to gain beside those of the matrix products.
        self.norms = [BatchNorm(k, axis=-1, num_threads=1) if normalize else Shift(k) for k in WIDTHS]
        features = 2 * 2 * WIDTHS[-1]
        self.weight = normal(rng, (features, CLASSES), np.sqrt(1 / features))
        self.bias: NDArray[Any] = np.zeros(CLASSES, np.float32)
        self._features: NDArray[Any] | None = None

    def train(self, mode: bool = True) -> Network:
        """Normalize by batch statistics from now on, or, with ``mode=False``, by the running averages."""
        for norm in self.norms:
            norm.train(mode)
        return self

    def frozen(self) -> list[ChannelAffine]:
        """Return what batch normalization is at inference, for `logits`."""
        return [norm.frozen() for norm in self.norms if isinstance(norm, BatchNorm)]

    def logits(
        self, x: NDArray[Any], norms: Sequence[BatchNorm | Shift | ChannelAffine] | None = None
    ) -> NDArray[Any]:
        """Return the scores of the classes.

        Parameters
        ----------
        x : ndarray of float32, shape (N, 8, 8, 1)
        norms : sequence of callables, optional
            To be used instead of the network's own.

        Returns
        -------
        ndarray of float32, shape (N, 10)
        """
        for convolution, norm in zip(self.convolutions, norms or self.norms, strict=True):
            x = norm(convolution(x), activation="relu")
        self._features = x
        # A product of its own for each image: the same bits whoever else is in the batch.
        scores: NDArray[Any] = (x.reshape(len(x), 1, -1) @ self.weight)[:, 0] + self.bias
        return scores

    def step(self, dlogits: NDArray[Any], rate: float) -> None:
        """Take one step of gradient descent from the gradient of the loss by the last logits, shape (N, 10)."""
        assert self._features is not None
        steps: list[tuple[NDArray[Any] | None, NDArray[Any] | None]] = [
            (self.weight, self._features.reshape(len(dlogits), -1).T @ dlogits),
            (self.bias, dlogits.sum(axis=0)),
        ]
        dx: NDArray[Any] = (dlogits @ self.weight.T).reshape(self._features.shape)
        for convolution, norm in zip(self.convolutions[::-1], self.norms[::-1], strict=True):
            dy = norm.backward(dx)
            convolution.backward(dy)
            if convolution is not self.convolutions[0]:
                dx = convolution.input_gradient(dy)
            steps.append((convolution.weight, convolution.grad))
            steps += [(norm.beta, norm.grad_beta), (norm.gamma, norm.grad_gamma)]
        for value, grad in steps:
            if value is not None and grad is not None:   # Shift has no gamma
                value -= rate * grad


def normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    """Return normal float32 numbers, by which no layer grows or shrinks what passes at first (He et al., 2015)."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def patches(x: NDArray[Any]) -> NDArray[Any]:
    """Return the 3x3 neighbourhoods of (N, H, W, C): shape (N, (H - 2) * (W - 2), C * 9)."""
    n, height, width, channels = x.shape
    return sliding_window_view(x, (3, 3), axis=(1, 2)).reshape(n, (height - 2) * (width - 2), channels * 9)


def convolve(neighbourhoods: NDArray[Any], weight: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the images that `patches` of images of this shape and a weight of shape (C * 9, K) give."""
    n, height, width, _ = shape
    y: NDArray[Any] = neighbourhoods @ weight
    return y.reshape(n, height - 2, width - 2, -1)
