"""Batch normalization over some positions: those that a mask or the lengths of padded sequences leave.

Where channels lie last and fill vectors, the kernels walk the rows that count and never read the others. Elsewhere the
values that count are gathered into rows, and go through the same kernels, to the same bits. Masks that differ by
channel take another way, _masked_channels.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fastbn import functional
from fastbn._core import views
from fastbn._core.checks import check_activation, check_choice, listed
from fastbn._core.saved import Saved
from fastbn._core.tensors import to_tensor
from fastbn.layers import masked_channels as _masked_channels
from fastbn.statistics.selection import selection

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation

Padding: TypeAlias = Literal["zero", "keep"]
PADDINGS = ("zero", "keep")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """What a masked forward leaves for its backward.

    Attributes
    ----------
    chosen : ndarray of bool
        Which positions counted, of x's shape without the channel axis; or which values, with that axis as the last one.
    axis : int
        The channel axis, not negative.
    padding : {"zero", "keep"}
    saved : Saved or None
        Of the kernels; None if nothing counted.
    rows : ndarray, shape (K, C), or None
        What was gathered of x, if that is kept.
    residual : bool
        Whether the forward added a residual.
    gathered : bool
        Whether rows were, and are for the backward; else the kernels walk x where it is.
    by_channel : bool
        Whether each channel has a mask of its own.
    """

    chosen: NDArray[np.bool_]
    axis: int
    padding: Padding
    saved: Saved | None
    rows: NDArray[Any] | None
    residual: bool
    gathered: bool = False
    by_channel: bool = False

    @property
    def pending(self) -> bool:
        """Whether this is of a forward by given statistics, of which nothing has been saved yet."""
        return self.saved is None and (self.gathered or self.by_channel)

    @property
    def counts(self) -> NDArray[np.float64] | None:
        """How many values counted in each channel, where channels differ."""
        return _masked_channels.counts_of(self.chosen) if self.by_channel else None


def check_padding(padding: object) -> None:
    """Raise an error for what cannot become of positions that do not count."""
    check_choice(padding, "padding", PADDINGS)


def counted(
    view: views.View, mask: ArrayLike | None, lengths: ArrayLike | None, padding: object,
) -> NDArray[np.bool_]:
    """Return which positions count, or which values if channels differ, after a check of what becomes of the others.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    check_padding(padding)
    chosen = selection(view.array.shape, view.axis, None, mask, lengths)
    assert chosen is not None
    return np.array(chosen)     # the caller's mask may change before the backward


def is_jagged(x: tuple[Any, ...]) -> bool:
    """Return whether a tuple is (values, offsets) rather than an array_like.

    Raises
    ------
    ValueError
        If its parts make neither, or the offsets do not fit the values.
    """
    if len(x) != 2:
        return False
    shapes = np.shape(x[0]), np.shape(x[1])
    if shapes[0] == shapes[1]:
        return False
    if len(shapes[0]) != 2 or len(shapes[1]) != 1:
        raise ValueError(f"x is a tuple of shapes {shapes[0]} and {shapes[1]}; expected (K, C) and (N + 1,), values "
                         "and offsets of a jagged batch")
    offsets = np.asarray(x[1])
    if offsets.dtype.kind not in "iu":
        raise TypeError(f"offsets has dtype {offsets.dtype}; expected integers")
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(x[0]) or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise ValueError(f"offsets must rise from 0 to {len(x[0])}, the number of values; "
                         f"got {listed(offsets.tolist())}")
    return True


