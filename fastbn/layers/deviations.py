"""The running averages of batch renormalization: of deviations, and of a second pair for the correction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeAlias, get_args

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_choice, check_eps, check_flag, check_momentum
from fastbn._core.saved import check_variance
from fastbn.layers.attributes import Check, set_unchecked
from fastbn.layers.running import AveragingOptions, RunningStatistics
from fastbn.layers.running_checks import check_average

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.layers.batch import Batch

Averages: TypeAlias = Literal["std", "var"]
AVERAGES: tuple[Averages, ...] = get_args(Averages)


def refuse_debias(owner: object, value: object, name: str) -> bool:
    """Return False; the initial values of averages of deviations have no formula in `RunningStatistics`."""
    if check_flag(value, name):
        raise ValueError("debias must be False in batch renormalization, got True")
    return False


def refuse_none(owner: object, value: object, name: str) -> Any:
    """Return the array of an average, which batch renormalization cannot do without."""
    if value is None:
        raise ValueError(f"{name} must be an array in batch renormalization, got None")
    return check_average(owner, value, name)


def check_second(owner: RunningDeviations, value: Any, name: str) -> Any:
    """Return what belongs to the second pair of averages, which a layer keeps or does without."""
    checked = check_momentum(value, name) if name == "renorm_momentum" else check_average(owner, value, name)
    if (checked is None) == owner.second:
        refuse_change(name, checked)
    return checked


def refuse_change(name: str, value: object) -> NoReturn:
    """Raise an error for a second pair of averages that would come or go."""
    expected = "a value" if value is None else "None"
    raise ValueError(f"{name} must be {expected}, because the layer was made with{'' if value is None else 'out'} "
                     "renorm_momentum; make a new layer")


class RunningDeviations(RunningStatistics):
    """Running mean and variance, of which either the variance or the standard deviation follows as an average.

    The deviation is sqrt(running_var + eps), and only the variance is stored: an average of deviations s becomes
    s^2 - eps. A second pair of averages may follow the same batches with another momentum.

    Parameters
    ----------
    num_features : int
    dtype : dtype
    options : AveragingOptions
        Except "exact" averages and `debias`.
    eps : float
    averages : {"std", "var"}
    renorm_momentum : float or None
        Of the second pair.

    Attributes
    ----------
    eps, averages, renorm_momentum
        As above.
    renorm_mean, renorm_var : ndarray, shape (C,), or None
        The second pair.
    second : bool
        Whether there is a second pair.
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        **RunningStatistics._checks,
        "debias": refuse_debias,
        "running_mean": refuse_none,
        "running_var": refuse_none,
        "eps": lambda _, value, name: check_eps(value),
        "averages": lambda _, value, name: check_choice(value, name, AVERAGES),
        "renorm_momentum": check_second,
        "renorm_mean": check_second,
        "renorm_var": check_second,
    }

    eps: float
    averages: Averages
    renorm_momentum: float | None
    renorm_mean: NDArray[Any] | None
    renorm_var: NDArray[Any] | None
    second: bool

    def __init__(
        self, num_features: int, dtype: np.dtype[Any], options: AveragingOptions, *, eps: float, averages: Averages,
        renorm_momentum: float | None,
    ) -> None:
        super().__init__(num_features, dtype, True, options)
        self.eps, self.averages = eps, averages
        set_unchecked(self, "second", renorm_momentum is not None)
        self.renorm_momentum = renorm_momentum
        self.renorm_mean = np.zeros(num_features, dtype) if self.second else None
        self.renorm_var = np.ones(num_features, dtype) if self.second else None

    def reset(self) -> None:
        """Restart: mean 0, variance 1, no batches."""
        super().reset()
        if self.renorm_mean is not None and self.renorm_var is not None:
            views.assign({"mean": self.renorm_mean, "var": self.renorm_var},
                         {"mean": np.zeros(self.num_features), "var": np.ones(self.num_features)})

    def check(self, training: bool) -> None:
        """Raise an error unless training can write to all averages."""
        super().check(training)
        if training and self.renorm_mean is not None and self.renorm_var is not None:
            views.check_averages(self.renorm_mean, self.renorm_var, self.num_features)

    def reference(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and the deviation that the correction is relative to, in float64.

        Raises
        ------
        ValueError
            If a variance is negative, or 0 with an eps of 0.
        """
        mean, var, name = self.running_mean, self.running_var, "running_var"
        if self.second:
            mean, var, name = self.renorm_mean, self.renorm_var, "renorm_var"
        assert mean is not None
        assert var is not None
        check_variance(var, self.eps, name)
        return np.array(mean, np.float64), np.sqrt(np.array(var, np.float64) + self.eps)

    def vectors(self) -> dict[str, NDArray[Any]]:
        """Return all averages by name."""
        averages = super().vectors()
        if self.renorm_mean is not None and self.renorm_var is not None:
            averages |= {"renorm_mean": self.renorm_mean, "renorm_var": self.renorm_var}
        return averages

    def _move(self, batch: Batch, factor: float, mean: NDArray[Any], var: NDArray[Any]) -> None:
        self._approach(batch, factor, mean, var)
        if self.renorm_mean is not None and self.renorm_var is not None and self.renorm_momentum is not None:
            self._approach(batch, self.renorm_momentum, self.renorm_mean, self.renorm_var)
        self.weights.add(factor, batch)

    def _approach(self, batch: Batch, factor: float, mean: NDArray[Any], var: NDArray[Any]) -> None:
        new_mean, new_var = batch.mean, batch.running_var(self.unbiased)
        with np.errstate(all="ignore"):     # Inf beyond the dtype, as documented
            if self.averages == "var":
                views.move(mean, var, batch.over(mean, new_mean), batch.over(var, new_var), factor, 1.0)
                return
            std = (1 - factor) * np.sqrt(np.asarray(var, np.float64) + self.eps)
            std += factor * np.sqrt(new_var + self.eps)
            mean[...], var[...] = (
                batch.over(mean, (1 - factor) * np.asarray(mean, np.float64) + factor * new_mean),
                batch.over(var, np.maximum(std * std - self.eps, 0.0)))
