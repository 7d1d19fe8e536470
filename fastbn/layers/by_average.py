"""A forward pass of a layer by its running averages, where it selects values or follows the batch all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastbn._core import views
from fastbn._core.checks import check_activation, check_trainable
from fastbn._core.views import same_memory
from fastbn.layers import inplace, passes
from fastbn.layers.base import set_tape
from fastbn.layers.masked import read, select
from fastbn.layers.tape import Tape, weakly

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn.layers.batch import Batch
    from fastbn.layers.masked import Marks, Selection
    from fastbn.layers.options import NormWithOptions


def forward(
    layer: NormWithOptions, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None,
    marks: Marks | None,
) -> Any:
    """Return y; in training mode the running averages move afterwards, unless `update_running_stats` is False."""
    view = views.view(x, layer.axis, layer._channels)
    inplace.check_call(layer, residual, activation, marks)
    selection = None if marks is None else select(view, *marks)
    mean, var = layer._constant_statistics()
    follows = layer.training and layer.update_running_stats
    operands = passes.Operands.of(view, residual, activation, out)
    coded = check_trainable(activation, residual is not None) if follows else check_activation(activation)
    batch = _batch(layer, view, selection) if follows else None
    tape = Tape(x, residual if residual is None or coded[0] else True, coded, selection=selection)
    parameters = layer._parameters()
    try:
        if follows:
            # The averages of now belong to the backward pass, but will have moved by then.
            passes.complete(tape, layer.axis, parameters, mean, var)
        y = passes.evaluate(operands, selection, parameters, mean, var)
    except BaseException as error:
        layer._forget_unless_refused(error)
        raise
    # Over x, no backward pass is possible; over the residual, the bits of a ReLU cannot be computed again.
    if layer.keep == "output":
        tape = inplace.OutputTape.of(layer, tape, y)
    elif out is not None and tape.rows is None and (same_memory(out, x) or (
            not follows and coded[0] > 0 and residual is not None and same_memory(out, residual))):
        tape.x = None
    elif not layer.training:
        tape.x, tape.residual = weakly(x), weakly(tape.residual)
    followed = batch is None or layer._follower.follow(batch)
    set_tape(layer, tape)
    if batch is not None and not followed:
        layer._warn_once(batch)
    return y


def _batch(layer: NormWithOptions, view: views.View, selection: Selection | None) -> Batch:
    # The statistics that running averages will follow, of all ranks or of this array.
    layer._running.check(training=True)
    singles, source = layer._singles(), layer._source
    batch = source.reduce(lambda: read(view, selection, layer.num_threads))
    if batch.single() and singles.refused:
        source.refuse_single(batch, settable=True)
    batch = singles.followed(batch)
    layer._follower.accepts(batch)
    return batch
