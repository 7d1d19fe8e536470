"""How each framework names the state of a batch normalization, and what it averages: one table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fastbn.checkpoints.state import EXTRA

VECTORS = ("gamma", "beta", "running_mean", "running_var")
COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Convention:
    """The convention of one framework for the state of a batch normalization.

    Use ``dataclasses.replace`` to derive a custom convention. Functions that take the name of a convention accept a
    `Convention` too.

    Attributes
    ----------
    name : str
    gamma, beta, running_mean, running_var : str
        The framework's names of these vectors.
    num_batches_tracked : str or None
        The framework's name of the counter of training batches, or None without a counter.
    eps : float
        The default.
    momentum : float
        The default, in the framework's own definition.
    momentum_weighs : {"batch", "running"}
        Whether momentum is the weight of the new batch's statistics or of the running ones.
    axis : int
        The default channel axis.
    unbiased : bool
        Whether the running variance averages unbiased variances, n / (n - 1) times the biased ones.
    optional : tuple of tuple of str
        Groups of vectors that a state may omit. A group is omitted as a whole.
    may_fix_gamma : bool
        Whether the framework has a mode in which gamma is stored and ignored.
    extra : tuple of str
        Names of optional further entries, which a conversion keeps if the target has them too.

    Examples
    --------
    >>> from fastbn.checkpoints import CONVENTIONS
    >>> keras = CONVENTIONS["keras"]
    >>> keras.running_var, keras.momentum, keras.momentum_weighs, keras.unbiased
    ('moving_variance', 0.99, 'running', False)
    """

    name: str
    gamma: str
    beta: str
    running_mean: str
    running_var: str
    num_batches_tracked: str | None
    eps: float
    momentum: float
    momentum_weighs: Literal["batch", "running"]
    axis: int
    unbiased: bool
    optional: tuple[tuple[str, ...], ...]
    may_fix_gamma: bool = False
    extra: tuple[str, ...] = ()

    @property
    def names(self) -> dict[str, str]:
        """The framework's names of the vectors and of the counter, by fastbn's attribute."""
        counter = {} if self.num_batches_tracked is None else {COUNTER: self.num_batches_tracked}
        return {vector: getattr(self, vector) for vector in VECTORS} | counter


_EACH = (("gamma",), ("beta",))
_RUNNING = ("running_mean", "running_var")

CONVENTIONS = {convention.name: convention for convention in (
    # fastbn uses PyTorch's names. Each layer has a setting for the variance that it averages; see `averaging`.
    Convention("fastbn", "weight", "bias", "running_mean", "running_var", "num_batches_tracked",
               eps=1e-5, momentum=0.1, momentum_weighs="batch", axis=1, unbiased=True,
               optional=(*_EACH, _RUNNING), extra=EXTRA),
    Convention("torch", "weight", "bias", "running_mean", "running_var", "num_batches_tracked",
               eps=1e-5, momentum=0.1, momentum_weighs="batch", axis=1, unbiased=True,
               optional=(("beta",), ("gamma", "beta"), _RUNNING)),      # bias=False, affine=False
    Convention("keras", "gamma", "beta", "moving_mean", "moving_variance", None,
               eps=1e-3, momentum=0.99, momentum_weighs="running", axis=-1, unbiased=False, optional=_EACH),
    Convention("flax", "scale", "bias", "mean", "var", None,
               eps=1e-5, momentum=0.99, momentum_weighs="running", axis=-1, unbiased=False, optional=_EACH),
    Convention("paddle", "weight", "bias", "_mean", "_variance", None,
               eps=1e-5, momentum=0.9, momentum_weighs="running", axis=1, unbiased=False, optional=_EACH),
    Convention("mxnet", "gamma", "beta", "moving_mean", "moving_var", None,
               eps=1e-3, momentum=0.9, momentum_weighs="running", axis=1, unbiased=False, optional=(),
               may_fix_gamma=True),
    Convention("onnx", "scale", "B", "input_mean", "input_var", None,
               eps=1e-5, momentum=0.9, momentum_weighs="running", axis=1, unbiased=False, optional=()),
)}
"""The conventions by name: fastbn, torch, keras, flax, paddle, mxnet, onnx."""

FASTBN = CONVENTIONS["fastbn"]


def find(convention: str | Convention, name: str = "convention") -> Convention:
    """Return a convention, given itself or its name; errors call the argument `name`."""
    if isinstance(convention, Convention):
        return convention
    if not isinstance(convention, str):
        raise TypeError(f"{name} must be a name or a Convention, got {type(convention).__name__}")
    if convention not in CONVENTIONS:
        raise ValueError(f"{name} must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    return CONVENTIONS[convention]


def averaging(unbiased: bool) -> Convention:
    """Return fastbn's convention for a layer that averages unbiased, or biased, variances."""
    return replace(FASTBN, unbiased=unbiased)
