"""Layers with parameters, and activations: a call, a backward pass, and a list of parameters.

The layers of fastbn have the same methods, so that a network may contain both.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import fastbn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Activation = Any    # as in fastbn: a name, a name and a number, or None


class Parameter(NamedTuple):
    """A vector or matrix that an optimizer changes in place.

    Attributes
    ----------
    value : ndarray
    gradient : callable
        Returns the gradient of the last backward pass.
    decays : bool
        Whether weight decay applies.
    """

    value: NDArray[Any]
    gradient: Callable[[], NDArray[Any]]
    decays: bool


class Layer(Protocol):
    """What a network is made of."""

    def __call__(self, x: NDArray[Any]) -> Any:
        """Return y."""

    def backward(self, dy: NDArray[Any]) -> Any:
        """Return dx of the last call."""

    def train(self, mode: bool = True) -> Any:
        """Switch the mode."""


def parameters(layer: Any) -> list[Parameter]:
    """Return the parameters of a layer of fastbn or of this package."""
    if hasattr(layer, "parameters"):
        found: list[Parameter] = layer.parameters()
        return found
    names = [name for name in ("gamma", "beta") if getattr(layer, name, None) is not None]
    return [Parameter(getattr(layer, name), partial(getattr, layer, f"grad_{name}"), False) for name in names]


def normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    """Return normally distributed initial weights."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


class Stateless:
    """A layer without parameters, which is the same in both modes."""

    def parameters(self) -> list[Parameter]:
        """Return no parameters."""
        return []

    def train(self, mode: bool = True) -> Any:
        """Do nothing."""
        return self


class Linear:
    """y = x W + b over the last axis.

    Parameters
    ----------
    inputs, outputs : int
    rng : numpy.random.Generator
    scale : float, optional
        Standard deviation of the initial weights; sqrt(2 / inputs) by default, as in He et al. (2015).
    bias : bool
    """

    def __init__(
        self, inputs: int, outputs: int, rng: np.random.Generator, *, scale: float | None = None, bias: bool = True,
    ) -> None:
        self.weight = normal(rng, (inputs, outputs), np.sqrt(2 / inputs) if scale is None else scale)
        self.bias = np.zeros(outputs, np.float32) if bias else None
        self.grad_weight: NDArray[Any] = np.zeros_like(self.weight)
        self.grad_bias: NDArray[Any] = np.zeros(outputs, np.float32)
        self._x: NDArray[Any] | None = None

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return y."""
        self._x = x
        y: NDArray[Any] = x @ self.weight
        if self.bias is not None:
            y += self.bias
        return y

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx, and set the gradients."""
        assert self._x is not None
        rows = dy.reshape(-1, dy.shape[-1])
        self.grad_weight = self._x.reshape(len(rows), -1).T @ rows
        self.grad_bias = rows.sum(axis=0)
        dx: NDArray[Any] = dy @ self.weight.T
        return dx

    def parameters(self) -> list[Parameter]:
        """Return weight and bias."""
        found = [Parameter(self.weight, lambda: self.grad_weight, True)]
        if self.bias is not None:
            found.append(Parameter(self.bias, lambda: self.grad_bias, False))
        return found

    def train(self, mode: bool = True) -> Linear:
        """Do nothing."""
        return self


class Convolution:
    """A convolution of images (N, H, W, C) by square filters of odd size, padded with zeros to the same H and W.

    Parameters
    ----------
    channels, filters : int
    rng : numpy.random.Generator
    size : int
    stride : int
        Positions between two outputs.
    bias : bool
    scale : float, optional
        As in `Linear`.
    """

    def __init__(
        self, channels: int, filters: int, rng: np.random.Generator, *, size: int = 3, stride: int = 1,
        bias: bool = False, scale: float | None = None,
    ) -> None:
        self.size, self.stride = size, stride
        self.linear = Linear(size * size * channels, filters, rng, bias=bias, scale=scale)
        self._shape: tuple[int, ...] = ()

    @property
    def weight(self) -> NDArray[Any]:
        """The filters, (size * size * channels, filters)."""
        return self.linear.weight

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return y."""
        self._shape = x.shape
        return self.linear(patches(x, self.size)[:, ::self.stride, ::self.stride].reshape(
            len(x), -(-x.shape[1] // self.stride), -(-x.shape[2] // self.stride), -1))

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx, and set the gradients."""
        self.linear.backward(dy)
        n, height, width, channels = self._shape
        spread = dy
        if self.stride > 1:
            spread = np.zeros((n, height, width, dy.shape[-1]), dy.dtype)
            spread[:, ::self.stride, ::self.stride] = dy
        # The convolution of dy by the filters turned by 180 degrees, with input and output exchanged.
        filters = self.weight.reshape(self.size, self.size, channels, -1)[::-1, ::-1]
        turned = filters.transpose(0, 1, 3, 2).reshape(-1, channels)
        dx: NDArray[Any] = patches(spread, self.size).reshape(n, height, width, -1) @ turned
        return dx

    def parameters(self) -> list[Parameter]:
        """Return the parameters of the matrix."""
        return self.linear.parameters()

    def train(self, mode: bool = True) -> Convolution:
        """Do nothing."""
        return self


