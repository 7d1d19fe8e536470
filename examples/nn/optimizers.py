"""Optimizers, which change parameters in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from examples.nn.layers import Parameter


class SGD:
    """Stochastic gradient descent with momentum: v = momentum v + gradient, value -= rate v.

    Parameters
    ----------
    parameters : list of Parameter
    rate : float
    momentum : float
    decay : float
        Of weights, added to the gradient as decay * value.
    """

    def __init__(self, parameters: list[Parameter], rate: float, momentum: float = 0.0, decay: float = 0.0) -> None:
        self.parameters, self.rate, self.momentum, self.decay = parameters, rate, momentum, decay
        self._velocities: list[NDArray[Any]] = [np.zeros_like(p.value) for p in parameters]

    def step(self) -> None:
        """Follow the gradients of the last backward pass."""
        for parameter, velocity in zip(self.parameters, self._velocities, strict=True):
            gradient = parameter.gradient()
            if self.decay and parameter.decays:
                gradient = gradient + self.decay * parameter.value
            if self.momentum:
                velocity *= self.momentum
                velocity += gradient
                gradient = velocity
            np.subtract(parameter.value, self.rate * gradient, out=parameter.value, casting="same_kind")


class Adam:
    """Adam (Kingma and Ba, 2015).

    Parameters
    ----------
    parameters : list of Parameter
    rate : float
    betas : tuple of float
        Decay rates of the averages of the gradient and of its square.
    eps : float
    """

    def __init__(
        self, parameters: list[Parameter], rate: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
    ) -> None:
        self.parameters, self.rate, self.betas, self.eps = parameters, rate, betas, eps
        self._means = [np.zeros_like(p.value) for p in parameters]
        self._squares = [np.zeros_like(p.value) for p in parameters]
        self._steps = 0

    def step(self) -> None:
        """Follow the gradients of the last backward pass."""
        self._steps += 1
        first, second = self.betas
        rate = self.rate * np.sqrt(1 - second**self._steps) / (1 - first**self._steps)
        for parameter, mean, square in zip(self.parameters, self._means, self._squares, strict=True):
            gradient = parameter.gradient()
            mean += (1 - first) * (gradient - mean)
            square += (1 - second) * (gradient * gradient - square)
            np.subtract(parameter.value, rate * mean / (np.sqrt(square) + self.eps), out=parameter.value,
                        casting="same_kind")
