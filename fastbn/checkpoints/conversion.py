"""The state of a layer from one framework's convention to another's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import numpy as np

from fastbn._core.checks import check_flag, check_integer, check_momentum
from fastbn.checkpoints.conventions import COUNTER, VECTORS, Convention, find

if TYPE_CHECKING:
    from numpy.typing import NDArray

Value = TypeVar("Value")
_DECIMAL = Context(prec=40)     # not the thread's, which belongs to the caller


class Choices(TypedDict, total=False):
    """What the conventions leave open; `convert` documents them."""

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
    """Return a state under another framework's names, and its running variance as that framework averages it.

    A gamma or beta that the source does without and the target does not is 1 or 0. A counter that the source does not
    have is 0. What fastbn has beyond PyTorch's names (`BatchNorm.state_dict`) stays where the target is fastbn too.

    Parameters
    ----------
    state : mapping of str to array_like, shape (C,)
        Float16 and bfloat16 become float32. Tensors of PyTorch, wherever they are, will do.
    source, target : str or Convention
        A name in `fastbn.checkpoints.CONVENTIONS`, or a convention of your own.
    count : int, optional
        Values per channel in a training batch (N * H * W), needed where one of the two averages unbiased variances and
        the other biased ones: they differ by the factor count / (count - 1).
    keep_variance : bool
        Leave the running variance as it is instead. Evaluation then gives the same result in both frameworks; in
        further training the running variance drifts by that factor.
    fix_gamma : bool, optional
        Of an MXNet source: whether gamma is ignored and 1 (the operator's default) or used (Gluon's). Needed where the
        gamma stored is not 1.
    prefix : str
        What precedes the names, in `state` and in the result; entries without it are left out.

    Returns
    -------
    dict of str to ndarray
        New arrays.

    Raises
    ------
    TypeError
        If a value is not an array of floating-point numbers, or an argument is of the wrong type.
    ValueError
        If a name is missing or unknown, a shape is not (C,), a value is not finite, a variance is negative, or `count`
        or `fix_gamma` is needed.

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
    vectors, tracked = check_state(own, before)
    _apply_fix_gamma(vectors, before, fix_gamma)
    _rescale(vectors, before, after, count, keep_variance)
    _fill(vectors, after)
    names = after.names
    out = {prefix + names[vector]: vectors[vector] for vector in VECTORS if vector in vectors}
    if after.num_batches_tracked is not None and "running_mean" in vectors:
        out[prefix + after.num_batches_tracked] = np.array(tracked, np.int64)
    return out | {prefix + name: as_array(own[name]) for name in before.extra if name in own and name in after.extra}


def convert_momentum(
    momentum: float | None, source: str | Convention, target: str | Convention
) -> float | None:
    """Return what one framework's momentum is in another: itself, or 1 - momentum.

    Parameters
    ----------
    momentum : float or None
        None, the average over all batches, exists in PyTorch and fastbn alone.
    source, target : str or Convention

    Returns
    -------
    float or None

    Raises
    ------
    ValueError
        If momentum is not between 0 and 1, or None for a framework that has no such thing.

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
    # In decimal, so that 0.99 becomes the 0.01 that one would have written, and goes back to 0.99.
    return float(_DECIMAL.subtract(Decimal(1), Decimal(repr(value))))


def check_prefix(prefix: object) -> None:
    """Raise an error unless it is a string."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, got {prefix!r}")


