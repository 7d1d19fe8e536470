"""The checks of running averages and of the settings that they depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fastbn._core.checks import check_flag, check_momentum
from fastbn._core.saved import check_variance
from fastbn.layers.attributes import check_vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.checkpoints.settings import Averaging


class Averages(Protocol):
    """What the checks read of running averages."""

    num_features: int
    debias: bool
    stats: object

    @property
    def tracked(self) -> bool:
        """Whether there are running averages."""

    @property
    def averaging(self) -> Averaging:
        """The kind of average."""


def check_running(owner: Averages, value: Any, name: str) -> NDArray[Any] | None:
    """Return as `check_vector`; None only if the averaging allows it."""
    if value is None and (owner.debias or owner.stats is not None):
        setting = "debias=True" if owner.debias else "averaging='exact'"
        raise ValueError(f"{name} must be an array with {setting}, got None")
    return check_average(owner, value, name)


def check_average(owner: Any, value: Any, name: str) -> NDArray[Any] | None:
    """Return as `check_vector`; a variance must not be negative."""
    vector = check_vector(owner, value, name)
    if name.endswith("_var") and vector is not None and vector.min() < 0:
        check_variance(vector, 1.0, name)
    return vector


def check_debias(owner: Averages, value: Any, name: str) -> bool:
    """Return a bool; True only for averages whose initial values have a weight that can be removed."""
    debias = check_flag(value, name)
    if debias and not owner.tracked:
        raise ValueError("track_running_stats must be True with debias=True, got False")
    if debias and owner.averaging != "ema":
        raise ValueError(f"debias must be False with averaging={owner.averaging!r}, whose initial values have no "
                         "weight; got True")
    return debias


def check_running_momentum(owner: Averages, value: Any, name: str) -> float | None:
    """Return a momentum; None only without debias."""
    momentum = check_momentum(value)
    if momentum is None and owner.debias:
        raise ValueError("momentum must be a number with debias=True, got None")
    return momentum
