"""A training batch in micro-batches, with the result of the whole batch in one array."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import repeat, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_iterable, counted, listed
from fastbn._core.overlap import overlap
from fastbn._core.saved import normalizing
from fastbn._core.tensors import is_tensor
from fastbn.functional import batchnorm
from fastbn.layers import passes
from fastbn.layers.batch import Batch
from fastbn.layers.by_batch import refuse_groups
from fastbn.layers.masked import is_jagged, read, refuse_marks, select
from fastbn.layers.source import BACKWARD, FORWARD, MicroBatches
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn._core.saved import Saved
    from fastbn.layers.masked import Padding
    from fastbn.layers.options import NormWithOptions
    from fastbn.layers.tape import Tape

_MISSING = object()


@dataclass(slots=True, eq=False)
class Given:
    """What `backward` knows of the micro-batches, to check that there was a forward pass for each.

    Attributes
    ----------
    sizes : list of int
        Numbers of values.
    arrays : Counter
        How often each array was given.
    """

    sizes: list[int] = field(default_factory=list)
    arrays: Counter[object] = field(default_factory=Counter)

    def add(self, x: Any, size: int) -> None:
        """Add a micro-batch."""
        self.sizes.append(size)
        self.arrays[_memory(x)] += 1

    def check(self, passed: Given) -> None:
        """Raise an error if the forward passes cannot have been those of the micro-batches."""
        have, expected = sorted(passed.sizes), sorted(self.sizes)
        if have != expected:
            raise ValueError(f"the forward passes had arrays of {listed(have)} values; expected {listed(expected)}, "
                             "each micro-batch once; call accumulate again")
        for array, times in passed.arrays.items():
            if array is not None and times > max(1, self.arrays[array]):
                raise ValueError(f"{times} forward passes had the same x; expected each micro-batch once; call "
                                 "accumulate again")


class WholeBatch:
    """A training batch in micro-batches; `BatchNorm.accumulate` returns one.

    Call it with each micro-batch to normalize them, then pass the gradients of all to `backward`. With mean, rstd and n
    of all micro-batches together, x_hat = (x - mean) * rstd, and sums over all of them::

        dbeta = sum dy,  dgamma = sum dy x_hat,  dx = gamma rstd (dy - dbeta / n - x_hat dgamma / n)

    Mean and variance depend on every micro-batch, so no dx is known before the last dy. After Ioffe and Szegedy (2015),
    "Batch Normalization", https://arxiv.org/abs/1502.03167.

    `backward` checks that there was one forward pass for each micro-batch, by the numbers of values, and by the memory
    of arrays: the same array may be passed only as often as it was given. It does not compare the values.

    Parameters
    ----------
    layer : BatchNorm
        In training mode. Its running averages move once; gamma must not change until `backward`.
    micro_batches, masks, lengths
        As in `BatchNorm.accumulate`.

    Attributes
    ----------
    stats : ChannelStats
        Statistics of all micro-batches; of a `SyncBatchNorm`, of those of all ranks.
    """

    def __init__(
        self,
        layer: NormWithOptions,
        micro_batches: Iterable[Any],
        *,
        masks: Iterable[ArrayLike | None] | None = None,
        lengths: Iterable[ArrayLike | None] | None = None,
    ) -> None:
        if not hasattr(layer, "accumulate"):      # such as a BatchRenorm, which normalizes by more than the batch
            raise TypeError(f"layer must be a BatchNorm, got {type(layer).__name__}")
        source = layer._source
        with source.guard(FORWARD):
            if not layer.training:
                raise RuntimeError("accumulate needs a layer in training mode; in evaluation mode, call the layer with "
                                   "each micro-batch")
            if layer.use_running_stats:
                raise RuntimeError("accumulate needs a layer that normalizes by its batch; with "
                                   "use_running_stats=True, call the layer with each micro-batch")
            refuse_groups(layer, "accumulate")
            if layer.keep != "input":
                raise ValueError(f"keep must be 'input' with accumulate, got {layer.keep!r}")
            check_iterable(micro_batches, "micro_batches")
            layer._running.check(training=layer.update_running_stats)
            batchnorm.check_vectors(layer.num_features, gamma=layer.gamma, beta=layer.beta)
            given = Given()
            own = _statistics(layer, given, micro_batches, masks, lengths)
            batch = Batch.from_stats(own) if source.whole else source.reduce(lambda: own)
            singles = layer._singles()
            if not batch.size:
                raise ValueError("micro_batches have 0 values per channel in total; expected two or more")
            if batch.single() and singles.refused:
                (MicroBatches(batch) if source.whole else source).refuse_single(batch)
            received = singles.followed(batch)
            followed = not layer.update_running_stats or layer._follower.follow(received)
        layer._forget()
        self._layer = layer
        self._batch, self._statistics = batch, singles.statistics(batch)
        self._expected = own.count
        self._given = given
        self._tapes: list[Tape] = []
        self._lost = False
        self.stats: ChannelStats = layer._no_values() + batch.to_stats()
        if not followed:
            layer._warn_once(received)

    def __repr__(self) -> str:
        return f"WholeBatch({len(self._expected)}, count={self._batch.size})"

    def __call__(
        self,
        x: Any,
        residual: ArrayLike | None = None,
        activation: Activation = None,
        out: NDArray[Any] | None = None,
        *,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        padding: Padding = "zero",
    ) -> Any:
        """Normalize one micro-batch by the statistics of all.

        Parameters
        ----------
        x : array_like or tuple
            One of the micro-batches, which may be jagged; it must not change until `backward`.
        residual, activation, out, padding
            As in a forward pass of `BatchNorm` in training mode.
        mask, lengths : array_like, optional
            Those of this micro-batch, as passed to `BatchNorm.accumulate`.

        Returns
        -------
        ndarray
            `out` if it was given, else a new array of x's shape and dtype; for jagged x a tuple of it and the offsets.

        Raises
        ------
        TypeError, ValueError
            As a forward pass of `BatchNorm`.
        """
        if isinstance(x, tuple) and is_jagged(x):
            refuse_marks(mask, lengths)
            return self(x[0], residual, activation, out, padding=padding), x[1]
        layer = self._layer
        view = views.view(x, layer.axis, layer._channels)
        selection = select(view, mask, lengths, padding)
        operands = passes.Operands.of(view, residual, activation, out)
        y, _, tape = passes.forward(
            operands, selection, MicroBatches(self._batch), layer._parameters(), lambda batch: self._statistics)
        # Gathered rows survive a result over x.
        self._lost |= out is not None and tape.rows is None and views.same_memory(out, x)
        tape.x = x
        self._tapes.append(tape)
        return y

    def backward(self, dys: Iterable[ArrayLike], out: Iterable[NDArray[Any]] | None = None) -> list[Any]:
        """Compute the gradients of all micro-batches.

        Parameters
        ----------
        dys : iterable of array_like
            One for each forward pass, in their order.
        out : iterable of ndarray, optional
            Where each dx goes; pass the list of gradients itself to work in place.

        Returns
        -------
        list of ndarray
            dx of each micro-batch, or the tuple ``(dx, dresidual)`` if its forward pass had a residual. `grad_gamma`
            and `grad_beta` of the layer are set.

        Raises
        ------
        RuntimeError
            If a forward pass overwrote its input.
        TypeError, ValueError
            If the forward passes were not those of all micro-batches, as far as that is known, or a gradient does not
            fit. The layer is unchanged then, but earlier elements of `out` may have been written.
        """
        layer = self._layer
        with layer._source.guard(BACKWARD):
            if self._lost:
                raise RuntimeError(
                    "a forward pass wrote its result over its input, which backward needs; pass another out")
            gradients, targets = self._arrays(dys, "dys"), None if out is None else self._arrays(out, "out")
            self._check_forwards(dys=gradients, out=targets)
            self._refuse_overlap(gradients, targets or [])
            arguments = list(zip(gradients, self._tapes, targets or repeat(None), strict=False))
            sums = layer._source.reduce_gradient(lambda: self._sums(arguments))
        source = MicroBatches(self._batch, sums)
        results = []
        for argument in arguments:
            dx, _, _, *dresidual = passes.backward(self._gradient(*argument), source, frozen=False)
            results.append((dx, *dresidual) if dresidual else dx)
        dbeta, about_mean = sums
        with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel, without a warning
            layer._set_gradients(about_mean * self._rstd(), dbeta)
        return results

    def _gradient(self, dy: ArrayLike, tape: Tape, out: NDArray[Any] | None) -> passes.Gradient:
        return passes.Gradient(dy, tape, self._layer.axis, self._layer._parameters(), out)

    def _sums(self, arguments: list[Any]) -> NDArray[np.float64]:
        # Of the micro-batches at hand. What is prepared may hold copies of x and dy, and is not kept.
        total = np.zeros((2, self._layer.num_features))
        for argument in arguments:
            total += self._gradient(*argument).reduce()
        return total

    def _rstd(self) -> NDArray[np.float64]:
        # A rank may have no micro-batch, and no forward pass that left it.
        if self._tapes:
            saved: Saved = self._tapes[0].saved
            return saved.rstd
        return normalizing(self._statistics.mean, self._statistics.var, self._layer.eps)[2]

    def _arrays(self, given: Iterable[Any], name: str) -> list[Any]:
        check_iterable(given, name)
        return list(given)

    def _check_forwards(self, **given: list[Any] | None) -> None:
        seen, passed = np.zeros(self._layer.num_features), Given()
        for tape in self._tapes:
            count = np.broadcast_to(_count(tape, self._layer.num_features), seen.shape)
            passed.add(tape.x, int(count.sum()))
            seen += count
        wrong = np.flatnonzero(seen != self._expected)
        if wrong.size:
            first = int(wrong[0])
            where = "per channel" if wrong.size == len(seen) else f"in channel {first}"
            raise ValueError(f"the forward passes had {counted(int(seen[first]), 'value')} {where} in total; expected "
                             f"the {self._expected[first]:.0f} of all micro-batches, each once; call accumulate again")
        self._given.check(passed)
        for name, arrays in given.items():
            if arrays is not None and len(arrays) != len(self._tapes):
                raise ValueError(f"{name} has {counted(len(arrays), 'array')}; expected {len(self._tapes)}, one for "
                                 "each forward pass")

    def _refuse_overlap(self, gradients: list[ArrayLike], targets: list[NDArray[Any]]) -> None:
        # Each x and its gradient are read again after earlier results have been written, and by another backward pass.
        for i, target in enumerate(map(views.as_target, targets)):
            others = [("x", j, tape.x) for j, tape in enumerate(self._tapes)]
            others += [("dys", j, dy) for j, dy in enumerate(gradients) if j != i]
            others += [("out", j, array) for j, array in enumerate(targets) if j != i]
            for name, j, other in others:
                if overlap(target, views.as_plain(other, name)):
                    raise ValueError(f"out[{i}] overlaps the {name} of micro-batch {j}; expected dys[{i}] itself, or "
                                     "an array apart from all others")


def _statistics(
    layer: NormWithOptions, given: Given, micro_batches: Iterable[Any], masks: Iterable[ArrayLike | None] | None,
    lengths: Iterable[ArrayLike | None] | None,
) -> ChannelStats:
    # Of all micro-batches, each of which is read once and added to `given`.
    stats = layer._no_values()
    columns: dict[str, Iterable[Any]] = {"micro_batches": micro_batches}
    for name, column in (("masks", masks), ("lengths", lengths)):
        if column is not None:
            check_iterable(column, name)
            columns[name] = column
    for i, row in enumerate(zip_longest(*columns.values(), fillvalue=_MISSING)):
        if any(value is _MISSING for value in row):
            raise ValueError(f"{' and '.join(columns)} have different lengths; expected one of each for a micro-batch")
        x, *_ = row
        options = dict(zip(columns, row, strict=True))
        mask, steps = options.get("masks"), options.get("lengths")
        if isinstance(x, tuple) and is_jagged(x):
            refuse_marks(mask, steps)
            x, _ = x
        # A view refuses what statistics take and layers do not, such as uint8.
        view = views.view(x, layer.axis, layer._channels, f"micro_batches[{i}]")
        selection = select(view, mask, steps, "zero")
        part = read(view, selection, layer.num_threads)
        given.add(x, int(part.count.sum()))
        stats.merge(part)
    return stats


def _memory(x: Any) -> object:
    # Equal for two views of the same elements; None for an array without elements.
    if not (isinstance(x, np.ndarray) or is_tensor(x)):
        return id(x)
    array = views.as_plain(x, "x")
    return (array.__array_interface__["data"][0], array.shape, array.strides) if array.size else None


def _count(tape: Tape, num_features: int) -> NDArray[np.float64] | int:
    # Values of a micro-batch in each channel.
    if tape.selection is not None:
        return tape.selection.count()
    return views.as_plain(tape.x, "x").size // num_features