def patches(x: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the patch about each pixel of images (N, H, W, C), zero outside: (N, H, W, size, size, C), a view."""
    edge = size // 2
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0))) if edge else x
    found: NDArray[Any] = sliding_window_view(padded, (size, size), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    return found


class Function(Stateless):
    """An elementwise function, whose derivative is a function of its result.

    Parameters
    ----------
    function, derivative : callable
    """

    def __init__(
        self, function: Callable[[NDArray[Any]], NDArray[Any]], derivative: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> None:
        self._function, self._derivative = function, derivative
        self._y: NDArray[Any] | None = None

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return y."""
        self._y = self._function(x)
        return self._y

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx."""
        assert self._y is not None
        dx: NDArray[Any] = dy * self._derivative(self._y)
        return dx


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """Return 1 / (1 + exp(-x))."""
    return 0.5 * (1 + np.tanh(0.5 * x))     # without overflow


FUNCTIONS: dict[str, tuple[Callable[[NDArray[Any]], NDArray[Any]], Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda y: y > 0),
    "leaky_relu": (lambda x: np.where(x > 0, x, np.float32(0.2) * x),
                   lambda y: np.where(y > 0, np.float32(1), np.float32(0.2))),
    "sigmoid": (sigmoid, lambda y: y * (1 - y)),
    "tanh": (np.tanh, lambda y: 1 - y * y),
}


def activation(name: str) -> Function:
    """Return an activation by its name."""
    return Function(*FUNCTIONS[name])


class Activated:
    """A layer of fastbn with a fused activation.

    Parameters
    ----------
    norm : layer
    activation : str, tuple or None
    """

    def __init__(self, norm: Any, activation: Activation) -> None:
        self.norm, self.activation = norm, activation

    def __call__(self, x: NDArray[Any]) -> Any:
        """Return y."""
        return self.norm(x, activation=self.activation)

    def backward(self, dy: NDArray[Any]) -> Any:
        """Return dx."""
        return self.norm.backward(dy)

    def parameters(self) -> list[Parameter]:
        """Return the parameters of the layer."""
        return parameters(self.norm)

    def train(self, mode: bool = True) -> Any:
        """Switch the mode."""
        self.norm.train(mode)
        return self


class Reshape(Stateless):
    """Change the shape of each sample."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self._before: tuple[int, ...] = ()

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return x in the new shape."""
        self._before = x.shape
        y: NDArray[Any] = x.reshape(len(x), *self.shape)
        return y

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dy in the old shape."""
        return dy.reshape(self._before)


class GlobalAverage(Stateless):
    """The mean over all positions: (N, H, W, C) -> (N, C)."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the means."""
        self._shape = x.shape
        y: NDArray[Any] = x.mean(axis=(1, 2))
        return y

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx."""
        n, height, width, channels = self._shape
        dx: NDArray[Any] = (dy / (height * width))[:, None, None].repeat(height, 1).repeat(width, 2)
        assert dx.shape == (n, height, width, channels)
        return dx


class Upsample(Stateless):
    """Repeat each pixel twice in both directions: (N, H, W, C) -> (N, 2 H, 2 W, C)."""

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the larger images."""
        return x.repeat(2, axis=1).repeat(2, axis=2)

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx."""
        n, height, width, channels = dy.shape
        dx: NDArray[Any] = dy.reshape(n, height // 2, 2, width // 2, 2, channels).sum(axis=(2, 4))
        return dx


class Dropout(Stateless):
    """Set values to zero at random in training, and scale the others.

    Parameters
    ----------
    rate : float
        Share of the zeros.
    rng : numpy.random.Generator
    """

    def __init__(self, rate: float, rng: np.random.Generator) -> None:
        self.rate, self._rng, self._training = rate, rng, True
        self._factor: NDArray[Any] | None = None

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return y."""
        self._factor = None
        if not self._training:
            return x
        kept = self._rng.random(x.shape, dtype=np.float32) >= self.rate
        self._factor = kept.astype(np.float32) / np.float32(1 - self.rate)
        y: NDArray[Any] = x * self._factor
        return y

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx."""
        return dy if self._factor is None else dy * self._factor

    def train(self, mode: bool = True) -> Any:
        """Switch the mode."""
        self._training = mode
        return self


def batch_norm(channels: int, activation: Activation = None, **settings: Any) -> Activated:
    """Return a batch normalization over the last axis, with an activation."""
    return Activated(fastbn.BatchNorm(channels, axis=-1, **settings), activation)
