"""A forward pass of a layer by the statistics of its batch, which the running averages follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.views import same_memory
from fastbn.functional.batchnorm import train
from fastbn.functional.ghost import grouped
from fastbn.layers import inplace, passes
from fastbn.layers.base import set_tape, warn
from fastbn.layers.batch import Batch
from fastbn.layers.masked import read, select
from fastbn.layers.source import merge, total
from fastbn.layers.tape import Tape, weakly

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn._core.saved import Saved
    from fastbn.layers.batch import Statistics
    from fastbn.layers.masked import Marks, Selection
    from fastbn.layers.options import NormWithOptions


def forward(
    layer: NormWithOptions, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None,
    marks: Marks | None,
) -> Any:
    """Return y, after the running averages have moved in training mode."""
    view = views.view(x, layer.axis, layer._channels)
    training, source = layer.training, layer._source
    follows = training and layer.update_running_stats
    layer._running.check(follows)
    inplace.check_call(layer, residual, activation, marks)
    selection = samples = None
    if marks is not None:
        selection = select(view, *marks)
        refuse_groups(layer, "mask and lengths")
    elif training and layer.virtual_batch_size is not None:
        view, samples = grouped(x, view, layer.axis, layer.virtual_batch_size)
    fused = selection is None and source.whole and (layer.on_single == "raise" or not _is_single(view))
    preview = _preview(layer, view, selection, out is not None) if follows else None
    try:
        if fused:
            y, saved = train(
                view, layer.gamma, layer.beta, eps=layer.eps, residual=residual, activation=activation, out=out,
                num_threads=layer.num_threads, samples=samples)
            # Batch.from_saved() and Tape.of_batch() take longer.
            kept = saved._kept
            tape = Tape(None, None, kept.activation, saved)
            if samples is None:
                batch = Batch(saved._count, kept.mean, saved._var, kept.low)
            else:
                batch = _of_groups(saved, view, samples)
        else:
            operands = passes.Operands.of(view, residual, activation, out)
            y, batch, tape = passes.forward(
                operands, selection, source, layer._parameters(), _Settling(layer, follows))
    except BaseException as error:
        layer._forget_unless_refused(error)
        raise
    received = batch if preview is None else preview
    none = selection is not None and not batch.size
    if not fused:
        received = layer._singles().followed(received)
    followed = not follows or layer._follower.follow(received)
    if not training:
        tape.rows = None
    if layer.keep == "output":
        tape = inplace.OutputTape.of(layer, tape, y)
    elif out is None or not same_memory(out, x) or tape.rows is not None:
        tape.x = x if training else weakly(x)
    set_tape(layer, tape)
    # Warnings come last, because they may be errors.
    if none:
        warn("the mask selects no position; the running averages are not updated", UserWarning)
    elif not followed:
        layer._warn_once(received)
    return y


class _Settling:
    # From the statistics of a batch to those that normalize it, or an error before anything is written.

    def __init__(self, layer: NormWithOptions, follows: bool) -> None:
        self._layer, self._singles, self._follows = layer, layer._singles(), follows

    def __call__(self, batch: Batch) -> Statistics:
        if self._singles.refused and batch.single():
            self._layer._source.refuse_single(batch, settable=True)
        if self._follows:
            self._layer._follower.accepts(self._singles.followed(batch))
        return self._singles.statistics(batch)


def refuse_groups(layer: NormWithOptions, what: str) -> None:
    """Raise an error for arguments that training cannot combine with a virtual batch size."""
    if layer.training and layer.virtual_batch_size is not None:
        raise ValueError(f"virtual_batch_size is {layer.virtual_batch_size}; expected None with {what} in training")


def _preview(layer: NormWithOptions, view: views.View, selection: Selection | None, overwrites: bool) -> Batch | None:
    # The statistics of a batch that fused kernels read and write at once, for a follower that wants them precise,
    # or wants to refuse them before x is gone.
    follower = layer._follower
    if not (follower.exact or (overwrites and layer._running.nan_policy == "raise")):
        return None
    if not layer._source.whole or (selection is not None and selection.by_channel):
        return None
    batch = Batch.from_stats(read(view, selection, layer.num_threads))
    if batch.size == 1:     # a mask of one position, which fused kernels do not get
        return None
    follower.accepts(batch)
    return batch if follower.exact else None


def _is_single(view: views.View) -> bool:
    return view.size == view.shape[1]


def _of_groups(saved: Saved, view: views.View, samples: int) -> Batch:
    # The means over groups of their means and variances, weighted by their values, for running averages; and the
    # statistics of all values, which include the differences between groups.
    n, c, s = view.shape
    means, low, variances = saved._kept.mean.reshape(-1, c), saved._kept.low, saved._var.reshape(-1, c)
    lows = np.zeros(means.shape) if low is None else low.reshape(-1, c)
    counts = np.full((len(means), 1), float(samples * s))
    counts[-1] = (n - (len(means) - 1) * samples) * s
    with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel, without a warning
        weights = counts / saved._count
        mean, var = total(means * weights), total(variances * weights)
        unbiased = total(variances * (weights * counts / (counts - 1)))
        whole = merge(counts, np.hstack([means, lows, variances * counts]))
        stats = Batch(saved._count, whole[1], whole[3], whole[2]).to_stats()
    return Batch(saved._count, mean, var, stats=stats, unbiased=unbiased)
