"""Selections: which values of a batch count, by a mask, by lengths, or by the offsets of a jagged batch.

Positions that count are gathered into rows, (K, C), which the kernels treat as any other batch; their results are
scattered back. Where channels differ, the kernels walk all values, and the results of those that do not count are
replaced.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_choice, listed
from fastbn._core.memory import empty
from fastbn._core.tensors import to_tensor
from fastbn.statistics.channel_stats import ChannelStats
from fastbn.statistics.selection import selection

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Padding: TypeAlias = Literal["zero", "keep"]
PADDINGS: tuple[Padding, ...] = get_args(Padding)


class Marks(NamedTuple):
    """The arguments of a call that select values."""

    mask: ArrayLike | None
    lengths: ArrayLike | None
    padding: Padding


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Which values of an array count, and what the others become in a result.

    Attributes
    ----------
    chosen : ndarray of bool
        Of the array's shape without the channel axis: which positions count. Or with that axis as the last one, if
        channels differ: which values count.
    axis : int
        The channel axis of the array, not negative.
    padding : {"zero", "keep"}
    by_channel : bool
        Whether channels differ.
    """

    chosen: NDArray[np.bool_]
    axis: int
    padding: Padding
    by_channel: bool

    @property
    def positions(self) -> int:
        """Number of all positions."""
        return self.chosen[..., 0].size if self.by_channel else self.chosen.size

    @property
    def full(self) -> NDArray[np.bool_]:
        """Which values count, in the order of axes of the array; only if channels differ."""
        return np.moveaxis(self.chosen, -1, self.axis)

    @property
    def kernel_axis(self) -> int:
        """The channel axis of what `take` returns."""
        return self.axis if self.by_channel else 1

    def count(self) -> NDArray[np.float64]:
        """Return values per channel, shape (C,), or (1,) for all alike."""
        axes = tuple(range(self.chosen.ndim - self.by_channel))
        return np.atleast_1d(np.asarray(np.count_nonzero(self.chosen, axis=axes), np.float64))

    def take(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the positions that count as rows, (K, C); if channels differ, the array itself."""
        return array if self.by_channel else np.moveaxis(array, self.axis, -1)[self.chosen]

    def clear(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return as `take`; if channels differ, a copy with zeros in place of values that do not count."""
        return np.where(self.full, array, array.dtype.type(0)) if self.by_channel else self.take(array)

    def place(self, target: views.View, out: NDArray[Any] | None) -> NDArray[Any] | None:
        """Return an array for the kernels to write to; None for a new one."""
        return target.array if self.by_channel and out is None else None

    def put(
        self, target: views.View, values: NDArray[Any], kept: NDArray[Any], out: NDArray[Any] | None
    ) -> Any:
        """Return the result of a call: `values`, in the shape of `take`, and padding elsewhere.

        Parameters
        ----------
        target : View
            Of `out`, or of a new array.
        values : ndarray
            What the kernels wrote; the array of `place`, unless that was None.
        kept : ndarray
            What a new array has elsewhere, with the padding "keep".
        out : ndarray, optional
            The array of the caller.
        """
        return self._replace(target, values, kept, out) if self.by_channel else self._scatter(target, values, kept, out)

    def _scatter(self, target: views.View, rows: NDArray[Any], kept: NDArray[Any], out: NDArray[Any] | None) -> Any:
        array = np.moveaxis(target.array, self.axis, -1)
        if self.padding == "zero":
            array[~self.chosen] = 0
        elif out is None:
            array[...] = np.moveaxis(kept, self.axis, -1)
        elif target.array is not out:
            array[...] = np.moveaxis(target.merged(views.as_plain(out, "out")), self.axis, -1)
        array[self.chosen] = rows
        return target.finish()

    def _replace(self, target: views.View, values: NDArray[Any], kept: NDArray[Any], out: NDArray[Any] | None) -> Any:
        zero = self.padding == "zero"
        if out is None:
            np.copyto(values, values.dtype.type(0) if zero else kept, where=~self.full)
            return target.finish()
        place, full = views.as_plain(out, "out"), target.split(self.full)
        if zero:
            np.copyto(place, place.dtype.type(0), where=~full)
        np.copyto(place, target.split(values), where=full)
        return out

    def spread(self, values: NDArray[Any], like: views.View) -> Any:
        """Return a new array with `values`, in the shape of `take`, and zeros elsewhere; a tensor if `like` is one."""
        array = values
        if not self.by_channel:
            array = empty(like.array.shape, like.array.dtype)
            array.fill(0)
            np.moveaxis(array, self.axis, -1)[self.chosen] = values
        array = like.split(array)
        return to_tensor(array) if like.tensor else array

    def start(self, target: views.View, kept: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
        """Return the array of a result of which the kernels write the positions that count; arguments as for `put`."""
        if self.padding == "keep" and out is None:
            np.copyto(target.array, kept)
        return target.array


def select(
    view: views.View, mask: ArrayLike | None, lengths: ArrayLike | None, padding: Padding
) -> Selection | None:
    """Return the selection of a call; None if it has neither mask nor lengths.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    check_padding(padding)
    if view.merges and mask is not None:
        mask = _merged(view, mask)
    chosen = selection(view.array.shape, view.axis, None, mask, lengths)
    if chosen is None:
        return None
    # A copy, because the mask of the caller may change before the backward pass.
    return Selection(np.array(chosen), view.axis, padding, chosen.ndim == view.array.ndim)


def _merged(view: views.View, mask: ArrayLike) -> ArrayLike:
    # A mask with as many axes as x has all channel axes.
    given, shape = views.as_plain(mask, "mask"), view.split(view.array).shape
    if given.ndim == len(shape):
        with suppress(ValueError):      # raised again with a message
            return view.merged(np.broadcast_to(given, shape))
    return given


def read(view: views.View, chosen: Selection | None, num_threads: int | None) -> ChannelStats:
    """Return the statistics of an array in double lanes, or of the values that count."""
    mask = None if chosen is None else chosen.full if chosen.by_channel else chosen.chosen
    stats = ChannelStats(view.shape[1], axis=view.axis)
    return stats.update(view.array, mask=mask, num_threads=num_threads)


def check_padding(padding: object) -> None:
    """Raise an error unless the padding is one of the choices."""
    check_choice(padding, "padding", PADDINGS)


def refuse_marks(mask: object, lengths: object) -> None:
    """Raise an error for a mask or lengths of a jagged batch, all of whose values count."""
    if mask is not None or lengths is not None:
        raise ValueError("mask and lengths must be None if x is jagged, (values, offsets)")


def is_jagged(x: tuple[Any, ...]) -> bool:
    """Return whether a tuple is (values, offsets) rather than an array_like.

    Raises
    ------
    ValueError
        If its parts are neither, or the offsets do not fit the values.
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
