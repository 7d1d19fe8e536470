"""What a forward pass saves for its backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fastbn._core import views
from fastbn._core.checks import ACTIVATIONS, NO_ACTIVATION, channels, check_eps
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept
from fastbn._core.tensors import as_constant

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Axis



LAST_ACTIVATION = max(ACTIVATIONS.values())
KEPT_FIELDS = len(Kept._fields)


class Saved:
    """What a backward pass needs from its forward pass; opaque except for the statistics.

    `batch_norm_training` returns one, and `from_statistics` makes one for `batch_norm_inference`. It can be copied and
    pickled. The backward pass checks its private content against the arrays before it computes anything.

    Attributes
    ----------
    mean, var, rstd : ndarray of float64, shape (C,)
        Mean, biased variance, and 1 / sqrt(var + eps). Read-only. With a virtual batch size, (groups, C).
    count : int
        Values per channel of the whole batch; 0 for given statistics.
    """

    __slots__ = ("_arrangement", "_axis", "_count", "_index", "_kept", "_residual", "_samples", "_shape", "_var")

    def __init__(       # with keywords only, the call would take twice as long
        self,
        kept: Kept,
        var: NDArray[np.float64],
        count: int,
        shape: tuple[int, ...] | None = None,
        axis: int | None = None,
        residual: bool = False,
        *,
        arrangement: tuple[int, tuple[int, ...] | None] | None = None,
        index: NDArray[np.intp] | None = None,
        samples: int | None = None,
    ) -> None:
        self._kept, self._var, self._count = kept, var, count
        self._shape, self._axis = shape, axis       # of x, if there was a forward pass
        self._residual = residual       # whether the forward pass had one
        self._arrangement = arrangement     # the order of the elements in memory, to which bits belong
        self._index = index             # positions that counted, in C order; None for all
        self._samples = samples         # samples of a statistic, as the kernels count them; None for all

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each channel."""
        return self._shaped(self._kept.mean)

    @property
    def var(self) -> NDArray[np.float64]:
        """Biased variance of each channel."""
        return self._shaped(self._var)

    @property
    def rstd(self) -> NDArray[np.float64]:
        """1 / sqrt(var + eps) of each channel."""
        return self._shaped(self._kept.rstd)

    @property
    def count(self) -> int:
        """Values per channel."""
        return self._count

    def _shaped(self, statistic: NDArray[np.float64]) -> NDArray[np.float64]:
        # Of a caller, who cannot change it.
        if self._samples is not None and self._shape is not None and self._axis is not None:
            statistic = statistic.reshape(-1, self._shape[self._axis])
        return read_only(statistic)

    def __repr__(self) -> str:
        return f"Saved({len(self._kept.mean)}, count={self._count})"

    @classmethod
    def from_statistics(cls, mean: ArrayLike, var: ArrayLike, *, eps: float = 1e-5) -> Saved:
        """Return what `batch_norm_backward` needs after a forward pass with given statistics.

        The forward pass must have had neither a residual nor an activation, which this object would not know of. A
        layer in evaluation mode computes their gradients.

        Parameters
        ----------
        mean, var : array_like of float32 or float64, shape (C,)
        eps : float
            As given to `batch_norm_inference`.

        Returns
        -------
        Saved

        Raises
        ------
        TypeError, ValueError
            If the vectors have another dtype or differ in length, or a variance is negative, or 0 with an eps of 0.

        Examples
        --------
        >>> from fastbn.functional import Saved
        >>> saved = Saved.from_statistics([0.0], [3.0], eps=1.0)
        >>> saved.rstd
        array([0.5])
        """
        eps = check_eps(eps)
        check_variance(var, eps)
        mean64, var64, rstd = normalizing(mean, var, eps)
        return cls(Kept(mean64, None, rstd, None, None, None, True, NO_ACTIVATION), var64, 0)

    def _view_of(self, x: ArrayLike, axis: int | tuple[int, ...], name: str = "x") -> views.View:
        """Return a view of x, or y, of the forward pass as the kernels walk it.

        Raises
        ------
        TypeError, ValueError
            If x is not that of the forward pass, or the content of this object is not what it saves. The kernels trust
            it, so it is checked here.
        """
        kept = self._kept
        check_kept(kept)
        if type(self._count) is not int or self._count < 0:
            refuse("count", self._count)
        if self._samples is not None and not (type(self._samples) is int and self._samples > 0):
            refuse("samples", self._samples)
        view = views.view(x, axis, len(kept.mean) if self._samples is None else None, name)
        if self._shape is not None:
            check_origin(view, axis, self._shape, self._axis, name)
        elif kept.bits is not None or not kept.frozen:
            raise ValueError("saved must be what batch_norm_training returned, or come from Saved.from_statistics")
        if self._arrangement is not None:
            if not is_arrangement(self._arrangement, view):
                refuse("order of memory", self._arrangement)
            view = views.view(x, axis, arrangement=self._arrangement)
        if self._index is not None:
            if not is_index(self._index, view.shape[0]):
                refuse("index", self._index)
            if not views.choose(view, self._index):
                raise ValueError("x must lie in memory as in the forward pass, where only some positions counted")
        check_gate(kept, self._residual, kernels.bits_words(view, self._samples) if kept.bits is not None else 0)
        return view


