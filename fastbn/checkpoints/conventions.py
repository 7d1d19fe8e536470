"""How each framework names, orders and averages the state of a batch normalization: one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastbn.checkpoints.state import EXTRA

VECTORS = ("gamma", "beta", "running_mean", "running_var")
COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Convention:
    """How one framework keeps a batch normalization.

    Derive a variant with ``dataclasses.replace``; wherever a convention is asked for, it will do in place of a name.

    Attributes
    ----------
    name : str
    gamma, beta, running_mean, running_var : str
        What the framework calls these vectors.
    num_batches_tracked : str or None
        What it calls the counter of training batches, if there is one.
    eps : float
        Its default.
    momentum : float
        Its default, as the framework means it.
    momentum_weighs : {"batch", "running"}
        What momentum is the weight of: the new batch's statistics, or the running ones.
    axis : int
        Its default channel axis.
    unbiased : bool
        Whether the running variance averages unbiased variances, n / (n - 1) times the biased ones.
    optional : tuple of tuple of str
        Which vectors a state may do without: those of one group, or of several, but all of each.
    may_fix_gamma : bool
        Whether the framework has a mode in which gamma is stored and ignored.
    extra : tuple of str
        Names that a state may have beside these; they are kept where the target of a conversion has them too.

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
        """What this framework calls each vector and the counter, by fastbn's attribute."""
        counter = {} if self.num_batches_tracked is None else {COUNTER: self.num_batches_tracked}
        return {vector: getattr(self, vector) for vector in VECTORS} | counter


_EACH = (("gamma",), ("beta",))
_RUNNING = ("running_mean", "running_var")

CONVENTIONS = {convention.name: convention for convention in (
    # The names of fastbn's state are PyTorch's, but which variance it averages is an option of the layer.
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
"""By name: fastbn, torch, keras, flax, paddle, mxnet, onnx."""


def find(convention: str | Convention, name: str = "convention") -> Convention:
    """Return a convention by its name, or itself; the argument is called `name` in errors."""
    if isinstance(convention, Convention):
        return convention
    if not isinstance(convention, str):
        raise TypeError(f"{name} must be a name or a Convention, got {type(convention).__name__}")
    if convention not in CONVENTIONS:
        raise ValueError(f"{name} must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    return CONVENTIONS[convention]
