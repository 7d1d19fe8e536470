"""Whitening: the full transform of which batch normalization is the diagonal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastbn._core import views
from fastbn._core.checks import NO_ACTIVATION, check_choice, check_integer, check_momentum
from fastbn._core.views import same_memory
from fastbn.checkpoints.conventions import COUNTER
from fastbn.checkpoints.kinds import register_whole
from fastbn.checkpoints.state import MOST_BATCHES, check_tracked, state_array
from fastbn.functional import whitening
from fastbn.functional.whitening_saved import WhiteningSaved
from fastbn.layers.attributes import Check, check_affine, check_shape, check_vector, refusal, set_unchecked
from fastbn.layers.base import STATE_NAMES, flat, set_tape
from fastbn.layers.running import MOMENTUM
from fastbn.layers.stored import StoredNorm
from fastbn.layers.tape import Tape, weakly

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn.functional.whitening import Method

MATRIX = "running_wm"       # in a state


def check_running_mean(owner: Whitening, value: Any, name: str) -> NDArray[Any]:
    """Return as `check_vector`, but not None."""
    if value is None:
        raise ValueError(f"{name} must be an array, got None")
    vector = check_vector(owner, value, name)
    assert vector is not None
    return vector


def check_running_wm(owner: Whitening, value: Any, name: str) -> NDArray[Any]:
    """Return the memory of an array of shape (G, D, D), or a new array for a list."""
    if value is None:
        raise ValueError(f"{name} must be an array, got None")
    given = check_shape(value, owner._matrices, name)
    if not isinstance(given, np.ndarray):
        return np.array(given, owner.dtype)
    views.check_plain(given, name)
    return given


@register_whole
class Whitening(StoredNorm):
    """Whitening over all axes except the channel axis: batch normalization that also removes correlation.

    In training mode, with the channels of a group as a vector x at each position, and their mean and biased covariance
    in the batch, y = gamma * ((cov + eps I)^(-1/2) (x - mean)) + beta; the running averages of the mean and of this
    matrix move towards those of the batch. Evaluation mode uses the running averages. After Huang et al. (2018),
    "Decorrelated Batch Normalization", https://arxiv.org/abs/1804.08450, and Huang et al. (2019), "Iterative
    Normalization: Beyond Standardization towards Efficient Whitening", https://arxiv.org/abs/1904.03441.

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    groups : int or None
        Number of groups of consecutive channels, a divisor of C. Each is whitened by itself. None is one group.
    method : {"zca", "iternorm"}
        How the inverse square root is computed: exactly, by eigenvalues, or approximately, by Newton's iteration.
    iterations : int
        Of Newton's iteration, at most 100; "zca" does not use them.
    axis : int
        The channel axis: 1 for NCHW, -1 for NHWC.
    eps : float
        Added to the diagonal of the covariance. It also limits the matrix if the covariance is singular, as in batches
        with no more values per channel than channels in a group; with 0, "zca" then raises an error.
    momentum : float or None
        Weight of a batch in the running averages. None averages all batches with equal weights.
    affine : bool
        Whether the layer has gamma and beta.
    scale, center : bool, optional
        Whether it has gamma, and beta; `affine` by default.
    dtype : dtype or None
        float32 (also for None) or float64, of parameters and running averages. All is computed in float64, and y has
        the dtype of x, which may also be float16 or bfloat16.
    num_threads : int, optional
        For means and sums; see `fastbn.set_num_threads`. NumPy's BLAS, which does the rest, has threads of its own.

    Attributes
    ----------
    gamma, beta : ndarray, shape (C,), or None
        Learnable scale and shift, 1 and 0 if None. Change them in place or assign arrays.
    running_mean : ndarray, shape (C,)
    running_wm : ndarray, shape (G, D, D)
        Running average of the whitening matrix of each of G groups of D channels.
    num_batches_tracked : int
        Number of training batches.
    training : bool
        The mode; see `train` and `eval`.
    grad_gamma, grad_beta : ndarray, shape (C,), or None
        Gradients of the last `backward`; each call replaces them. None if `learn_affine` is False.
    learn_affine : bool
        Whether `backward` leaves these gradients; True by default.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    A value that is not finite makes its group NaN, in y and in the running averages. ``copy.copy``, ``copy.deepcopy``
    and pickles make an independent layer, without the last forward pass.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> layer = fastbn.Whitening(3, eps=1e-9)
    >>> x = np.random.default_rng(0).normal(size=(1000, 3)) @ [[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 1.0]]
    >>> y = layer(x)
    >>> bool(abs(np.cov(y.T, bias=True) - np.eye(3)).max() < 1e-6)
    True
    >>> dx = layer.backward(np.ones_like(y))
    >>> layer.grad_beta
    array([1000., 1000., 1000.], dtype=float32)
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        **StoredNorm._checks,
        "num_features": refusal("make a new layer"),
        "groups": refusal("make a new layer"),
        "axis": lambda _, value, name: check_integer(value, name),
        "method": lambda _, value, name: check_choice(value, name, whitening.METHODS),
        "iterations": lambda _, value, name: whitening.check_iterations(value),
        "momentum": lambda _, value, name: check_momentum(value),
        "running_mean": check_running_mean,
        "running_wm": check_running_wm,
        "num_batches_tracked": lambda _, value, name: check_tracked(value),
    }

    num_features: int
    groups: int
    method: Method
    iterations: int
    axis: int
    momentum: float | None
    running_mean: NDArray[Any]
    running_wm: NDArray[Any]
    num_batches_tracked: int

    def __init__(
        self,
        num_features: int,
        groups: int | None = None,
        method: Method = "zca",
        *,
        iterations: int = whitening.ITERATIONS,
        axis: int = 1,
        eps: float = 1e-5,
        momentum: float | None = MOMENTUM,
        affine: bool = True,
        scale: bool | None = None,
        center: bool | None = None,
        dtype: DTypeLike | None = np.float32,
        num_threads: int | None = None,
    ) -> None:
        set_unchecked(self, "num_features", check_integer(num_features, "num_features", 1))
        set_unchecked(
            self, "groups", whitening.check_groups(1 if groups is None else groups, self.num_features, "num_features"))
        self.method = method
        self.iterations = iterations
        self.axis = axis
        self.momentum = momentum
        super().__init__(
            (self.num_features,), eps=eps, dtype=dtype, num_threads=num_threads,
            **check_affine(affine, scale, center))
        self.running_mean = np.zeros(self.num_features, self.dtype)
        self.running_wm = np.empty(self._matrices, self.dtype)
        self.reset_running_stats()

    @property
    def _matrices(self) -> tuple[int, int, int]:
        # The shape of the matrices.
        width = self.num_features // self.groups
        return self.groups, width, width

    def _positional(self) -> list[str]:
        return [str(self.num_features)]

    def _derived(self) -> dict[str, Any]:
        return {**super()._derived(), "groups": 1}

    def reset_running_stats(self) -> None:
        """Restart the running averages: mean 0, identity matrices, no batches."""
        self.running_mean[...] = 0
        self.running_wm[...] = np.eye(self._matrices[1])
        self.num_batches_tracked = 0

    def __call__(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Whiten `x`.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
            With num_features channels along the channel axis.
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
            For shapes that do not fit, or an `out` that overlaps x but is another array; in training mode for a single
            value per channel, or a singular covariance with an eps of 0.
        """
        view = views.view(x, self.axis, self.num_features)
        saved: Any = None
        try:
            if self.training:
                self._check_averages()
                y, saved = whitening.train(
                    view, self.gamma, self.beta, groups=self.groups, method=self.method, iterations=self.iterations,
                    eps=self.eps, out=out, num_threads=self.num_threads)
                self._follow(saved)
            else:
                y = whitening.infer(view, self.running_mean, self.running_wm, self.gamma, self.beta, out)
        except BaseException as error:
            self._forget_unless_refused(error)
            raise
        lost = out is not None and same_memory(out, x)
        set_tape(self, Tape(None if lost else x if self.training else weakly(x), None, NO_ACTIVATION, saved))
        return y

    def _check_averages(self) -> None:
        # Before anything is written.
        for name in ("running_mean", "running_wm"):
            if not getattr(self, name).flags.writeable:
                raise ValueError(f"{name} is read-only, and training writes to it; expected a writable array")
        if self.num_batches_tracked == MOST_BATCHES:
            raise ValueError(f"num_batches_tracked is {MOST_BATCHES}, and training cannot count another batch; "
                             "expected a smaller number")

    def _follow(self, saved: WhiteningSaved) -> None:
        # running = (1 - factor) * running + factor * batch
        tracked = self.num_batches_tracked + 1
        factor = 1 / tracked if self.momentum is None else self.momentum
        if saved.count:
            with np.errstate(all="ignore"):     # Inf beyond the dtype
                for running, batch in ((self.running_mean, saved.mean), (self.running_wm, saved.matrix)):
                    running[...] = (1 - factor) * running + factor * batch
        if saved.count or self.momentum is not None:
            set_unchecked(self, COUNTER, tracked)

    def _gradients(self, tape: Tape, x: Any, dy: ArrayLike, out: NDArray[Any] | None) -> tuple[Any, ...]:
        saved: Any = tape.saved
        if saved is None:
            saved = WhiteningSaved.from_statistics(self.running_mean, self.running_wm)
        return whitening.whitening_backward(
            dy, x, saved, self.gamma, axis=self.axis, out=out, num_threads=self.num_threads)

    def to_linear(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return evaluation mode as one matrix and a bias, for a linear layer or a 1x1 convolution.

        Returns
        -------
        weight : ndarray of float64, shape (C, C)
            Block diagonal; rows are output channels.
        bias : ndarray of float64, shape (C,)
            y = weight x + bias for the channels x at one position.

        Examples
        --------
        >>> import fastbn
        >>> layer = fastbn.Whitening(2, dtype="float64")
        >>> layer.running_mean[...] = 1, 2
        >>> layer.to_linear()
        (array([[1., 0.],
               [0., 1.]]), array([-1., -2.]))
        """
        groups, width, _ = self._matrices
        weight = np.zeros((self.num_features, self.num_features))
        own = np.arange(groups)
        weight.reshape(groups, width, groups, width)[own, :, own] = whitening.scaled(
            np.array(self.running_wm, np.float64), self.gamma)
        bias = -weight @ np.asarray(self.running_mean, np.float64)
        return weight, bias if self.beta is None else bias + self.beta

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of parameters and running averages.

        Returns
        -------
        dict
            weight and bias, if there are a gamma and a beta; running_mean, running_wm, as in the IterNorm module of the
            authors, and num_batches_tracked.

        Raises
        ------
        ValueError
            If an assigned array of float64 has values beyond the range of the layer's dtype.

        Examples
        --------
        >>> import fastbn
        >>> sorted(fastbn.Whitening(2).state_dict())
        ['bias', 'num_batches_tracked', 'running_mean', 'running_wm', 'weight']
        """
        matrix = np.empty(self._matrices, self.dtype)
        views.assign(flat({MATRIX: matrix}), flat({MATRIX: self.running_wm}))
        tracked = np.array(self.num_batches_tracked, np.int64)
        return super().state_dict() | {MATRIX: matrix, COUNTER: tracked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load parameters and running averages: all of them or, after an error, none.

        Parameters
        ----------
        state : mapping of str to array_like
            As `state_dict` returns it, or the state of the IterNorm module of the authors, whose weight and bias are
            (1, C, 1, 1), and whose running_mean is (G, D, 1). num_batches_tracked is optional.

        Raises
        ------
        TypeError
            If a value is not an array of floating-point numbers.
        ValueError
            If a name is missing or unknown, a shape does not fit, or a value is not finite.
        """
        vectors = self._vectors()
        if isinstance(state, Mapping) and MATRIX not in state:
            expected = ", ".join(STATE_NAMES[name] for name in vectors)
            raise ValueError(f"state is missing {MATRIX}; expected {expected}, {MATRIX}")
        loaded = self._checked(state, (MATRIX, COUNTER))
        loaded[MATRIX] = state_array(MATRIX, state[MATRIX], self._matrices, self.running_wm.dtype)
        tracked = check_tracked(state.get(COUNTER, 0))
        views.assign(flat(vectors | {MATRIX: self.running_wm}), flat(loaded))
        self.num_batches_tracked = tracked
        self._forget()

    def _checked(self, state: Mapping[str, Any], optional: Collection[str] = ()) -> dict[str, NDArray[Any]]:
        if isinstance(state, Mapping):
            state = {name: self._flat_vector(value) if name not in optional else value
                     for name, value in state.items()}
        return super()._checked(state, optional)

    def _flat_vector(self, value: Any) -> Any:
        # As a vector, if it has the shape that the authors' module gives one.
        groups, width, _ = self._matrices
        shape = np.shape(value)
        theirs = shape == (groups, width, 1) or (shape[:2] == (1, self.num_features) and set(shape[2:]) == {1})
        return np.reshape(value, -1) if theirs else value

    def _vectors(self) -> dict[str, NDArray[Any]]:
        return super()._vectors() | {"running_mean": self.running_mean}
