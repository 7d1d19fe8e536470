"""What checkpoints need of a layer class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Checkpointable(Protocol):
    """A layer with a state and settings."""

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""

    def train(self, mode: bool = True) -> object:
        """Set training mode, or evaluation mode."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of the arrays of a state."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the arrays of a state: all of them or, after an error, none."""


class Averaged(Checkpointable, Protocol):
    """A layer whose state other frameworks have too, such as `fastbn.BatchNorm`.

    The settings are those attributes that `fastbn.checkpoints.settings` lists.
    """

    unbiased: bool


Layer = TypeVar("Layer", bound=Checkpointable)
