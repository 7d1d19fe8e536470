"""Layers from PyTorch modules."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fastbn._core.checks import counted
from fastbn._core.overrides import check_methods
from fastbn.checkpoints.build import build, construct
from fastbn.checkpoints.conventions import FASTBN
from fastbn.checkpoints.conversion import convert

if TYPE_CHECKING:
    from fastbn.checkpoints.protocol import Layer
    from fastbn.checkpoints.settings import Settings

MODULES = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
LAZY = ("LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d")


def from_torch(layer_type: type[Layer], module: Any) -> Layer:
    """Create a layer with the state, the settings and the mode of a PyTorch module.

    Parameters
    ----------
    layer_type : type
        The class of the layer.
    module : torch.nn.BatchNorm1d, BatchNorm2d, BatchNorm3d or SyncBatchNorm
        See `fastbn.BatchNorm.from_torch`.

    Returns
    -------
    layer_type

    Raises
    ------
    TypeError, ValueError
        As `fastbn.BatchNorm.from_torch`.

    Examples
    --------
    >>> import torch
    >>> from fastbn import BatchNorm, checkpoints
    >>> bn = checkpoints.from_torch(BatchNorm, torch.nn.BatchNorm2d(8, eps=1e-3).eval())
    >>> bn.num_features, bn.eps, bn.training
    (8, 0.001, False)
    """
    torch = sys.modules.get("torch")  # imported, if the argument is a module of PyTorch
    if torch is not None and isinstance(module, _types(torch, LAZY)):
        raise ValueError(f"module is a {type(module).__name__} without parameters; run a batch through it first")
    if torch is None or not isinstance(module, _types(torch, MODULES)):
        raise TypeError(f"module must be one of torch.nn.{', '.join(MODULES)}, got {type(module).__name__}")
    _check_module(module, _types(torch, MODULES))
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise ValueError("module has tensors on the device meta, which hold no values; load its state on a real device")
    settings: Settings = {"eps": module.eps, "momentum": module.momentum}
    state = module.state_dict()
    if state:
        layer = build(layer_type, convert(state, "torch", FASTBN), **settings)
    else:
        layer = construct(layer_type, module.num_features, affine=False, track_running_stats=False, **settings)
    layer.train(module.training)
    return layer


def _check_module(module: Any, bases: tuple[type[Any], ...]) -> None:
    # Refuse modules that do not compute what their state describes.
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


def _types(torch: Any, names: tuple[str, ...]) -> tuple[type[Any], ...]:
    return tuple(getattr(torch.nn, name) for name in names)