def without_prefix(state: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Return the entries whose names begin with a prefix, without it."""
    check_prefix(prefix)
    if not all(isinstance(name, str) for name in state):
        raise TypeError(f"state must have strings as names, got {sorted({type(name).__name__ for name in state})}")
    own = {name[len(prefix):]: value for name, value in state.items() if name.startswith(prefix)}
    if not own:
        raise ValueError(f"state has no name that begins with {prefix!r}" if prefix else "state is empty")
    return own


def match(names: Collection[str], convention: Convention) -> dict[str, str]:
    """Return fastbn's name of each vector or counter that is there, with the name it has in a convention.

    Raises
    ------
    ValueError
        If a name that must be there is not, or there is another.
    """
    known = convention.names
    present = {vector for vector in VECTORS if known[vector] in names}
    spared = absent(present, convention)
    missing = [known[vector] for vector in VECTORS if vector not in present and vector not in spared]
    if not missing and not any(known[vector] in names for vector in VECTORS):
        missing = [known[vector] for vector in VECTORS]
    unknown = sorted(map(repr, set(names) - {*known.values(), *convention.extra}))
    if missing or unknown:
        wrong = [f"misses {', '.join(missing)}"] if missing else []
        wrong += [f"has also {abbreviated(unknown)}"] if unknown else []
        raise ValueError(f"state {' and '.join(wrong)}; expected {', '.join(known.values())} of {convention.name}")
    return {field: name for field, name in known.items() if name in names}


def absent(present: Collection[str], convention: Convention) -> set[str]:
    """Return the vectors that a state with some others does without, as the convention allows."""
    return {vector for group in convention.optional if not set(group) & set(present) for vector in group}


def abbreviated(texts: list[str], most: int = 4) -> str:
    """Return the first few texts, each cut to a readable length, and how many more there are."""
    shown = ", ".join(text if len(text) <= 80 else f"{text[:80]}..." for text in texts[:most])
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most} more"


def check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise an error unless these are (C,), with one C for all that is at least 1."""
    channels = None
    for name, shape in shapes.items():
        if len(shape) != 1 or shape[0] < 1 or channels not in (None, shape[0]):
            raise ValueError(f"{name} has shape {shape}; expected ({'C' if channels is None else channels},)")
        channels = shape[0]


def check_state(state: Mapping[str, Any], convention: Convention) -> tuple[dict[str, NDArray[Any]], int]:
    """Return new arrays of the vectors under fastbn's names, and the counter, or raise an error as `convert`."""
    names = match(state.keys(), convention)
    vectors = {vector: as_array(state[name]) for vector, name in names.items() if vector != COUNTER}
    check_shapes({names[vector]: array.shape for vector, array in vectors.items()})
    for vector, array in vectors.items():
        if array.dtype.kind != "f":
            raise TypeError(f"{names[vector]} has dtype {array.dtype}; expected a floating-point type")
        if not np.isfinite(array).all():
            raise ValueError(f"{names[vector]} has values that are not finite")
    if "running_var" in vectors and (vectors["running_var"] < 0).any():
        raise ValueError(f"{names['running_var']} has negative values, down to {vectors['running_var'].min()}")
    tracked = _tracked(as_array(state[names[COUNTER]]), names[COUNTER]) if COUNTER in names else 0
    return vectors, tracked


def as_array(value: Any) -> NDArray[Any]:
    """Return an array of its own, in native byte order, of a value that may be a tensor; float32 instead of halves."""
    if hasattr(value, "detach"):  # a tensor of PyTorch: NumPy takes it from the CPU, without gradient, not as bfloat16
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    wide = np.dtype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array.dtype.newbyteorder("=")
    return array.astype(wide)


def _tracked(array: NDArray[Any], name: str) -> int:
    # Some writers keep the counter in a float, or in an array of one.
    if array.dtype.kind not in "iuf" or array.size != 1:
        raise TypeError(f"{name} must be one integer, got dtype {array.dtype} and shape {array.shape}")
    value = array.reshape(()).item()
    if not 0 <= value < 1 << 63 or value != int(value):
        raise ValueError(f"{name} must be an integer from 0 to 2**63 - 1, got {value}")
    return int(value)


def _apply_fix_gamma(vectors: dict[str, NDArray[Any]], source: Convention, fix_gamma: bool | None) -> None:
    if not source.may_fix_gamma:
        if fix_gamma is not None:
            raise ValueError(f"fix_gamma must be None, because {source.name} has no such option; got {fix_gamma!r}")
        return
    if fix_gamma is None:
        if (vectors["gamma"] != 1).any():
            raise ValueError(
                f"fix_gamma must be True (gamma is ignored, and 1) or False (it is used), because {source.gamma} has "
                f"values other than 1 and {source.name} has both")
    elif check_flag(fix_gamma, "fix_gamma"):
        vectors["gamma"] = np.ones_like(vectors["gamma"])


def _rescale(
    vectors: dict[str, NDArray[Any]], source: Convention, target: Convention, count: int | None, keep: bool
) -> None:
    if check_flag(keep, "keep_variance") and count is not None:
        raise ValueError(f"count must be None where keep_variance is True, got {count!r}")
    n = None if count is None else check_integer(count, "count", 2)
    if keep or "running_var" not in vectors or source.unbiased == target.unbiased:
        return
    kinds = {True: "unbiased", False: "biased"}
    if n is None:
        raise ValueError(
            f"count is needed: {source.name} has the {kinds[source.unbiased]} running variance and {target.name} the "
            f"{kinds[target.unbiased]} one. Pass the values per channel of a training batch (N * H * W) as count, or "
            "keep_variance=True to leave it as it is")
    var = vectors["running_var"]
    factor = n / (n - 1) if target.unbiased else (n - 1) / n
    with np.errstate(over="ignore"):  # seen below
        scaled = np.multiply(var, factor, dtype=np.float64).astype(var.dtype)
    if not np.isfinite(scaled).all():
        raise ValueError(f"the {kinds[target.unbiased]} {target.running_var} is not finite in {var.dtype}")
    vectors["running_var"] = scaled


def _fill(vectors: dict[str, NDArray[Any]], target: Convention) -> None:
    like = next(iter(vectors.values()))
    spared = absent(vectors, target)
    for vector in VECTORS:
        if vector in vectors or vector in spared:
            continue
        if vector not in ("gamma", "beta"):
            raise ValueError(f"state has no running averages, and {target.name} does not do without")
        vectors[vector] = np.ones_like(like) if vector == "gamma" else np.zeros_like(like)
