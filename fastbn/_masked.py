"""Batch normalization over some positions: those that a mask or the lengths of padded sequences leave.

Where channels lie last and are 64 or more, the kernels walk the rows that count and never touch the others. Elsewhere
the values that count are gathered into rows, and go through the same kernels.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fastbn import _layout, functional
from fastbn.functional import Saved

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._checks import Activation

Padding: TypeAlias = Literal["zero", "keep"]
PADDINGS = ("zero", "keep")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """What a masked forward leaves for its backward.

    Attributes
    ----------
    chosen : ndarray of bool
        Which positions counted, of x's shape without the channel axis.
    axis : int
        The channel axis, not negative.
    padding : {"zero", "keep"}
    saved : Saved or None
        Of the kernels; None if nothing counted.
    rows : ndarray, shape (K, C), or None
        What was gathered of x, unless the kernels walked it where it is.
    """

    chosen: NDArray[np.bool_]
    axis: int
    padding: Padding
    saved: Saved | None
    rows: NDArray[Any] | None


def check_padding(padding: object) -> Padding:
    """Return what becomes of positions that do not count."""
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(map(repr, PADDINGS))}, got {padding!r}")
    return padding  # type: ignore[return-value]


def forward(
    x: ArrayLike, axis: int, channels: int, chosen: NDArray[np.bool_], padding: Padding,
    gamma: ArrayLike | None, beta: ArrayLike | None, eps: float, residual: ArrayLike | None, activation: Activation,
    out: NDArray[Any] | None, num_threads: int | None,
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
    view = _layout.view(x, axis, channels)
    index = np.flatnonzero(chosen)
    if len(index) == 1:
        raise ValueError("a single position of x counts, one value per channel, so there is no variance to learn from")
    if len(index) == 0:
        warnings.warn("no position of the batch counts: its statistics are left out", stacklevel=4)
        return finished(_layout.output(view, out), view.array, chosen, view.axis, padding, out), Masked(
            chosen, view.axis, padding, None, None)
    if _layout.choose(view, index):
        start = None if out is not None else started(view.array, padding)
        y, saved = functional.train(
            view, gamma, beta, eps, residual, activation, out if start is None else start, num_threads, index)
        if out is not None:
            fill(y, chosen, view.axis, padding)
        return y, Masked(chosen, view.axis, padding, saved, None)
    target = _layout.output(view, out, None if residual is None else _layout.like(view, residual, "residual"))
    rows = gather(view.array, view.axis, chosen)
    other = None if residual is None else gather(_layout.as_plain(residual, "residual"), view.axis, chosen)
    y_rows, saved = functional.batch_norm_training(
        rows, gamma, beta, eps=eps, residual=other, activation=activation, num_threads=num_threads)
    y = finished(target, view.array, chosen, view.axis, padding, out, y_rows)
    return y, Masked(chosen, view.axis, padding, saved, rows)


def backward(
    dy: ArrayLike, x: ArrayLike, masked: Masked, gamma: ArrayLike | None, out: NDArray[Any] | None,
    num_threads: int | None,
) -> tuple[Any, ...]:
    """Return what `fastbn.functional.batch_norm_backward` returns, over the positions that counted."""
    chosen, axis, padding, saved = masked.chosen, masked.axis, masked.padding, masked.saved
    view = _layout.view(x, axis)
    gradient = _layout.like(view, dy, "dy")
    target = _layout.output(view, out, gradient)
    if saved is None:
        zeros = np.zeros(view.shape[1])
        return finished(target, gradient.array, chosen, axis, padding, out), zeros, zeros
    if masked.rows is None:
        start = out if out is not None else started(gradient.array, padding)
        dx, dgamma, dbeta, *dresidual = functional.batch_norm_backward(
            dy, x, saved, gamma, axis=axis, out=start, num_threads=num_threads)
        if out is not None:
            fill(dx, chosen, axis, padding)
        for array in dresidual:
            fill(array, chosen, axis, "zero")
        return (dx, dgamma, dbeta, *dresidual)
    rows, dgamma, dbeta, *others = functional.batch_norm_backward(
        gather(gradient.array, axis, chosen), masked.rows, saved, gamma, num_threads=num_threads)
    dx = finished(target, gradient.array, chosen, axis, padding, out, rows)
    dresidual = [scattered(array, view.array, chosen, axis) for array in others]
    return (dx, dgamma, dbeta, *dresidual)


def started(like: NDArray[Any], padding: Padding) -> NDArray[Any]:
    """Return a new array for a result, with the positions that do not count as they will be."""
    return like.copy() if padding == "keep" else np.zeros_like(like)


def gather(array: NDArray[Any], axis: int, chosen: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values that count as rows, (K, C)."""
    return np.moveaxis(array, axis, -1)[chosen]


def scattered(rows: NDArray[Any], like: NDArray[Any], chosen: NDArray[np.bool_], axis: int) -> NDArray[Any]:
    """Return rows at the positions that count, and zeros elsewhere."""
    out = np.zeros_like(like)
    np.moveaxis(out, axis, -1)[chosen] = rows
    return out


def fill(array: NDArray[Any], chosen: NDArray[np.bool_], axis: int, padding: Padding) -> None:
    """Set the positions that do not count to zero, unless they are to be kept."""
    if padding == "zero":
        np.moveaxis(_layout.as_plain(array, "out"), axis, -1)[~chosen] = 0


def finished(
    target: _layout.View, kept: NDArray[Any], chosen: NDArray[np.bool_], axis: int, padding: Padding,
    out: NDArray[Any] | None, rows: NDArray[Any] | None = None,
) -> Any:
    """Return the array of `target` with rows at the positions that count; `kept` is what a new one has elsewhere."""
    array = np.moveaxis(target.array, axis, -1)
    if padding == "zero":
        array[~chosen] = 0
    elif out is None:
        array[...] = np.moveaxis(kept, axis, -1)
    elif target.array is not out:
        array[...] = np.moveaxis(_layout.as_plain(out, "out"), axis, -1)
    if rows is not None:
        array[chosen] = rows
    return target.finish()