def forward(
    view: views.View, chosen: NDArray[np.bool_], padding: Padding, gamma: ArrayLike | None, beta: ArrayLike | None,
    eps: float, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None, num_threads: int | None,
) -> tuple[Any, Masked]:
    """Normalize the positions that count by their own statistics.

    Returns
    -------
    y : ndarray
        `out` if it was given.
    masked : Masked

    Raises
    ------
    TypeError, ValueError
        As `fastbn.functional.batch_norm_training`; also if a single position counts.
    """
    if chosen.ndim == view.array.ndim:
        check_activation(activation, inference=False)
        target, like = places(view, residual, out)
        values, found = _masked_channels.forward(
            view, chosen, gamma, beta, eps, None if like is None else like.array, activation, num_threads)
        y = _masked_channels.placed(target, values, chosen, view.array, padding == "zero", out, view.tensor)
        return y, Masked(chosen, view.axis, padding, found, None, residual is not None, by_channel=True)
    index = np.flatnonzero(chosen)
    if len(index) == 1:
        raise ValueError("a single position of x counts, one value per channel, so there is no variance to learn from")
    check_activation(activation, inference=False)
    target, like = places(view, residual, out)
    if len(index) == 0:
        warnings.warn("no position of the batch counts: its statistics are left out", stacklevel=4)
        return finished(target, view.array, chosen, view.axis, padding, out), Masked(
            chosen, view.axis, padding, None, None, residual is not None)
    if (out is None or target.array is out) and views.choose(view, index):
        y, saved = functional.train(
            view, gamma, beta, eps, residual, activation, started(view.array, padding) if out is None else out,
            num_threads, index, out is not None and padding == "zero")
        if out is None and view.tensor:
            y = to_tensor(y)
        return y, Masked(chosen, view.axis, padding, saved, None, residual is not None)
    rows, other = gather(view.array, view.axis, chosen), None if like is None else gather(like.array, view.axis, chosen)
    y_rows, saved = functional.batch_norm_training(
        rows, gamma, beta, eps=eps, residual=other, activation=activation, num_threads=num_threads)
    y = finished(target, view.array, chosen, view.axis, padding, out, y_rows)
    return y, Masked(chosen, view.axis, padding, saved, rows, residual is not None, True)


def evaluate(
    view: views.View, chosen: NDArray[np.bool_], padding: Padding, mean: ArrayLike, var: ArrayLike,
    gamma: ArrayLike | None, beta: ArrayLike | None, eps: float, residual: ArrayLike | None, activation: Activation,
    out: NDArray[Any] | None, num_threads: int | None,
) -> tuple[Any, Masked]:
    """Transform the positions that count by given statistics; returns and raises as `forward`.

    Nothing is saved for a backward: `completed` does that when there is one.
    """
    target, like = places(view, residual, out)
    if chosen.ndim == view.array.ndim:
        added = None if like is None else like.array
        values = functional.batch_norm_inference(
            view.array, mean, var, gamma, beta, axis=view.axis, eps=eps, residual=added, activation=activation,
            num_threads=num_threads)
        y = _masked_channels.placed(target, values, chosen, view.array, padding == "zero", out, view.tensor)
        return y, Masked(chosen, view.axis, padding, None, None, residual is not None, by_channel=True)
    rows, other = gather(view.array, view.axis, chosen), None if like is None else gather(like.array, view.axis, chosen)
    functional.batch_norm_inference(
        rows, mean, var, gamma, beta, eps=eps, residual=other, activation=activation, out=rows, num_threads=num_threads)
    y = finished(target, view.array, chosen, view.axis, padding, out, rows)
    return y, Masked(chosen, view.axis, padding, None, None, residual is not None, True)


def completed(
    masked: Masked, x: ArrayLike, residual: ArrayLike | None, mean: ArrayLike, var: ArrayLike, gamma: ArrayLike | None,
    beta: ArrayLike | None, eps: float, relu: bool, num_threads: int | None,
) -> Masked:
    """Return what a backward of `evaluate` needs; the residual matters to a ReLU alone."""
    other: ArrayLike | None = True if masked.residual else None
    if masked.by_channel:
        saved = functional.inference_saved(
            x, mean, var, gamma, beta, axis=masked.axis, eps=eps, relu=relu,
            residual=residual if relu and residual is not None else other, num_threads=num_threads)
        return dataclasses.replace(masked, saved=saved)
    rows = gather(views.as_plain(x, "x"), masked.axis, masked.chosen)
    if relu and residual is not None:
        other = gather(views.as_plain(residual, "residual"), masked.axis, masked.chosen)
    saved = functional.inference_saved(
        rows, mean, var, gamma, beta, axis=1, eps=eps, relu=relu, residual=other, num_threads=num_threads)
    return dataclasses.replace(masked, saved=saved if len(rows) else None, rows=rows)


