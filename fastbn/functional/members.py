"""The members of the family as the closed form of `fastbn._core.second_order` takes them.

They differ in how their arrays are arranged in memory, and in the shapes in which statistics and parameters see them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_eps, check_integer
from fastbn._core.dispatch import kernels
from fastbn._core.saved import Saved
from fastbn._core.second_order import LINEAR, Directions, Frame, Normalized
from fastbn._core.tensors import as_constant
from fastbn._core.threads import check as check_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray


@dataclass(slots=True, eq=False)
class Member:
    """The arrays of a call as the closed form takes them, and its results as the caller gets them.

    Attributes
    ----------
    view : View
        Of x.
    order : tuple of int or None
        The axes of x in the order in which arrays are arranged; None for the order of x in memory.
    shape : tuple of int
        Of gamma and beta.
    normalize : callable
        Returns the arranged x, normalized.
    """

    view: views.View
    order: tuple[int, ...] | None
    shape: tuple[int, ...]
    normalize: Callable[[NDArray[Any]], Normalized]

    def normalized(self) -> Normalized:
        """Return x, normalized."""
        return self.normalize(self._arranged(self.view.array))

    def array(self, a: ArrayLike, name: str) -> NDArray[Any]:
        """Return an array of the shape and dtype of x, arranged."""
        return self._arranged(views.like(self.view, a, name).array)

    def directions(self, **given: ArrayLike | None) -> Directions:
        """Return an array of the shape of x and two parameters, given under their names in errors."""
        (name, x), *parameters = given.items()
        gamma, beta = (self.parameter(a, key) for key, a in parameters)
        return Directions(None if x is None else self.array(x, name), gamma, beta)

    def parameter(self, a: ArrayLike | None, name: str) -> NDArray[np.float64] | None:
        """Return a parameter as a vector."""
        if a is None:
            return None
        given = views.as_plain(as_constant(a, name), name)
        if given.shape != self.shape:
            raise ValueError(f"{name} has shape {given.shape}; expected {self.shape}")
        if given.dtype.kind in "iu" and not isinstance(a, np.ndarray):      # numbers of a list
            given = given.astype(np.float64)
        views.check_vector(given.ravel(), given.size, name)
        return np.array(given, np.float64).ravel()

    def target(self, out: NDArray[Any], **other: ArrayLike | None) -> views.View:
        """Return a view of the caller's `out`, which may be x or another input, given under its name in errors."""
        (name, a), = other.items()
        return views.output(self.view, out, None if a is None else views.like(self.view, a, name))

    def finished(self, a: NDArray[Any], target: views.View | None = None) -> NDArray[Any]:
        """Return a result in the dtype and with the axes of x, in `target` if it is given."""
        if self.order is not None:
            a = a.reshape([self.view.array.shape[k] for k in self.order]).transpose(np.argsort(self.order))
        elif target is None and a.dtype == self.view.array.dtype and not self.view.tensor:
            return a
        target = views.output(self.view) if target is None else target
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            np.copyto(target.array, a, casting="unsafe")
        return target.finish()

    def empty(self, target: views.View | None = None) -> NDArray[Any]:
        """Return a result without elements."""
        return (views.output(self.view) if target is None else target).finish()

    def _arranged(self, a: NDArray[Any]) -> NDArray[Any]:
        kind = computed(a.dtype)
        if self.order is None:
            return a.astype(kind, copy=False)
        return np.require(a.transpose(self.order), kind, ["C", "A"])


def computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which elements of a dtype are computed."""
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


def batch_norm(x: ArrayLike, saved: Saved, axis: int, num_threads: int | None) -> Member:
    """Return a batch norm by the statistics of its forward pass."""
    check_call(num_threads)
    if not isinstance(saved, Saved):
        raise TypeError(f"saved must be a Saved, the second value of batch_norm_training, got {type(saved).__name__}")
    view = saved._view_of(x, axis)
    kept, (n, channels, s) = saved._kept, view.shape
    if kept.activation[0] or saved._residual:
        raise ValueError("saved is of a forward pass with a residual or an activation; expected one with neither: "
                         "compose the derivatives of batch norm with theirs")
    if saved._index is not None or (not kept.frozen and saved._count != n * s):
        raise ValueError(f"saved is of {saved._count} values per channel; expected all {n * s} of x")
    frame = Frame(view.array.shape, view.axis, num_threads)

    def normalize(a: NDArray[Any]) -> Normalized:
        constants = kernels.Constants(channels, kept.mean, None, kept.rstd, None, 0.0, low=kept.low)
        x_hat = kernels.apply(a, view.axis, constants, None, None, LINEAR, num_threads)
        return Normalized(x_hat, kept.rstd, frame, frame, frozen=kept.frozen)

    return Member(view, None, (channels,), normalize)


def layer_norm(
    x: ArrayLike, normalized_shape: int | Sequence[int], eps: float | None, *, about_zero: bool, num_threads: int | None
) -> Member:
    """Return a layer norm, or about zero an RMS norm. An eps of None is that of the dtype of the computation."""
    check_call(num_threads)
    sizes = check_shape(normalized_shape)
    view = views.view(x, -1)
    given = view.array.shape
    if given[-len(sizes):] != sizes:
        raise ValueError(f"x has shape {given}; expected {sizes}, the normalized_shape, at its end")
    small = float(np.finfo(computed(view.array.dtype)).eps) if eps is None else check_eps(eps)
    rows = (math.prod(given[:-len(sizes)]), math.prod(sizes))

    def normalize(a: NDArray[Any]) -> Normalized:
        x_hat, rstd = by_rows(a, rows, small, about_zero, num_threads)
        return Normalized(x_hat, rstd, Frame(rows, 0, num_threads), Frame(rows, 1, num_threads), about_zero=about_zero)

    return Member(view, tuple(range(len(given))), sizes, normalize)


def group_norm(x: ArrayLike, num_groups: int | None, axis: int, eps: float, num_threads: int | None) -> Member:
    """Return a group norm, or with None as `num_groups` an instance norm, whose groups are single channels."""
    check_call(num_threads)
    small = check_eps(eps)
    view = views.view(x, axis)
    given = view.array.shape
    if view.axis == 0:
        raise ValueError(f"axis {axis} of x is that of the samples; expected the axis of the channels")
    samples, channels = given[0], given[view.axis]
    groups = channels if num_groups is None else check_integer(num_groups, "num_groups", 1)
    if channels and channels % groups:
        raise ValueError(f"num_groups is {groups}; expected a divisor of {channels}, the number of channels of x")
    if num_groups is None and view.size and view.size == samples * channels:
        raise ValueError(f"x has shape {given}, one value per channel of a sample, so there is no variance")
    order = (0, view.axis, *(k for k in range(1, len(given)) if k != view.axis))
    space = math.prod(given[k] for k in order[2:])

    def normalize(a: NDArray[Any]) -> Normalized:
        rows = (samples * groups, channels // groups * space)
        x_hat, rstd = by_rows(a, rows, small, False, num_threads)
        planes = (samples, channels, space)
        return Normalized(x_hat, rstd, Frame(rows, 0, num_threads), Frame(planes, 1, num_threads))

    return Member(view, order, (channels,), normalize)


def by_rows(
    a: NDArray[Any], shape: tuple[int, int], eps: float, about_zero: bool, num_threads: int | None
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return a contiguous array normalized by the statistics of its rows, and their rstd."""
    rows = views.view(a.reshape(shape), 1)
    x_hat = views.output(rows)
    _, _, rstd = kernels.layer_forward(rows, x_hat, None, None, eps, about_zero=about_zero, num_threads=num_threads)
    return x_hat.finish().reshape(a.shape), rstd


def check_call(num_threads: int | None) -> None:
    """Raise an error for an invalid number of threads."""
    if num_threads is not None:
        check_threads(num_threads)


def check_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return a normalized shape as a tuple."""
    sizes: tuple[object, ...] = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not sizes:
        raise ValueError("normalized_shape must have one axis or more, got ()")
    return tuple(check_integer(size, "normalized_shape", 1) for size in sizes)
