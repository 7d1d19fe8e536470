"""Convert the state and the momentum of a layer from one framework's convention to another's."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, TypedDict, overload

import numpy as np

from fastbn._core.checks import check_flag, check_integer, check_momentum
from fastbn.checkpoints.conventions import VECTORS, Convention, find
from fastbn.checkpoints.matching import checked_vectors, omissible, without_prefix
from fastbn.checkpoints.state import as_native

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DECIMAL = Context(prec=40)     # independent of the context of the calling thread


class ConversionOptions(TypedDict, total=False):
    """The keyword arguments of `convert` for what a state does not determine."""

    count: int | None
    keep_variance: bool
    fix_gamma: bool | None


def convert(
    state: Mapping[str, Any],
    source: str | Convention,
    target: str | Convention,
    *,
    count: int | None = None,
    keep_variance: bool = False,
    fix_gamma: bool | None = None,
    prefix: str = "",
) -> dict[str, NDArray[Any]]:
    """Convert the state of a batch normalization from one framework's convention to another's.

    The result has the names of the target, and its running variance is biased or unbiased as the target requires. If
    the target requires a gamma or beta that the source omits, gamma is 1 and beta is 0. A counter that the source lacks
    is 0. Entries that only fastbn has (see `fastbn.BatchNorm.state_dict`) are kept if the target is fastbn too.

    Parameters
    ----------
    state : mapping of str to array_like, shape (C,)
        Arrays, or PyTorch tensors on any device. float16 and bfloat16 become float32.
    source, target : str or Convention
        A name in `fastbn.checkpoints.CONVENTIONS`, or a custom convention.
    count : int, optional
        The number of values per channel in a training batch (N * H * W). Required if one framework averages unbiased
        variances and the other one biased variances, which differ by the factor count / (count - 1).
    keep_variance : bool
        Leave the running variance unchanged instead. Evaluation then gives the same result in both frameworks; further
        training moves the running variance by that factor.
    fix_gamma : bool, optional
        For an MXNet source: whether gamma is ignored and taken as 1 (the operator's default), or used (Gluon's).
        Required if the stored gamma is not 1.
    prefix : str
        The prefix of the names, in `state` and in the result. Other entries are ignored.

    Returns
    -------
    dict of str to ndarray
        New arrays.

    Raises
    ------
    TypeError
        If a value is not an array of floating-point numbers, or an argument has the wrong type.
    ValueError
        If a name is missing or unknown, a shape is not (C,), a value is not finite, a variance is negative, or `count`
        or `fix_gamma` is required.

    Examples
    --------
    >>> import fastbn
    >>> from fastbn.checkpoints import convert
    >>> state = fastbn.BatchNorm(2).state_dict()
    >>> keras = convert(state, "fastbn", "keras", count=33)
    >>> list(keras), keras["moving_variance"]
    (['gamma', 'beta', 'moving_mean', 'moving_variance'], array([0.969697, 0.969697], dtype=float32))
    """
    before, after = find(source, "source"), find(target, "target")
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, got {type(state).__name__}")
    own = without_prefix(state, prefix)
    vectors, tracked = checked_vectors(own, before)
    _apply_fix_gamma(vectors, before, fix_gamma)
    _rescale(vectors, before, after, count, keep_variance)
    _fill(vectors, after)
    names = after.names
    out = {prefix + names[vector]: vectors[vector] for vector in VECTORS if vector in vectors}
    if after.num_batches_tracked is not None and "running_mean" in vectors:
        out[prefix + after.num_batches_tracked] = np.array(tracked, np.int64)
    return out | {prefix + name: as_native(own[name]) for name in before.extra if name in own and name in after.extra}


@overload
def convert_momentum(momentum: float, source: str | Convention, target: str | Convention) -> float: ...


@overload
def convert_momentum(momentum: None, source: str | Convention, target: str | Convention) -> None: ...


def convert_momentum(
    momentum: float | None, source: str | Convention, target: str | Convention
) -> float | None:
    """Convert a momentum from one framework's convention to another's: momentum, or 1 - momentum.

    Parameters
    ----------
    momentum : float or None
        None is the average over all batches, which only PyTorch and fastbn support.
    source, target : str or Convention
        As in `convert`.

    Returns
    -------
    float or None

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If momentum is not between 0 and 1, or is None and one of the frameworks does not support this.

    Examples
    --------
    >>> from fastbn.checkpoints import convert_momentum
    >>> convert_momentum(0.1, "torch", "keras")
    0.9
    """
    before, after = find(source, "source"), find(target, "target")
    value = check_momentum(momentum)
    if value is None:
        for convention in (before, after):
            if convention.momentum_weighs == "running":
                raise ValueError(f"momentum is None, the average over all batches, which {convention.name} lacks")
        return None
    if before.momentum_weighs == after.momentum_weighs:
        return value
    # Decimal arithmetic, so that 0.99 becomes exactly 0.01, and 0.01 becomes exactly 0.99.
    return float(_DECIMAL.subtract(Decimal(1), Decimal(repr(value))))


def _apply_fix_gamma(vectors: dict[str, NDArray[Any]], source: Convention, fix_gamma: bool | None) -> None:
    if not source.may_fix_gamma:
        if fix_gamma is not None:
            raise ValueError(f"fix_gamma must be None, because {source.name} has no such option; got {fix_gamma!r}")
        return
    if fix_gamma is None:
        if (vectors["gamma"] != 1).any():
            raise ValueError(
                "fix_gamma must be True (gamma is ignored and taken as 1) or False (gamma is used), because "
                f"{source.gamma} has values other than 1 and {source.name} supports both")
    elif check_flag(fix_gamma, "fix_gamma"):
        vectors["gamma"] = np.ones_like(vectors["gamma"])


def _rescale(
    vectors: dict[str, NDArray[Any]], source: Convention, target: Convention, count: int | None, keep: bool
) -> None:
    if check_flag(keep, "keep_variance") and count is not None:
        raise ValueError(f"count must be None with keep_variance=True, got {count!r}")
    n = None if count is None else check_integer(count, "count", 2)
    if keep or "running_var" not in vectors or source.unbiased == target.unbiased:
        return
    kinds = {True: "unbiased", False: "biased"}
    if n is None:
        raise ValueError(
            f"count is needed: {source.name} has the {kinds[source.unbiased]} running variance and {target.name} the "
            f"{kinds[target.unbiased]} one. Pass the number of values per channel in a training batch (N * H * W) as "
            "count, or keep_variance=True to leave the variance unchanged")
    var = vectors["running_var"]
    factor = n / (n - 1) if target.unbiased else (n - 1) / n
    with np.errstate(over="ignore"):  # checked below
        scaled = np.multiply(var, factor, dtype=np.float64).astype(var.dtype)
    if not np.isfinite(scaled).all():
        raise ValueError(f"the {kinds[target.unbiased]} {target.running_var} is not finite in {var.dtype}")
    vectors["running_var"] = scaled


def _fill(vectors: dict[str, NDArray[Any]], target: Convention) -> None:
    like = next(iter(vectors.values()))
    omitted = omissible(vectors, target)
    for vector in VECTORS:
        if vector in vectors or vector in omitted:
            continue
        if vector not in ("gamma", "beta"):
            raise ValueError(f"state has no running averages, which {target.name} requires")
        vectors[vector] = np.ones_like(like) if vector == "gamma" else np.zeros_like(like)
