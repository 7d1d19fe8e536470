"""What the last forward pass of a layer leaves for its backward pass."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

from fastbn._core.views import same_memory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from fastbn._core.saved import Saved
    from fastbn.layers.masked import Selection


@dataclass(slots=True, eq=False)
class Tape:
    """One forward pass. A layer replaces it as a whole, so that threads never see a mixture of two.

    Attributes
    ----------
    x : array_like, weakref or None
        The input; after a forward pass in evaluation mode a weak reference. None if the forward pass wrote over values
        that the backward pass reads.
    residual : array_like, weakref, True or None
        The residual of a forward pass in evaluation mode; True if there was one whose values the backward pass does not
        read.
    activation : tuple of int and float
        Its code in the kernels, and its parameter.
    saved : Saved, what another member of the family saves, or None
        None after a forward pass in evaluation mode by running averages or
        statistics of single samples, whose backward pass makes it.
    selection : Selection or None
        Which values counted, if not all.
    rows : ndarray, shape (K, C), or None
        The values of x that counted, if the forward pass gathered and kept them.
    counts : ndarray of float64, shape (C,), or None
        Values of the whole batch in each channel, if channels differ. Of statistics that depend on the batch with a
        weight less than 1, the values divided by it.
    shift : ndarray of float64, shape (C,), or None
        (mean - mean of the batch) * rstd^2, if the mean is not that of the batch alone.
    correction : tuple of ndarray of float64, shape (C,), or None
        r and d of a batch renormalization.
    """

    name: ClassVar[str] = "x"       # of what backward reads, in errors
    x: Any
    residual: Any
    activation: tuple[int, float]
    saved: Any = None
    selection: Selection | None = None
    rows: NDArray[Any] | None = None
    counts: NDArray[np.float64] | None = None
    shift: NDArray[np.float64] | None = None
    correction: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @property
    def whole(self) -> bool:
        """Whether all values counted, with their full weight, so that fused kernels can do the backward pass."""
        return self.selection is None and self.counts is None

    @classmethod
    def of_batch(
        cls, saved: Saved, selection: Selection | None = None, rows: NDArray[Any] | None = None,
        counts: NDArray[np.float64] | None = None,
    ) -> Tape:
        """Return the tape of a forward pass by statistics of a batch, without x."""
        return cls(None, None, saved._kept.activation, saved, selection, rows, counts)

    def with_input(self, x: Any, residual: Any = None) -> Self:
        """Return a copy with another x and residual."""
        tape = copy(self)
        tape.x, tape.residual = x, residual
        return tape


def of_evaluation(
    x: Any, residual: Any, activation: tuple[int, float], out: NDArray[Any] | None
) -> tuple[Any, Any, tuple[int, float]]:
    """Return the first fields of the Tape of a forward pass in evaluation mode, which keeps weak references.

    x is None if `out` was written over it, or over the residual, without which the bits of a ReLU cannot be computed
    again.

    Parameters
    ----------
    x, residual, out
        The arguments of the call.
    activation : tuple of int and float
        What `check_activation` returned.
    """
    lost = out is not None and (
        same_memory(out, x) or (activation[0] > 0 and residual is not None and same_memory(out, residual)))
    if residual is not None:
        residual = weakly(residual) if activation[0] else True
    return None if lost else weakly(x), residual, activation


def weakly(array: Any) -> Any:
    """Return a weak reference, or the object itself if it supports none, as a list."""
    try:
        return ref(array)
    except TypeError:
        return array


def alive(reference: Any, name: str) -> Any:
    """Return the object that `weakly` was given.

    Raises
    ------
    RuntimeError
        If the object no longer exists.
    """
    if not isinstance(reference, ref):
        return reference
    array = reference()
    if array is None:
        raise RuntimeError(f"{name} of the last forward pass no longer exists, and backward needs it; evaluation mode "
                           f"keeps no reference to {name}: keep it alive until backward")
    return array
