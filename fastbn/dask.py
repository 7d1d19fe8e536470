"""Channel statistics of Dask arrays, for data larger than the memory of one machine.

Each chunk is reduced to a ChannelStats, and these are merged in a tree. Workers exchange only statistics, a few vectors
of length C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_choice
from fastbn._core.extras import hint
from fastbn.statistics.channel_stats import ChannelStats
from fastbn.statistics.selection import NAN_POLICIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fastbn.statistics.selection import NanPolicy

__all__ = ["channel_stats"]

# Statistics per merge. Pairs would need more tasks; a single merge would leave all workers but one idle.
FAN_IN = 8


def channel_stats(x: Any, axis: int = 1, *, nan_policy: NanPolicy = "propagate") -> Any:
    """Return the statistics of each channel of a Dask array as a delayed object.

    Each chunk is one task, which uses a single thread. Further tasks merge up to eight results at a time, in the order
    of the chunks. If a worker is lost, others repeat its tasks. Mean and variance are the same within a relative 1e-12
    for any chunks, those along the channel axis included (see `fastbn.ChannelStats`).

    Parameters
    ----------
    x : dask.array.Array, two or more dimensions
        Of a dtype that `fastbn.ChannelStats.update` supports. Chunks may be empty, and their sizes may be unknown along
        all axes but the channel axis. Masked values of masked arrays (`dask.array.ma`) do not count.
    axis : int
        The channel axis.
    nan_policy : {"propagate", "raise", "omit"}
        A NaN makes the statistics of its channel NaN, is an error in ``compute()``, or is ignored.

    Returns
    -------
    dask.delayed.Delayed
        Compute it with ``compute()`` or with a client of dask.distributed. The result is a `fastbn.ChannelStats`.

    Raises
    ------
    ImportError
        If Dask is not installed: ``pip install ".[dask]"``.
    TypeError
        If `x` is not a Dask array, its chunks are not NumPy arrays, or its dtype is not supported.
    ValueError
        If `axis` is out of range, the number of channels is 0 or unknown, or `nan_policy` is invalid. ``compute()``
        raises it if a chunk has another number of channels than Dask expects, and for a NaN with
        ``nan_policy="raise"``.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastbn.dask import channel_stats
    >>> x = da.arange(24, chunks=5, dtype=float).reshape(4, 3, 2)
    >>> stats = channel_stats(x).compute()
    >>> stats.mean, stats.var()
    (array([ 9.5, 11.5, 13.5]), array([45.25, 45.25, 45.25]))
    >>> channel_stats(da.where(x > 20, np.nan, x), nan_policy="omit").compute().count
    array([8., 7., 6.])
    >>> channel_stats(da.ma.masked_greater(x, 20)).compute().count
    array([8., 7., 6.])
    """
    da, delayed = _dask()
    if not isinstance(x, da.Array):
        raise TypeError(f"x must be a dask.array.Array, got {type(x).__name__}")
    _check_chunks(x)
    if x.ndim < 2:
        raise ValueError(f"x has shape {x.shape}; expected two or more dimensions")
    axis = views.axis_of(axis, x.ndim)
    check_choice(nan_policy, "nan_policy", NAN_POLICIES)
    sizes = x.chunks[axis]
    if any(size != size for size in sizes):     # unknown sizes are NaN
        raise ValueError(
            f"x has chunks of unknown size along its channel axis, {axis}; call x.compute_chunk_sizes() first")
    if sum(sizes) == 0:
        raise ValueError(f"x has shape {x.shape}; expected one or more channels along axis {axis}")
    blocks = np.moveaxis(x.to_delayed(), axis, 0)
    part, merge, join = delayed(_part, pure=True), delayed(_merge, pure=True), delayed(_join, pure=True)
    by_channels = []
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    for first, size, row in zip(starts, sizes, blocks, strict=True):
        if size:
            level = [part(block, axis, first, size, nan_policy) for block in row.ravel()]
            while len(level) > 1:
                level = [merge(level[k : k + FAN_IN]) for k in range(0, len(level), FAN_IN)]
            by_channels += level
    return join(by_channels)


def _dask() -> tuple[Any, Any]:
    try:
        import dask.array as da
        from dask.delayed import delayed
    except ModuleNotFoundError as error:
        raise ImportError(f"channel_stats needs Dask: {hint('dask')} ({error})") from None
    return da, delayed


def _check_chunks(x: Any) -> None:
    # Dask knows the type of the chunks before it computes one.
    if not isinstance(x._meta, np.ndarray):
        raise TypeError(f"x has chunks of type {type(x._meta).__name__}; expected numpy.ndarray")
    ChannelStats(1, axis=-1).update(np.empty((0, 1), x.dtype))     # an error names the supported dtypes


def _part(block: NDArray[Any], axis: int, first: int, channels: int, nan_policy: NanPolicy) -> ChannelStats:
    # One thread, because those of Dask reduce other chunks at the same time. update() checks the number of channels.
    mask = None
    if isinstance(block, np.ma.MaskedArray):
        mask, block = ~np.ma.getmaskarray(block), block.data
    try:
        return ChannelStats(channels, axis=axis).update(block, mask=mask, nan_policy=nan_policy, num_threads=1)
    except ValueError as error:
        raise ValueError(f"{error} (in a chunk that starts at channel {first})") from None


def _merge(parts: Sequence[ChannelStats]) -> ChannelStats:
    # A new object, because Dask may use a part again.
    out = ChannelStats(len(parts[0].mean), axis=parts[0].axis)
    for part in parts:
        out.merge(part)
    return out


def _join(parts: Sequence[ChannelStats]) -> ChannelStats:
    arrays = [part.to_arrays() for part in parts]
    return ChannelStats.from_arrays(
        **{name: np.concatenate([part[name] for part in arrays]) for name in arrays[0]}, axis=parts[0].axis)
