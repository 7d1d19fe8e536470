"""Layers with statistics of single samples, so that training and evaluation compute the same."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from fastbn._core.checks import NO_ACTIVATION, check_activation, decoded
from fastbn._core.views import same_memory
from fastbn.layers.base import set_tape
from fastbn.layers.stored import StoredNorm
from fastbn.layers.tape import Tape, alive, of_evaluation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation


class SampleNorm(StoredNorm):
    """A layer that normalizes each sample, or each part of one, by its own statistics.

    Both modes compute the same bits. Training mode keeps x and the statistics for the backward pass; evaluation mode
    keeps a weak reference to x, and a backward pass computes the statistics again.

    A member of the family adds `_train`, `_infer` and `_derive`, each one call of its functions in `fastbn.functional`.
    """

    def __call__(
        self, x: ArrayLike, residual: ArrayLike | None = None, activation: Activation = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Normalize `x`.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16
        residual : array_like, shape and dtype of x, optional
            Added before the activation.
        activation : str, tuple or None
            Applied last; NaN passes through. As in `fastbn.ChannelAffine`; with a residual only "relu", in training
            mode and for a backward pass.
        out : ndarray, shape and dtype of x, optional
            Buffer for y. With ``out=x`` (in place) no backward pass is possible.

        Returns
        -------
        ndarray
            `out` if it was given, else a new array with the shape and dtype of x.

        Raises
        ------
        TypeError
            For an unsupported dtype or an argument of the wrong type.
        ValueError
            For shapes that do not fit, or an `out` that overlaps an input but is another array.
        """
        coded = NO_ACTIVATION if activation is None else check_activation(activation)
        saved = None
        try:
            if self.training:
                y, saved = self._train(x, residual, activation, out)
            else:
                y = self._infer(x, residual, activation, out)
        except BaseException as error:
            self._forget_unless_refused(error)
            raise
        if saved is None:
            set_tape(self, of_evaluation(x, residual, coded, out))
        else:
            lost = out is not None and same_memory(out, x)
            set_tape(self, Tape(None if lost else x, None, coded, saved))
        return y

    def _gradients(self, tape: Tape, x: Any, dy: ArrayLike, out: NDArray[Any] | None) -> tuple[Any, ...]:
        saved = tape.saved
        if saved is None:
            residual = alive(tape.residual, "residual")
            # The values of a residual without an activation do not matter: x stands for it.
            _, saved = self._train(x, x if residual is True else residual, decoded(tape.activation), None)
        return self._derive(dy, x, saved, out)

    @abstractmethod
    def _train(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> tuple[NDArray[Any], Any]:
        """Return y and what `_derive` needs."""

    @abstractmethod
    def _infer(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Return y."""

    @abstractmethod
    def _derive(self, dy: ArrayLike, x: ArrayLike, saved: Any, out: NDArray[Any] | None) -> tuple[Any, ...]:
        """Return dx, dgamma, dbeta and, if the forward pass had a residual, dresidual."""
