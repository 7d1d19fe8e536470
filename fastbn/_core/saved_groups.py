"""What a forward pass by statistics of single samples saves for its backward pass: group norm and instance norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_integer
from fastbn._core.dispatch import kernels
from fastbn._core.saved import check_gate, check_kept, check_origin, is_arrangement, refuse

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.kept import Kept


class GroupSaved:
    """What a backward pass of group or instance norm needs from its forward pass; opaque except for the statistics.

    `group_norm_training` and `instance_norm_training` return one. It can be copied and pickled. A backward pass checks
    its private content against the arrays before it computes anything.

    Attributes
    ----------
    mean, var, rstd : ndarray of float64, shape (N, num_groups)
        Mean, biased variance, and 1 / sqrt(var + eps), of the groups of each sample. Read-only.
    count : int
        Values per statistic.
    """

    __slots__ = ("_arrangement", "_axis", "_groups", "_kept", "_per_group", "_residual", "_shape", "_var")

    def __init__(
        self,
        kept: Kept,
        var: NDArray[np.float64],
        groups: int,
        *,
        view: views.View,
        residual: bool,
        per_group: tuple[bool, bool],
    ) -> None:
        self._kept, self._var, self._groups = kept, var, groups
        self._shape, self._axis = view.array.shape, view.axis       # of x
        self._residual = residual       # whether the forward pass had one
        self._per_group = per_group     # whether gamma and beta had one value per group, not per channel
        # The order of the elements in memory, to which bits belong.
        self._arrangement = None if kept.bits is None else view.arrangement

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each group of each sample."""
        return self._table(self._kept.mean)

    @property
    def var(self) -> NDArray[np.float64]:
        """Biased variance of each group of each sample."""
        return self._table(self._var)

    @property
    def rstd(self) -> NDArray[np.float64]:
        """1 / sqrt(var + eps) of each group of each sample."""
        return self._table(self._kept.rstd)

    @property
    def count(self) -> int:
        """Values per statistic."""
        shape = self._shape
        return int(np.prod(shape[1:])) // max(self._groups, 1)

    def __repr__(self) -> str:
        return f"GroupSaved({self._shape[0]}, {self._groups}, count={self.count})"

    def _table(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        table: NDArray[np.float64] = vector.reshape(self._shape[0], self._groups)
        table.flags.writeable = False       # of this view only
        return table

    def _view_of(self, x: ArrayLike, axis: int, instances: bool = False) -> views.View:
        """Return a view of x of the forward pass, which for instance norm has one group per channel.

        Raises
        ------
        TypeError, ValueError
            If x is not that of the forward pass, or the content of this object is not what it saves. The kernels trust
            it, so it is checked here.
        """
        kept, groups, arrangement = self._kept, self._groups, self._arrangement
        check_kept(kept)
        if kept.frozen:
            refuse("frozen", kept.frozen)
        if not is_pair_of_flags(self._per_group):
            refuse("choice of parameters per group", self._per_group)
        view = sample_view(x, axis)
        check_origin(view, axis, self._shape, self._axis)
        if type(groups) is not int or not (groups == view.shape[1] or (groups > 0 and not view.shape[1] % groups)):
            refuse("number of groups", groups)
        if instances and groups != view.shape[1]:
            raise ValueError(f"saved is of a group norm with {groups} groups; expected that of an instance norm, one "
                             f"group for each of {view.shape[1]} channels")
        if arrangement is not None:
            if not (is_arrangement(arrangement, view) and is_by_sample(arrangement, view)):
                refuse("order of memory", arrangement)
            view = views.view(x, axis, arrangement=arrangement)
        words = kernels.bits_words(view, samples_of(view)) if kept.bits is not None and view.size else 0
        check_gate(kept, self._residual, words)
        return view


def sample_view(x: ArrayLike, axis: int, channels: int | None = None) -> views.View:
    """Return a view of x whose samples, along its first axis, are outermost; `channels` is their expected number.

    Raises
    ------
    TypeError, ValueError
        As `views.view`; also if the channel axis is the first one.
    """
    view = views.view(x, check_integer(axis, "axis"), channels)
    if view.axis == 0:
        raise ValueError(f"axis {axis} of x is the axis of the samples; expected that of the channels")
    if is_by_sample(view.arrangement, view):
        return view
    order = view.arrangement[1] or ()       # the natural order begins with the samples
    order = (0, *(k for k in order if k != 0))
    return views.view(x, axis, arrangement=(order.index(view.axis), order))


def is_by_sample(arrangement: tuple[int, tuple[int, ...] | None], view: views.View) -> bool:
    """Return whether an order of axes of a view begins with the samples."""
    order = arrangement[1]
    return order is None or order[0] == 0 or view.array.shape[0] == 1


def samples_of(view: views.View) -> int:
    """Return the consecutive samples of the kernels, rows or planes, that make up one sample of x."""
    return view.shape[0] // int(view.array.shape[0])


def is_pair_of_flags(value: Any) -> bool:
    """Return whether this is a tuple of two bools."""
    return isinstance(value, tuple) and len(value) == 2 and all(type(flag) is bool for flag in value)
