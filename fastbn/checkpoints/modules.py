"""Modules of PyTorch that compute something else than batch normalization: they are refused."""

from __future__ import annotations

from typing import Any

from fastbn._core.checks import counted
from fastbn._core.overrides import check_methods


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
        raise ValueError(f"module has {counted(hooks, 'forward hook')}, which may change its result; remove "
                         "them first, or load module.state_dict() into a BatchNorm")
