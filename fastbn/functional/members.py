"""The members of the family as the closed form of `fastbn._core.second_order` takes them.

They differ in how their arrays are arranged in memory, and in the shapes in which statistics and parameters see them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.saved import Saved, not_saved
from fastbn._core.saved_groups import GroupSaved
from fastbn._core.saved_rows import RowSaved
from fastbn._core.second_order import Directions, Frame, Normalized, Statistics
from fastbn._core.tensors import as_constant, to_tensor
from fastbn._core.threads import check as check_threads

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Axis


@dataclass(slots=True, eq=False)
class Member:
    """The arrays of a call as the closed form takes them, and its results as the caller gets them.

    Attributes
    ----------
    view : View
        Of x.
    statistics : Statistics
        Those of the forward pass.
    parameters : Frame
        An arranged array as gamma and beta see it.
    gamma_shape, beta_shape : tuple of int
        A parameter with fewer values than `parameters` has one for several neighbours.
    order : tuple of int or None
        The axes of x in the order in which arrays are arranged; None for the order in which a view walks them.
    """

    view: views.View
    statistics: Statistics
    parameters: Frame
    gamma_shape: tuple[int, ...]
    beta_shape: tuple[int, ...]
    order: tuple[int, ...] | None = None

    def normalized(self) -> Normalized:
        """Return x, normalized."""
        return Normalized.of(self._arranged(self.view.array), self.statistics, self.parameters)

    def array(self, a: ArrayLike, name: str) -> NDArray[Any]:
        """Return an array of the shape and dtype of x, arranged."""
        return self._arranged(views.like(self.view, a, name).array)

    def gamma(self, a: ArrayLike | None, name: str = "gamma") -> NDArray[np.float64] | None:
        """Return gamma, or its gradient or tangent, as a vector."""
        return self._vector(a, self.gamma_shape, name)

    def directions(self, **given: ArrayLike | None) -> Directions:
        """Return an array of the shape of x, and vectors for gamma and beta, given under their names in errors."""
        (x_name, x), (gamma_name, gamma), (beta_name, beta) = given.items()
        return Directions(
            None if x is None else self.array(x, x_name), self.gamma(gamma, gamma_name),
            self._vector(beta, self.beta_shape, beta_name))

    def target(self, out: NDArray[Any] | None = None, **other: ArrayLike | None) -> views.View:
        """Return a view of the caller's `out`, which may be x or another input, given under its name in errors."""
        others = [views.like(self.view, a, name) for name, a in other.items() if a is not None]
        return views.output(self.view, out, *others)

    def finished(self, a: NDArray[Any], target: views.View | None = None) -> NDArray[Any]:
        """Return a result in the dtype and with the axes of x, in `target` if it is given."""
        if self.order is not None:
            a = a.transpose(np.argsort(self.order))
        if target is None and a.dtype == self.view.array.dtype and self._is_arranged():
            a = a.reshape(self.view.whole)
            result: NDArray[Any] = to_tensor(a) if self.view.tensor else a
            return result
        target = self.target() if target is None else target
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            np.copyto(target.array, a, casting="unsafe")
        return target.finish()

    def summed(self, dgamma: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gradient of gamma in its shape."""
        parts: NDArray[np.float64] = dgamma.reshape(math.prod(self.gamma_shape), -1).sum(axis=1)
        return parts.reshape(self.gamma_shape)

    def _vector(self, a: ArrayLike | None, shape: tuple[int, ...], name: str) -> NDArray[np.float64] | None:
        if a is None:
            return None
        given = views.as_plain(as_constant(a, name), name)
        if given.shape != shape:
            raise ValueError(f"{name} has shape {given.shape}; expected {shape}")
        if given.dtype.kind in "iu" and not isinstance(a, np.ndarray):      # numbers of a list
            given = given.astype(np.float64)
        views.check_vector(given.ravel(), given.size, name)
        vector = np.array(given, np.float64).ravel()
        return vector.repeat(self.parameters.length // max(len(vector), 1))

    def _is_arranged(self) -> bool:
        # Whether x lies in memory as arrays are arranged; several channel axes may have been moved together.
        if self.order is None:
            return not self.view.merges
        return bool(self.view.array.transpose(self.order).flags.c_contiguous)

    def _arranged(self, a: NDArray[Any]) -> NDArray[Any]:
        kind = np.dtype(np.float64 if a.dtype.itemsize == 8 else np.float32)
        if self.order is None:
            return a.astype(kind, copy=False)
        return np.require(a.transpose(self.order), kind, ["C", "A"])


def batch_norm(x: ArrayLike, saved: Saved, axis: Axis, num_threads: int | None) -> Member:
    """Return a batch norm."""
    check_call(saved, Saved, "batch_norm_training", num_threads)
    if saved._samples is not None:
        raise ValueError("saved is of a forward pass with a virtual batch size; expected one without: pass each group "
                         "by itself")
    view = saved._view_of(x, axis)
    kept, (n, channels, s) = saved._kept, view.shape
    refuse_more(kept.activation, saved._residual)
    if saved._index is not None or (not kept.frozen and saved._count != n * s):
        raise ValueError(f"saved is of {saved._count} values per channel; expected all {n * s} of x")
    frame = Frame(view.array.shape, view.axis, num_threads)
    statistics = Statistics(kept.mean, kept.low, kept.rstd, frame, frozen=kept.frozen)
    return Member(view, statistics, frame, (channels,), (channels,))


def layer_norm(x: ArrayLike, saved: RowSaved, num_threads: int | None, *, about_zero: bool = False) -> Member:
    """Return a layer norm or, about zero, an RMS norm."""
    check_call(saved, RowSaved, "rms_norm_training" if about_zero else "layer_norm_training", num_threads)
    view = saved._view_of(x, about_zero)
    refuse_more(saved._activation, saved._residual)
    mean, low, rstd = saved._statistics
    by_row, by_column = (Frame(view.array.shape, axis, num_threads) for axis in (0, 1))
    return Member(view, Statistics(mean, low, rstd, by_row), by_column, saved._lengths, saved._lengths)


def group_norm(
    x: ArrayLike, saved: GroupSaved, axis: int, num_threads: int | None, *, instances: bool = False
) -> Member:
    """Return a group norm or, for `instances`, an instance norm."""
    forward = "instance_norm_training" if instances else "group_norm_training or instance_norm_training"
    check_call(saved, GroupSaved, forward, num_threads)
    view = saved._view_of(x, axis, instances)
    kept, groups, shape = saved._kept, saved._groups, view.array.shape
    refuse_more(kept.activation, saved._residual)
    order = (0, view.axis, *(k for k in range(1, len(shape)) if k != view.axis))
    samples, channels, space = shape[0], shape[view.axis], math.prod(shape[k] for k in order[2:])
    rows = Frame((samples * groups, channels // max(groups, 1) * space), 0, num_threads)
    planes = Frame((samples, channels, space), 1, num_threads)
    gamma_shape, beta_shape = (((groups,) if per_group else (channels,)) for per_group in saved._per_group)
    return Member(view, Statistics(kept.mean, kept.low, kept.rstd, rows), planes, gamma_shape, beta_shape, order)


def check_call(saved: object, kind: type, forward: str, num_threads: int | None) -> None:
    """Raise an error for an invalid number of threads, or if `saved` is not that of a forward pass."""
    if not isinstance(saved, kind):
        raise not_saved(saved, kind, forward)
    if num_threads is not None:
        check_threads(num_threads)


def refuse_more(activation: tuple[int, float], residual: bool) -> None:
    """Raise an error for a forward pass with an activation or a residual."""
    if activation[0] or residual:
        raise ValueError("saved is of a forward pass with a residual or an activation; expected one with neither: "
                         "compose the derivatives of the normalization with theirs")