def read_only(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a read-only view."""
    view: NDArray[np.float64] = vector.view()
    view.flags.writeable = False
    return view


def normalizing(
    mean: ArrayLike, var: ArrayLike, eps: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean, variance and rstd as new float64 vectors; rstd is Inf if variance and eps are 0."""
    given = {name: views.as_plain(as_constant(v, name), name) for name, v in (("mean", mean), ("var", var))}
    if given["mean"].ndim != 1 or given["mean"].shape != given["var"].shape:
        raise ValueError(f"mean and var have shapes {given['mean'].shape} and {given['var'].shape}; expected (C,) for "
                         "both")
    for name, vector in (("mean", mean), ("var", var)):
        views.check_vector(vector, len(given[name]), name)      # as the kernels accept
    mean64, var64 = (np.array(vector, np.float64) for vector in given.values())
    with np.errstate(divide="ignore"):
        rstd: NDArray[np.float64] = 1 / np.sqrt(var64 + eps)
    return mean64, var64, rstd


def left_over(saved: Saved, view: views.View) -> NDArray[np.float64]:
    """Return the mean minus the mean that the kernels use, which is rounded to their precision."""
    mean, low = saved._kept.mean, saved._kept.low
    dtype = np.float64 if view.array.dtype == np.float64 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        left: NDArray[np.float64] = mean - mean.astype(dtype)
    return left if low is None else left + low


def in_range(var: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return variances with NaN in place of Inf, whose rstd of 0 would turn finite values into beta."""
    return np.where(np.isinf(var), np.nan, var)


def check_variance(var: ArrayLike, eps: float, name: str = "var") -> None:
    """Raise an error for given variances that are negative, or 0 with an eps of 0."""
    given = views.as_plain(as_constant(var, name), name)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {given.dtype}; expected float32 or float64")
    if (given < 0).any():
        raise ValueError(f"{name} has negative values, down to {given.min()}, in "
                         f"{channels(np.flatnonzero(given < 0).tolist())}")
    zero = np.flatnonzero(given == 0).tolist() if eps == 0 else []
    if zero:
        raise ValueError(f"{name} is 0 in {channels(zero)} and eps is 0; expected a positive variance or eps")


def refuse(what: str, got: object) -> NoReturn:
    """Raise an error for content of a Saved that no forward pass saves."""
    text = f"{got.dtype}{got.shape}" if isinstance(got, np.ndarray) else repr(got)
    raise ValueError(f"saved must be as a forward pass returned it, and its {what} is not; got {text:.80}")


def not_saved(got: object, kind: type, forward: str) -> TypeError:
    """Return the error for an argument that is not what a forward pass saves; `forward` names the function."""
    return TypeError(f"saved must be a {kind.__name__}, the second value of {forward}, got {type(got).__name__}")


def check_kept(kept: Kept) -> None:
    """Raise an error unless this is a Kept with the fields that the kernels do not check: mean, frozen, activation."""
    if type(kept) is not Kept or len(kept) != KEPT_FIELDS:
        # A Kept of another length has no repr.
        refuse("content", tuple(kept) if isinstance(kept, tuple) else kept)
    if not isinstance(kept.mean, np.ndarray) or kept.mean.ndim != 1:
        refuse("mean", kept.mean)
    if type(kept.frozen) is not bool:
        refuse("frozen", kept.frozen)
    if not is_activation(kept.activation):
        refuse("activation", kept.activation)


def check_origin(view: views.View, given: Axis, shape: object, axis: object, name: str = "x") -> None:
    """Raise an error unless x of a backward pass, with the axis `given`, has shape and axis of the forward pass."""
    if type(shape) is not tuple:
        refuse("shape", shape)
    if type(axis) is not int:
        refuse("axis", axis)
    if view.array.shape != shape:
        raise ValueError(f"{name} has shape {view.array.shape}; expected that of the forward pass, {shape}")
    if view.axis != axis:
        raise ValueError(f"axis {given} is not that of the forward pass, {axis}")


def check_gate(kept: Kept, residual: bool, words: int) -> None:
    """Raise an error unless there are kernels for this combination: bits with a residual, scale and shift without one.

    Parameters
    ----------
    kept : Kept
    residual : bool
        Whether the forward pass had one; its type is checked too.
    words : int
        Of bits; not used without them.
    """
    if type(residual) is not bool:
        refuse("residual", residual)
    if kept.bits is not None and not (residual and is_vector(kept.bits, np.uint16) and len(kept.bits) == words):
        refuse("mask", kept.bits)
    if kept.scale is not None and residual:
        refuse("scale", kept.scale)


def is_vector(value: object, dtype: type[np.generic]) -> bool:
    """Return whether this is a contiguous, aligned vector of that dtype."""
    return type(value) is np.ndarray and value.ndim == 1 and value.dtype == dtype and (
        value.flags.c_contiguous and value.flags.aligned)


def is_activation(activation: Any) -> bool:
    """Return whether this is a code of the kernels and a parameter."""
    return (type(activation) is tuple and len(activation) == 2 and type(activation[0]) is int
            and type(activation[1]) is float and 0 <= activation[0] <= LAST_ACTIVATION)


def is_index(index: Any, rows: int) -> bool:
    """Return whether these are increasing row numbers."""
    return is_vector(index, np.intp) and len(index) > 0 and bool(
        index[0] >= 0 and index[-1] < rows and (index[1:] > index[:-1]).all())


def is_arrangement(arrangement: Any, view: views.View) -> bool:
    """Return whether this is an order of the axes of a view and the place of the channel axis in it."""
    if not isinstance(arrangement, tuple) or len(arrangement) != 2:
        return False
    outer, order = arrangement
    axes = tuple(range(view.array.ndim))
    if order is not None and not (isinstance(order, tuple) and all(type(k) is int for k in order)
                                  and sorted(order) == list(axes)):
        return False
    return type(outer) is int and outer in axes and (axes if order is None else order)[outer] == view.axis
