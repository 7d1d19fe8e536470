"""The forward and the backward pass of a batch of which some values count, or of which the array at hand is a part.

A selection tells which values the kernels get, and a source tells where the sums of the whole batch come from:

    forward:   take -> reduce, by the source -> statistics of the batch -> apply -> put
    backward:  take -> reduce_gradient, by the source -> sums of the batch -> apply_gradient -> put

If the array is the whole batch, fused kernels do reduce and apply in one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_activation, check_trainable
from fastbn.functional import batchnorm, parts
from fastbn.layers.batch import Batch, Statistics
from fastbn.layers.masked import Selection, read
from fastbn.layers.tape import Tape
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation, Axis
    from fastbn._core.saved import Saved
    from fastbn.layers.source import Source


@dataclass(slots=True, eq=False)
class Parameters:
    """What a layer applies to normalized values, and how."""

    gamma: ArrayLike | None
    beta: ArrayLike | None
    eps: float
    num_threads: int | None


@dataclass(slots=True, eq=False)
class Operands:
    """The arrays of a forward pass, checked.

    Attributes
    ----------
    view : View
        Of x.
    residual : View or None
    target : View
        Of `out`, or of a new array.
    out : ndarray or None
    activation : str, tuple or None
    """

    view: views.View
    residual: views.View | None
    target: views.View
    out: NDArray[Any] | None
    activation: Activation

    @classmethod
    def of(
        cls, view: views.View, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> Operands:
        """Check the arrays of a call."""
        like = None if residual is None else views.like(view, residual, "residual")
        return cls(view, like, views.output(view, out, like), out, activation)

    @property
    def added(self) -> NDArray[Any] | None:
        """The residual as an array."""
        return None if self.residual is None else self.residual.array


def forward(
    operands: Operands, selection: Selection | None, source: Source, parameters: Parameters,
    settle: Callable[[Batch], Statistics] = Batch.statistics, *, trains: bool = True,
) -> tuple[Any, Batch, Tape]:
    """Normalize the values that count by the statistics of their batch.

    Parameters
    ----------
    operands : Operands
    selection : Selection or None
        None if all values count.
    source : Source
    parameters : Parameters
    settle : callable
        Gets the statistics of the batch before anything is written, and returns what normalizes it or raises an error.
        Not called for a batch that fused kernels read and write at once.
    trains : bool
        Whether an activation without a backward pass is an error.

    Returns
    -------
    y : ndarray
        `operands.out` if it was given.
    batch : Batch
    tape : Tape
        Without x.

    Raises
    ------
    TypeError, ValueError
        As `fastbn.functional.batch_norm_training`.
    """
    after = operands.residual is not None
    coded = check_trainable(operands.activation, after) if trains else check_activation(operands.activation)
    if source.whole and selection is not None and not selection.by_channel:
        index = np.flatnonzero(selection.chosen)
        if len(index) != 1:
            return _fused(operands, selection, parameters, index)
    view, added = operands.view, operands.added
    batchnorm.check_vectors(view.shape[1], gamma=parameters.gamma, beta=parameters.beta)
    x, rows = view.array, None
    if selection is not None:
        x, added = selection.take(x), None if added is None else selection.take(added)
        rows = None if selection.by_channel else x
    batch = source.reduce(lambda: _read(view, selection, rows, parameters.num_threads))
    mean, var, low, counts = settle(batch)
    size = batch.size
    if selection is not None and selection.by_channel:
        counts = np.full(len(mean), float(size)) if counts is None else counts
        size = max(size, selection.positions)
    place = operands.target.array if selection is None else selection.place(operands.target, operands.out)
    values, saved = parts.normalize(
        x, mean, var, parameters.gamma, parameters.beta, axis=view.axis if rows is None else 1, eps=parameters.eps,
        activation=coded, residual=added, num_threads=parameters.num_threads, mean_low=low, count=size, out=place)
    y = operands.target.finish() if selection is None else selection.put(
        operands.target, values, view.array, operands.out)
    if saved is None:
        return y, batch, Tape(None, True, coded)
    return y, batch, Tape.of_batch(saved, selection, rows, counts)


def _read(
    view: views.View, selection: Selection | None, rows: NDArray[Any] | None, num_threads: int | None
) -> ChannelStats:
    if rows is not None:
        return ChannelStats(view.shape[1]).update(rows, num_threads=num_threads)
    return read(view, selection, num_threads)


def _fused(
    operands: Operands, selection: Selection, parameters: Parameters, index: NDArray[np.intp]
) -> tuple[Any, Batch, Tape]:
    # Positions of a whole batch. Where channels lie last and fill vectors, the kernels walk the rows that count in
    # their place; elsewhere they get gathered rows, to the same bits.
    view, target, out = operands.view, operands.target, operands.out
    settings: dict[str, Any] = {
        "eps": parameters.eps, "activation": operands.activation, "num_threads": parameters.num_threads}
    if len(index) and (out is None or target.array is out) and views.choose(view, index):
        _, saved = batchnorm.train(
            view, parameters.gamma, parameters.beta, residual=operands.added, index=index,
            out=selection.start(target, view.array, out), fill=selection.padding == "zero", **settings)
        return target.finish(), Batch.from_saved(saved), Tape.of_batch(saved, selection)
    rows = selection.take(view.array)
    added = None if operands.added is None else selection.take(operands.added)
    values, saved = batchnorm.batch_norm_training(rows, parameters.gamma, parameters.beta, residual=added, **settings)
    y = selection.put(target, values, view.array, out)
    return y, Batch.from_saved(saved), Tape.of_batch(saved, selection, rows)


def evaluate(
    operands: Operands, selection: Selection | None, parameters: Parameters, mean: ArrayLike, var: ArrayLike
) -> Any:
    """Transform the values that count by given statistics; returns y. `complete` prepares a backward pass."""
    view, added = operands.view, operands.added
    if selection is None:
        batchnorm.batch_norm_inference(
            view.array, mean, var, parameters.gamma, parameters.beta, axis=view.axis, eps=parameters.eps,
            residual=added, activation=operands.activation, out=operands.target.array,
            num_threads=parameters.num_threads)
        return operands.target.finish()
    x = selection.take(view.array)
    place = selection.place(operands.target, operands.out) if selection.by_channel else x
    values = batchnorm.batch_norm_inference(
        x, mean, var, parameters.gamma, parameters.beta, axis=selection.kernel_axis, eps=parameters.eps,
        residual=None if added is None else selection.take(added), activation=operands.activation, out=place,
        num_threads=parameters.num_threads)
    return selection.put(operands.target, values, view.array, operands.out)


def complete(tape: Tape, axis: Axis, parameters: Parameters, mean: ArrayLike, var: ArrayLike) -> Saved:
    """Add what a backward pass needs to the tape of a forward pass by given statistics, and return it.

    Parameters
    ----------
    tape : Tape
        With x, and a residual if a ReLU was added to one, as arrays; saved and rows are set.
    axis : int
        The channel axis of x.
    parameters : Parameters
    mean, var : array_like, shape (C,)
    """
    x, residual, selection = tape.x, tape.residual, tape.selection
    if selection is not None:
        view = views.view(x, axis)
        axis, x = selection.kernel_axis, selection.take(view.array)
        tape.rows = None if selection.by_channel else x
        if residual is not None and residual is not True:
            residual = selection.take(views.like(view, residual, "residual").array)
    tape.saved = saved = parts.inference_saved(
        x, mean, var, parameters.gamma, parameters.beta, axis=axis, eps=parameters.eps,
        activation=tape.activation, residual=residual, num_threads=parameters.num_threads)
    return saved


class Gradient:
    """The backward pass of one forward pass: `reduce` returns the sums of its array, and `apply` the gradients.

    Parameters
    ----------
    dy : array_like
        Of the shape and dtype of x.
    tape : Tape
        With x and saved.
    axis : int
        The channel axis.
    parameters : Parameters
    out : ndarray, optional
        Where dx goes.

    Raises
    ------
    TypeError, ValueError
        If an array does not fit.
    """

    def __init__(
        self, dy: ArrayLike, tape: Tape, axis: Axis, parameters: Parameters, out: NDArray[Any] | None = None
    ) -> None:
        assert tape.saved is not None
        self._saved, self._selection, self._counts, self._shift = tape.saved, tape.selection, tape.counts, tape.shift
        self._parameters, self._out = parameters, out
        self._view = views.view(tape.x, axis)
        self._dy = views.like(self._view, dy, "dy")
        self._target = views.output(self._view, out, self._dy)
        batchnorm.check_vectors(self._view.shape[1], gamma=parameters.gamma)
        selection = self._selection
        self._operands: tuple[Any, Any] = dy, tape.x
        self._axis: Axis = axis
        if selection is not None and not self._walks:
            self._axis = selection.kernel_axis
            self._operands = (
                selection.clear(self._dy.array),
                tape.rows if tape.rows is not None else selection.clear(self._view.array))

    @property
    def scaled(self) -> bool:
        """Whether channels differ in size or weight, so that fused kernels cannot compute dx."""
        return self._counts is not None

    @property
    def _walks(self) -> bool:
        # Whether the kernels walk the rows that count where they are.
        return self._saved._index is not None

    def reduce(self) -> NDArray[np.float64]:
        """Return sum dy and sum dy (x - mean), (2, C), of the values that count."""
        return parts.gradient_sums(
            *self._operands, self._saved, axis=self._axis, num_threads=self._parameters.num_threads)

    def apply(self, sums: NDArray[np.float64] | None) -> tuple[Any, ...]:
        """Return dx, dgamma, dbeta and, if the forward pass had a residual, dresidual.

        Parameters
        ----------
        sums : ndarray, shape (2, C), or None
            Those of the whole batch; None if fused kernels compute them, or the statistics were constants.
        """
        selection, view, out = self._selection, self._view, self._out
        if selection is None:
            return self._gradients(sums, out)
        if self._walks:
            return self._walked(selection)
        values, dgamma, dbeta, *others = self._gradients(sums, selection.place(self._target, out))
        dx = selection.put(self._target, values, self._dy.array, out)
        return (dx, dgamma, dbeta, *(selection.spread(array, view) for array in others))

    def _gradients(self, sums: NDArray[np.float64] | None, out: NDArray[Any] | None) -> tuple[Any, ...]:
        saved, given = self._saved, sums
        if sums is not None and self._counts is not None:
            # With n values that count in a channel, dx = gamma rstd (dy - dbeta / n - x_hat dgamma / n). The kernels
            # divide by one count for all channels, so they get sums that are scaled to it.
            given = sums * np.divide(
                saved._count, self._counts, out=np.zeros(len(self._counts)), where=self._counts > 0)
            if self._shift is not None:     # the variance is one about the mean of the batch, x_hat is not
                given[0] += self._shift * given[1]
        dx, dgamma, dbeta, *others = batchnorm.gradients(
            *self._operands, saved, self._parameters.gamma, axis=self._axis, out=out,
            num_threads=self._parameters.num_threads, sums=given)
        if sums is not None and given is not sums:
            dbeta, about_mean = sums
            with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel, without a warning
                dgamma = about_mean * saved.rstd
        return (dx, dgamma, dbeta, *others)

    def _walked(self, selection: Selection) -> tuple[Any, ...]:
        out = self._out
        target = self._target
        dy, x = self._operands
        dx, dgamma, dbeta, *others = batchnorm.gradients(
            dy, x, self._saved, self._parameters.gamma, axis=self._axis,
            out=selection.start(target, self._dy.array, out), num_threads=self._parameters.num_threads,
            fill=selection.padding == "zero")
        if out is None or target.array is out:
            return (target.finish(), dgamma, dbeta, *others)
        return (selection.put(target, selection.take(dx), self._dy.array, out), dgamma, dbeta, *others)


def backward(gradient: Gradient, source: Source, frozen: bool) -> tuple[Any, ...]:
    """Return dx, dgamma, dbeta and, if the forward pass had a residual, dresidual.

    Parameters
    ----------
    gradient : Gradient
    source : Source
        Where the sums of the whole batch come from.
    frozen : bool
        Whether the statistics were constants, so that dx needs no sums.
    """
    if frozen or (source.whole and not gradient.scaled):
        return gradient.apply(None)
    return gradient.apply(source.reduce_gradient(gradient.reduce))
