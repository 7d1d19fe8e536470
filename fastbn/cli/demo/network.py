"""A small convolutional network in NumPy, with the batch normalization of fastbn."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fastbn.affine import ChannelAffine
from fastbn.layers.batchnorm import BatchNorm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WIDTHS = (16, 32, 64)   # output channels of the convolutions, which reduce 8x8 pixels to 6x6, 4x4 and 2x2
CLASSES = 10


class Convolution:
    """A 3x3 convolution without padding or bias: (N, H, W, C) -> (N, H - 2, W - 2, K)."""

    def __init__(self, channels: int, filters: int, rng: np.random.Generator) -> None:
        fan_in = 9 * channels
        self.shape: tuple[int, int, int, int] = (channels, 3, 3, filters)
        self.weight: NDArray[Any] = normal(rng, (fan_in, filters), np.sqrt(2 / fan_in))
        self.grad: NDArray[Any] = np.zeros_like(self.weight)
        self._patches: NDArray[Any] | None = None

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the convolution of the images."""
        self._patches = patches(x)
        return convolve(self._patches, self.weight, x.shape)

    def backward(self, dy: NDArray[Any]) -> None:
        """Set `grad` for the last forward pass."""
        assert self._patches is not None
        by_pixel = self._patches.reshape(-1, self._patches.shape[-1])
        self.grad = by_pixel.T @ dy.reshape(-1, dy.shape[-1])

    def input_gradient(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx: a convolution of the padded dy with the filters turned by 180 degrees."""
        padded = np.pad(dy, ((0, 0), (2, 2), (2, 2), (0, 0)))
        turned = self.weight.reshape(self.shape)[:, ::-1, ::-1].transpose(3, 1, 2, 0).reshape(-1, self.shape[0])
        return convolve(patches(padded), turned, padded.shape)


class Shift:
    """A bias and the ReLU, in place of `BatchNorm` in the network without it."""

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
        """Return dx, and set `grad_beta` for the last forward pass."""
        assert self._y is not None
        dx: NDArray[Any] = dy * (self._y > 0)
        self.grad_beta = dx.sum(axis=(0, 1, 2))
        return dx

    def train(self, mode: bool = True) -> Shift:
        """Do nothing, because both modes are the same without statistics."""
        return self


class Network:
    """Three blocks of convolution, batch normalization (or a bias) and ReLU, then a linear layer.

    Parameters
    ----------
    normalize : bool
        Whether the network has batch normalization. The initial weights are the same in both cases.
    rng : numpy.random.Generator
        The source of the initial weights.
    """

    def __init__(self, normalize: bool, rng: np.random.Generator) -> None:
        self.convolutions: list[Convolution] = [Convolution(c, k, rng) for c, k in pairwise((1, *WIDTHS))]
        # Arrays this small are faster with one thread.
        self.norms: list[BatchNorm | Shift] = [
            BatchNorm(k, axis=-1, num_threads=1) if normalize else Shift(k) for k in WIDTHS]
        features = 2 * 2 * WIDTHS[-1]
        self.weight: NDArray[Any] = normal(rng, (features, CLASSES), np.sqrt(1 / features))
        self.bias: NDArray[Any] = np.zeros(CLASSES, np.float32)
        self._features: NDArray[Any] | None = None

    def train(self, mode: bool = True) -> Network:
        """Switch to batch statistics, or with ``mode=False`` to running averages."""
        for norm in self.norms:
            norm.train(mode)
        return self

    def frozen(self) -> list[ChannelAffine]:
        """Return the normalizations at inference, for `logits`."""
        return [norm.frozen() for norm in self.norms if isinstance(norm, BatchNorm)]

    def logits(
        self, x: NDArray[Any], norms: Sequence[BatchNorm | Shift | ChannelAffine] | None = None
    ) -> NDArray[Any]:
        """Return the scores of the classes.

        Parameters
        ----------
        x : ndarray of float32, shape (N, 8, 8, 1)
        norms : sequence of callables, optional
            Used instead of the normalizations of the network.

        Returns
        -------
        ndarray of float32, shape (N, 10)
        """
        for convolution, norm in zip(self.convolutions, norms or self.norms, strict=True):
            x = norm(convolution(x), activation="relu")
        self._features = x
        # One product per image, so that its bits do not depend on the batch.
        scores: NDArray[Any] = (x.reshape(len(x), 1, -1) @ self.weight)[:, 0] + self.bias
        return scores

    def step(self, dlogits: NDArray[Any], rate: float) -> None:
        """Take one step of gradient descent, given the gradient of the loss by the last logits, shape (N, 10)."""
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
    """Return normally distributed initial weights in float32, scaled as in He et al. (2015)."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def patches(x: NDArray[Any]) -> NDArray[Any]:
    """Return the 3x3 patches of images of shape (N, H, W, C): shape (N, (H - 2) * (W - 2), C * 9)."""
    n, height, width, channels = x.shape
    return sliding_window_view(x, (3, 3), axis=(1, 2)).reshape(n, (height - 2) * (width - 2), channels * 9)


def convolve(pieces: NDArray[Any], weight: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the convolution of images, given their `patches`, a weight of shape (C * 9, K) and their shape."""
    n, height, width, _ = shape
    y: NDArray[Any] = pieces @ weight
    return y.reshape(n, height - 2, width - 2, -1)
