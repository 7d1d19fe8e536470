"""Ghost batch normalization: groups of samples, each normalized by its own statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastbn._core import views
from fastbn._core.checks import check_integer, counted

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def grouped(
    x: ArrayLike, view: views.View, axis: int | tuple[int, ...], virtual_batch_size: int
) -> tuple[views.View, int | None]:
    """Return a view of x whose groups of samples are consecutive, and the number of samples of the kernels in a group.

    Parameters
    ----------
    x : array_like
    view : View
        Of x, in any order of axes.
    axis : int or tuple of int
    virtual_batch_size : int
        Samples of a group, along axis 0.

    Returns
    -------
    view : View
    samples : int or None
        None if the batch is one group.

    Raises
    ------
    TypeError, ValueError
        If the size is not a positive integer, axis 0 is a channel axis, or a group has a single value per channel.
    """
    size = check_integer(virtual_batch_size, "virtual_batch_size", 1)
    if view.axis == 0:
        raise samples_are_channels("axis", axis)
    batch = view.array.shape[0]
    if size >= batch or not view.size:
        return view, None
    outer, order = view.arrangement
    if outer == 0 or (order is not None and order[0] != 0):     # samples do not come first in memory
        view = views.view(x, axis, arrangement=(view.axis, None))
    each = view.size // (batch * view.shape[1])     # values per channel of a sample
    last = batch % size or size
    if each * min(size, last) == 1:
        raise ValueError(f"virtual_batch_size {size} makes a group of one sample of x, whose shape is "
                         f"{view.split(view.array).shape}, and one value per channel, so there is no variance to learn "
                         f"from; use a size that leaves two or more samples of the {counted(batch, 'sample')} in each "
                         "group")
    return view, size * (view.shape[0] // batch)


def samples_are_channels(name: str, axis: int | tuple[int, ...]) -> ValueError:
    """Return the error for channels along the axis of the samples."""
    return ValueError(f"{name} is {axis}; expected another one than axis 0 with virtual_batch_size, which groups the "
                      "samples along it")
