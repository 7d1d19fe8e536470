"""One training batch that comes in parts, to the same result as in one array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn import functional
from fastbn._core.checks import check_activation, check_iterable, counted
from fastbn._core.dispatch import kernels
from fastbn._core.saved import in_range
from fastbn._core.views import as_plain, as_target, same_memory, view
from fastbn.layers.running import Batch
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn._core.saved import Saved
    from fastbn.layers.batchnorm import BatchNorm


class WholeBatch:
    """A training batch in micro-batches, of which `BatchNorm.accumulate` has made the statistics.

    Normalize each micro-batch by calling this with it, then hand the gradients of all to `backward`. With mean, rstd
    and n of all micro-batches together, x_hat = (x - mean) * rstd and sums that run over all of them::

        dbeta = sum dy,  dgamma = sum dy x_hat,  dx = gamma rstd (dy - dbeta / n - x_hat dgamma / n)

    The mean and the variance depend on every micro-batch, so that no dx can be known before the last dy is. After Ioffe
    and Szegedy (2015), "Batch Normalization", https://arxiv.org/abs/1502.03167.

    Parameters
    ----------
    layer : BatchNorm
        In training mode. Its running averages move once; gamma and beta must not change until `backward`.
    micro_batches : iterable of array_like
        As in `BatchNorm.accumulate`.

    Attributes
    ----------
    stats : ChannelStats
        Of all micro-batches.
    """

    def __init__(self, layer: BatchNorm, micro_batches: Iterable[ArrayLike]) -> None:
        if not layer.training:
            raise RuntimeError("accumulate needs a layer in training mode; evaluation takes micro-batches as they are")
        check_iterable(micro_batches, "micro_batches")
        layer._check_running()
        functional.check_vectors(layer.num_features, gamma=layer.gamma, beta=layer.beta)
        self.stats = ChannelStats(layer.num_features, axis=layer.axis)
        for x in micro_batches:
            view(x, layer.axis, layer.num_features)     # refuses what statistics take and layers do not, such as uint8
            self.stats.update(x, num_threads=layer.num_threads)
        batch = Batch.from_stats(self.stats)
        if batch.size < 2:
            raise ValueError(f"micro_batches have {counted(batch.size, 'value')} per channel in all; expected two or "
                             "more")
        self._layer = layer
        self._count = batch.size
        self._mean, self._var, self._low = batch.mean, in_range(batch.var), batch.mean_low
        self._constants = kernels.Constants(
            layer.num_features, self._mean, self._var, layer.gamma, layer.beta, layer.eps, low=self._low)
        # What each forward leaves for backward: x, residual, whether there was a ReLU.
        self._parts: list[tuple[Any, Any, bool]] = []
        self._lost = False
        layer._averages.follow(layer, batch)
        layer._tape.last = None

    def __repr__(self) -> str:
        return f"WholeBatch({len(self._mean)}, count={self._count})"

    def __call__(
        self,
        x: ArrayLike,
        residual: ArrayLike | None = None,
        activation: Activation = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Normalize one micro-batch by the statistics of all.

        Parameters
        ----------
        x : array_like
            One of the micro-batches; it must not change until `backward`.
        residual, activation, out
            As in a forward of `BatchNorm` in training mode.

        Returns
        -------
        ndarray
            `out` if it was given, else a new array of x's shape and dtype.

        Raises
        ------
        TypeError, ValueError
            As a forward of `BatchNorm`.
        """
        layer = self._layer
        relu = activation is not None and check_activation(activation, inference=False)[0] > 0
        y = kernels.apply(x, layer.axis, self._constants, residual, out, (int(relu), 0.0), layer.num_threads)
        # Over x nothing is left to go back from; over the residual, the bits of a ReLU cannot be worked out again.
        self._lost |= out is not None and (
            same_memory(out, x) or (relu and residual is not None and same_memory(out, residual)))
        self._parts.append((x, residual, relu))
        return y

    def backward(self, dys: Iterable[ArrayLike], out: Sequence[NDArray[Any]] | None = None) -> list[Any]:
        """Gradients of all micro-batches.

        Parameters
        ----------
        dys : iterable of array_like
            One for each forward, in their order.
        out : sequence of ndarray, optional
            Where each dx goes; the list of gradients itself for in place.

        Returns
        -------
        list of ndarray
            dx of each micro-batch; where the forward had a residual, the tuple ``(dx, dresidual)``. `grad_gamma` and
            `grad_beta` of the layer are set.

        Raises
        ------
        RuntimeError
            If a forward wrote over what is needed here.
        TypeError, ValueError
            If the forwards were not those of all micro-batches, or a gradient does not fit; the layer has not changed
            then, but earlier elements of `out` may have.
        """
        if self._lost:
            raise RuntimeError("a forward wrote its result over its input, which backward needs; pass another out")
        check_iterable(dys, "dys")
        if out is not None:
            check_iterable(out, "out")
        gradients, out = list(dys), None if out is None else list(out)
        seen = sum(as_plain(x, "x").size for x, _, _ in self._parts) // len(self._mean)
        if seen != self._count:
            raise ValueError(f"the forwards had {counted(seen, 'value')} per channel in all; expected the "
                             f"{self._count} of all micro-batches, each once; call accumulate again")
        for name, given in (("dys", gradients), ("out", out)):
            if given is not None and len(given) != len(self._parts):
                raise ValueError(f"{name} has {counted(len(given), 'array')}; expected {len(self._parts)}, one for "
                                 "each forward")
        self._refuse_overlap(gradients, out)
        layer = self._layer
        each = list(zip(gradients, (x for x, _, _ in self._parts), self._saved(), strict=True))
        sums = np.zeros((2, len(self._mean)))
        for dy, x, saved in each:
            sums += functional.gradient_sums(dy, x, saved, axis=layer.axis, num_threads=layer.num_threads)
        results = []
        for i, (dy, x, saved) in enumerate(each):
            dx, dgamma, dbeta, *dresidual = functional.gradients(
                dy, x, saved, layer.gamma, axis=layer.axis, out=None if out is None else out[i],
                num_threads=layer.num_threads, sums=sums)
            results.append((dx, *dresidual) if dresidual else dx)
        layer._set_gradients(dgamma, dbeta)
        return results

    def _saved(self) -> list[Saved]:
        # What each forward would have left, had it known that it is a part of a training batch.
        layer = self._layer
        return [functional.inference_saved(
            x, self._mean, self._var, layer.gamma, layer.beta, axis=layer.axis, eps=layer.eps, relu=relu,
            residual=residual, num_threads=layer.num_threads, mean_low=self._low, count=self._count)
            for x, residual, relu in self._parts]

    def _refuse_overlap(self, gradients: list[ArrayLike], out: Sequence[NDArray[Any]] | None) -> None:
        # Each x and its gradient are read again when those before them have been written to, and by another backward.
        for i, target in enumerate(map(as_target, out or ())):
            others = [("x", j, x) for j, (x, _, _) in enumerate(self._parts)]
            others += [("dys", j, dy) for j, dy in enumerate(gradients) if j != i]
            others += [("out", j, array) for j, array in enumerate(out or ()) if j != i]
            for name, j, other in others:
                if np.may_share_memory(target, as_plain(other, name)):
                    raise ValueError(f"out[{i}] overlaps the {name} of micro-batch {j}; expected dys[{i}] itself, or "
                                     "an array apart from all others")
