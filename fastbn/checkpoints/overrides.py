"""Objects of other frameworks that compute something else than their class says: they are refused."""

from __future__ import annotations

from typing import Any


def check_methods(value: object, name: str, base: type[Any], methods: tuple[str, ...]) -> None:
    """Raise an error if an object has other methods than a class that it is of.

    Parameters
    ----------
    value : object
        An instance of `base`.
    name : str
        What the argument is called.
    base : type
    methods : tuple of str
        Those that compute the result.

    Raises
    ------
    TypeError
        If a subclass, or the object itself, replaces one of them.
    """
    kind = type(value)
    for method in methods:
        if method in vars(value) or getattr(kind, method) is not getattr(base, method):
            raise TypeError(
                f"{name} of class {kind.__name__} has a {method} of its own, whose result may be another than that of "
                f"{base.__name__}; expected a plain {base.__name__}. To leave the rest out, load its state into a "
                "BatchNorm")


def check_module(module: Any, bases: tuple[type[Any], ...]) -> None:
    """Raise an error unless a module of PyTorch computes what batch normalization does.

    Raises
    ------
    TypeError
        If it has a forward of its own.
    ValueError
        If it has parametrizations, or forward hooks.
    """
    parametrized = getattr(module, "parametrizations", None)
    if parametrized:
        raise ValueError(f"module has parametrizations of {', '.join(parametrized)}; remove them first, with "
                         "torch.nn.utils.parametrize.remove_parametrizations")
    base = next(base for base in type(module).__mro__ if base in bases)
    check_methods(module, "module", base, ("forward", "__call__", "_call_impl"))
    hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
    if hooks:
        raise ValueError(f"module has {hooks} forward hook{'s' * (hooks > 1)}, which may change its result; remove "
                         "them first, or load module.state_dict() into a BatchNorm")
