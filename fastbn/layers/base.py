"""What layers have in common: a scale and a shift, modes, the last forward pass, state and copies."""

from __future__ import annotations

import copy
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

import numpy as np

from fastbn._core import views
from fastbn._core.checks import RELU, check_flag, name_of
from fastbn._core.views import same_memory
from fastbn.checkpoints.state import check_state
from fastbn.layers import passes
from fastbn.layers.attributes import CHECKS, Absent, Check, Checked, check_dtype, set_unchecked
from fastbn.layers.tape import Tape, alive

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray
    from typing_extensions import Self

# The names of the vectors in a state, which are PyTorch's.
STATE_NAMES = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var",
               "renorm_mean": "renorm_mean", "renorm_var": "renorm_var"}

FREEZING = ("freeze", "unfreeze", "use_running_stats", "update_running_stats")


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning at the line that called fastbn, whatever lies between."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("fastbn."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


class Norm(Checked, ABC):
    """A layer with a scale and a shift.

    Parameters
    ----------
    shape : tuple of int
        Of gamma and beta.
    eps : float or None
    scale, center : bool
        Whether there are a gamma and a beta.
    dtype : dtype or None
    num_threads : int or None

    Attributes
    ----------
    gamma, beta, grad_gamma, grad_beta : ndarray or None
    training : bool
    learn_affine : bool
        Whether `backward` leaves gradients of gamma and beta.
    """

    __slots__ = ("__dict__", "__weakref__", "_tape")        # `set_tape` takes half the time of an attribute
    _checks: ClassVar[Mapping[str, Check]] = CHECKS
    _instead: ClassVar[Mapping[str, str]] = {
        **Checked._instead, **dict.fromkeys(FREEZING, "assign learn_affine = False to freeze gamma and beta")}
    _modes: ClassVar[Mapping[str, bool]] = {"training": True, "learn_affine": True}     # and their defaults

    dtype: np.dtype[Any]
    eps: float | Any            # None in an RMSNorm
    num_threads: int | None
    training: bool
    learn_affine: bool
    # None in a layer without them; Any, because users know whether theirs has them, and a checker does not.
    gamma: NDArray[Any] | Any
    beta: NDArray[Any] | Any
    grad_gamma: NDArray[Any] | Any
    grad_beta: NDArray[Any] | Any
    if not TYPE_CHECKING:       # a checker reports that these do not exist
        weight, bias, freeze, unfreeze = Absent(), Absent(), Absent(), Absent()
    _shape: tuple[int, ...]     # of gamma and beta
    # The last forward pass. Evaluation leaves the arguments of a Tape: to make one would slow a small call by a tenth.
    _tape: Tape | tuple[Any, Any, tuple[int, float]] | None

    def __init__(
        self, shape: tuple[int, ...], *, eps: float | None, scale: bool, center: bool, dtype: DTypeLike | None,
        num_threads: int | None,
    ) -> None:
        self._shape = shape
        set_unchecked(self, "dtype", check_dtype(dtype))
        self.eps = eps
        self.num_threads = num_threads
        for name, mode in self._modes.items():
            set_unchecked(self, name, mode)
        set_unchecked(self, "gamma", np.ones(shape, self.dtype) if scale else None)
        set_unchecked(self, "beta", np.zeros(shape, self.dtype) if center else None)
        self.grad_gamma = None
        self.grad_beta = None
        set_tape(self, None)

    @property
    def affine(self) -> bool:
        """Whether there is a gamma or a beta."""
        return self.scale or self.center

    @property
    def scale(self) -> bool:
        """Whether there is a gamma."""
        return self.gamma is not None

    @property
    def center(self) -> bool:
        """Whether there is a beta."""
        return self.beta is not None

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode; with ``mode=False``, to evaluation mode.

        Parameters
        ----------
        mode : bool

        Returns
        -------
        layer
            The layer itself.
        """
        self.training = check_flag(mode, "mode")
        return self

    def eval(self) -> Self:
        """Switch to evaluation mode.

        Returns
        -------
        layer
            The layer itself.
        """
        return self.train(False)

    # Text, copies and pickles.

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([*self._positional(), *self._shown()])})"

    def _shown(self) -> list[str]:
        # The settings and modes that differ from their defaults.
        shown = []
        derived = self._derived()
        for name, default in self._defaults().items():
            value = getattr(self, name)
            if value != derived.get(name, default):
                shown.append(f"{name}={value if name == 'dtype' else repr(value)}")
        return shown + [f"{name}={not mode}" for name, mode in self._modes.items() if getattr(self, name) is not mode]

    @abstractmethod
    def _positional(self) -> list[str]:
        """Return the positional arguments as text."""

    def _constructor(self) -> dict[str, Parameter]:
        # Of the class of this package: one that is derived from it elsewhere may have other parameters. A class that
        # takes **settings has those of its base too.
        found: dict[str, Parameter] = {}
        for cls in (cls for cls in type(self).__mro__ if cls.__module__.partition(".")[0] == "fastbn"):
            parameters = signature(cls).parameters
            named = {name: p for name, p in parameters.items() if p.kind is not Parameter.VAR_KEYWORD}
            found = named | found
            if len(named) == len(parameters):
                break
        return {name: p for name, p in found.items() if name not in self._hidden()}

    def _defaults(self) -> dict[str, Any]:
        return {name: p.default for name, p in self._constructor().items() if p.default is not Parameter.empty}

    def _arguments(self) -> dict[str, Any]:
        # Of the constructor, for a layer like this one on any machine.
        return {name: getattr(self, name) for name in self._constructor() if name != "num_threads"}

    def _derived(self) -> dict[str, Any]:
        # Settings whose default follows from others.
        return {"scale": self.affine, "center": self.affine}

    def _hidden(self) -> tuple[str, ...]:
        # Parameters that have no attribute, or that the text leaves out.
        return ()

    def __copy__(self) -> Self:
        # A copy that shared arrays, but not the counter and the weights that belong to them, would be inconsistent.
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        set_tape(self, None)

    # For forwards and backwards.

    def _parameters(self) -> passes.Parameters:
        return passes.Parameters(self.gamma, self.beta, self.eps, self.num_threads)

    def _forget(self) -> None:
        # There is no forward pass for a backward pass to follow.
        set_tape(self, None)

    def _forget_unless_refused(self, error: BaseException) -> None:
        # A call that is refused has written nothing; an interrupted one may have overwritten the last x.
        if not isinstance(error, (TypeError, ValueError)):
            self._forget()

    def _set_gradients(self, dgamma: NDArray[np.float64], dbeta: NDArray[np.float64]) -> None:
        learn = self.learn_affine
        set_unchecked(self, "grad_gamma", dgamma.astype(self.dtype) if learn and self.gamma is not None else None)
        set_unchecked(self, "grad_beta", dbeta.astype(self.dtype) if learn and self.beta is not None else None)

    def backward(self, dy: ArrayLike, out: NDArray[Any] | None = None) -> Any:
        """Compute the gradients of the last forward pass.

        x, the parameters, eps and axis must be unchanged. Evaluation mode does not keep its inputs alive, but
        backward needs x and, with a ReLU, the residual: keep references to the arrays themselves.

        Parameters
        ----------
        dy : array_like, shape and dtype of x of the forward pass
        out : ndarray, shape and dtype of x, optional
            Buffer for dx; `dy` or x of the forward pass to work in place. Over x, no further backward pass is possible.

        Returns
        -------
        dx : ndarray
            Or the tuple ``(dx, dresidual)`` if the forward pass had a residual. `grad_gamma` and `grad_beta` are set;
            to None if `learn_affine` is False.

        Raises
        ------
        RuntimeError
            If there was no forward pass, its input was overwritten, it was in evaluation mode and its input no longer
            exists, or it had a residual and an activation other than ReLU.
        TypeError, ValueError
            If `dy` or `out` does not fit.
        """
        last = self._tape
        return self._backward(Tape(*last) if isinstance(last, tuple) else last, dy, out)

    def _backward(self, tape: Tape | None, dy: ArrayLike, out: NDArray[Any] | None) -> Any:
        if tape is None:
            hint = "; after accumulate, call backward of the WholeBatch" if hasattr(self, "accumulate") else ""
            raise RuntimeError(f"backward needs a forward pass first{hint}")
        if tape.x is None:
            raise RuntimeError(f"a result was written over the {tape.name} or the residual of the last forward pass, "
                               "which backward needs; pass another out")
        if tape.activation[0] > RELU and tape.residual is not None:
            raise RuntimeError(f"the activation of the last forward pass was {name_of(tape.activation[0])}, after a "
                               "residual, where backward supports only relu")
        x = tape.x
        if type(x) is ref:
            x = alive(x, tape.name)
        try:
            dx, dgamma, dbeta, *dresidual = self._gradients(tape, x, dy, out)
        except BaseException as error:
            # An interrupted call may have overwritten a part of x.
            if not isinstance(error, Exception) and out is not None and same_memory(out, x):
                self._forget()
            raise
        if out is not None and same_memory(out, x):
            set_tape(self, tape.with_input(None))
        self._set_gradients(dgamma, dbeta)
        return (dx, *dresidual) if dresidual else dx

    @abstractmethod
    def _gradients(self, tape: Tape, x: Any, dy: ArrayLike, out: NDArray[Any] | None) -> tuple[Any, ...]:
        """Return dx, dgamma, dbeta and, if the forward pass had a residual, dresidual."""

    # State.

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of the parameters under the names of PyTorch.

        Returns
        -------
        dict
            weight and bias, if there are a gamma and a beta.

        Raises
        ------
        ValueError
            If an assigned array of float64 has values beyond the range of the layer's dtype.
        """
        vectors = self._vectors()
        out = {name: np.empty(vector.shape, self.dtype) for name, vector in vectors.items()}
        # One compiled call reads all vectors and another one loads them, so no thread sees half of a state.
        views.assign(flat(out), flat(vectors))
        return {STATE_NAMES[name]: vector for name, vector in out.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the parameters: all of them or, after an error, none.

        Parameters
        ----------
        state : mapping of str to array_like
            As `state_dict` returns it, or the state of the PyTorch module of the same name.

        Raises
        ------
        TypeError
            If a value is not an array of floating-point numbers.
        ValueError
            If a name is missing or unknown, a shape does not fit, or a value is not finite.
        """
        loaded = self._checked(state)
        views.assign(flat(self._vectors()), flat(loaded))
        self._forget()

    def _checked(self, state: Mapping[str, Any], optional: Collection[str] = ()) -> dict[str, NDArray[Any]]:
        # The vectors of a state, by attribute; an array that was assigned may have another dtype than the layer.
        targets = {STATE_NAMES[name]: (name, vector.dtype.newbyteorder("="))
                   for name, vector in self._vectors().items()}
        return check_state(state, targets, self._shape, optional)

    def _vectors(self) -> dict[str, NDArray[Any]]:
        # The vectors of a state, by attribute.
        parameters = {"gamma": self.gamma, "beta": self.beta}
        return {name: vector for name, vector in parameters.items() if vector is not None}


def flat(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return views of arrays as vectors."""
    return {name: array.reshape(-1) for name, array in arrays.items()}


# Replaces the last forward pass; reading `_tape` is plain.
set_tape: Callable[[Norm, Tape | tuple[Any, Any, tuple[int, float]] | None], None] = Norm.__dict__["_tape"].__set__
