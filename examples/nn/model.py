"""Networks: layers one after the other, and residual blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from examples.nn.layers import Layer, Parameter, parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self


class Sequential:
    """Layers, each of which gets the result of the one before.

    Parameters
    ----------
    *layers : Layer
    """

    def __init__(self, *layers: Layer) -> None:
        self.layers = list(layers)

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the result of the last layer."""
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient of the input, and leave those of all parameters."""
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def parameters(self) -> list[Parameter]:
        """Return those of all layers."""
        return [parameter for layer in self.layers for parameter in parameters(layer)]

    def train(self, mode: bool = True) -> Self:
        """Switch the mode of all layers."""
        for layer in self.layers:
            layer.train(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation mode."""
        return self.train(False)


class Residual(Sequential):
    """relu(norm(layers(x)) + x), with the addition and the ReLU in the pass of the last normalization.

    Parameters
    ----------
    *layers : Layer
    norm : layer of fastbn
    """

    def __init__(self, *layers: Layer, norm: Any) -> None:
        super().__init__(*layers)
        self.norm = norm

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return y."""
        y: NDArray[Any] = self.norm(super().__call__(x), residual=x, activation="relu")
        return y

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx."""
        dbranch, dshortcut = self.norm.backward(dy)
        dx: NDArray[Any] = super().backward(dbranch)
        dx += dshortcut
        return dx

    def parameters(self) -> list[Parameter]:
        """Return those of all layers."""
        return [*super().parameters(), *parameters(self.norm)]

    def train(self, mode: bool = True) -> Self:
        """Switch the mode of all layers."""
        self.norm.train(mode)
        return super().train(mode)
