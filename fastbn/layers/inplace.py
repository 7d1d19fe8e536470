"""Layers with ``keep="output"``, whose backward pass reads y instead of x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fastbn._core import views
from fastbn.functional.inplace import check_invertible, recover
from fastbn.layers import passes
from fastbn.layers.tape import Tape, weakly

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn.layers.masked import Marks
    from fastbn.layers.options import NormWithOptions


@dataclass(slots=True, eq=False)
class OutputTape(Tape):
    """One forward pass, with y in place of x."""

    name: ClassVar[str] = "y"

    @classmethod
    def of(cls, layer: NormWithOptions, tape: Tape, y: Any) -> OutputTape:
        """Return the tape of a forward pass with y, which evaluation does not keep alive."""
        return cls(y if layer.training else weakly(y), tape.residual, tape.activation, tape.saved, counts=tape.counts)


def check_call(
    layer: NormWithOptions, residual: ArrayLike | None, activation: Activation, marks: Marks | None
) -> None:
    """Raise an error for masks, and in training for a call whose backward pass could not do without x."""
    if layer.keep != "output":
        return
    if marks is not None:
        raise ValueError("mask and lengths must be None with keep='output', which does not support them")
    if layer.training and residual is not None:
        raise ValueError("residual must be None with keep='output' in training, because y does not determine x then; "
                         "add it to the result")
    if layer.training:
        check_invertible(activation, layer.gamma, layer.num_features)


def gradients(
    layer: NormWithOptions, tape: OutputTape, y: Any, dy: ArrayLike, out: NDArray[Any] | None
) -> tuple[Any, ...]:
    """Return dx, dgamma and dbeta of a forward pass that kept y."""
    tape = tape.with_input(y, tape.residual)
    if tape.residual is not None:
        raise ValueError("the last forward pass had a residual, and with keep='output' backward supports none")
    saved = tape.saved
    if saved is None:
        saved = passes.complete(tape, layer.axis, layer._parameters(), *layer._constant_statistics())
    view = saved._view_of(y, layer.axis, "y")
    gradient = views.like(view, dy, "dy")
    if out is not None:
        views.output(view, out, gradient)       # an error if it overlaps y or dy in part
    of = recover(y, saved, layer.gamma, layer.beta, axis=layer.axis, num_threads=layer.num_threads)
    tape.x, tape.saved = of.z, of.saved
    parameters = passes.Parameters(of.gamma, None, layer.eps, layer.num_threads)
    return passes.backward(
        passes.Gradient(dy, tape, layer.axis, parameters, out), layer._source, of.saved._kept.frozen)