def places(
    view: views.View, residual: ArrayLike | None, out: NDArray[Any] | None,
) -> tuple[views.View, views.View | None]:
    """Return a view of where the result goes, and one of the residual."""
    like = None if residual is None else views.like(view, residual, "residual")
    return views.output(view, out, like), like


def backward(
    dy: ArrayLike, x: ArrayLike, masked: Masked, gamma: ArrayLike | None, out: NDArray[Any] | None,
    num_threads: int | None,
) -> tuple[Any, ...]:
    """Return what `fastbn.functional.batch_norm_backward` returns, over the positions that counted."""
    chosen, axis, padding, saved = masked.chosen, masked.axis, masked.padding, masked.saved
    view = views.view(x, axis)
    gradient = views.like(view, dy, "dy")
    target = views.output(view, out, gradient)
    if saved is None:
        zeros = np.zeros(view.shape[1])
        nothing = [zeros_of(view)] if masked.residual else []
        return finished(target, gradient.array, chosen, axis, padding, out), zeros, zeros, *nothing
    if masked.by_channel:
        values, dgamma, dbeta, *others = _masked_channels.backward(
            gradient.array, view.array, saved, chosen, axis, gamma, num_threads)
        dx = _masked_channels.placed(target, values, chosen, gradient.array, padding == "zero", out, view.tensor)
        return (dx, dgamma, dbeta, *(to_tensor(array) if view.tensor else array for array in others))
    if not masked.gathered:
        direct = out is not None and target.array is out
        dx, dgamma, dbeta, *dresidual = functional.gradients(
            dy, x, saved, gamma, axis=axis, out=out if direct else started(gradient.array, padding),
            num_threads=num_threads, fill=direct and padding == "zero")
        if out is not None and not direct:
            dx = finished(target, gradient.array, chosen, axis, padding, out, gather(dx, axis, chosen))
        elif out is None and view.tensor:
            dx = to_tensor(dx)
        return (dx, dgamma, dbeta, *dresidual)
    x_rows = gather(view.array, axis, chosen) if masked.rows is None else masked.rows
    rows, dgamma, dbeta, *others = functional.batch_norm_backward(
        gather(gradient.array, axis, chosen), x_rows, saved, gamma, num_threads=num_threads)
    dx = finished(target, gradient.array, chosen, axis, padding, out, rows)
    return (dx, dgamma, dbeta, *(scattered(array, view, chosen, axis) for array in others))


def zeros_of(view: views.View) -> Any:
    """Return a new array of zeros like that of a view; a tensor for a tensor."""
    out = np.zeros(view.array.shape, view.array.dtype)
    return to_tensor(out) if view.tensor else out


def started(like: NDArray[Any], padding: Padding) -> NDArray[Any]:
    """Return a new array for a result, with the positions that do not count as they will be."""
    return np.array(like, order="C") if padding == "keep" else np.zeros(like.shape, like.dtype)


def gather(array: NDArray[Any], axis: int, chosen: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values that count as rows, (K, C)."""
    return np.moveaxis(array, axis, -1)[chosen]


def scattered(rows: NDArray[Any], like: views.View, chosen: NDArray[np.bool_], axis: int) -> Any:
    """Return rows at the positions that count, and zeros elsewhere."""
    out = zeros_of(like)
    np.moveaxis(views.as_plain(out, "out"), axis, -1)[chosen] = rows
    return out


def finished(
    target: views.View, kept: NDArray[Any], chosen: NDArray[np.bool_], axis: int, padding: Padding,
    out: NDArray[Any] | None, rows: NDArray[Any] | None = None,
) -> Any:
    """Return the array of `target` with rows at the positions that count; `kept` is what a new one has elsewhere."""
    array = np.moveaxis(target.array, axis, -1)
    if padding == "zero":
        array[~chosen] = 0
    elif out is None:
        array[...] = np.moveaxis(kept, axis, -1)
    elif target.array is not out:
        array[...] = np.moveaxis(views.as_plain(out, "out"), axis, -1)
    if rows is not None:
        array[chosen] = rows
    return target.finish()
