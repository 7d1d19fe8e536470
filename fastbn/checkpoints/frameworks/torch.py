"""Layers from PyTorch modules."""

from __future__ import annotations

import sys
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import counted
from fastbn._core.overrides import check_methods
from fastbn.checkpoints.build import build, construct
from fastbn.checkpoints.conventions import FASTBN
from fastbn.checkpoints.conversion import convert
from fastbn.checkpoints.kinds import check_class, is_whole, name_of
from fastbn.checkpoints.state import as_native

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastbn.checkpoints.protocol import Layer
    from fastbn.checkpoints.settings import Settings

BATCH = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
# Of a layer that is stored as a whole: the modules, and their settings, by the name of its class.
SIBLINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "LayerNorm": (("LayerNorm",), ("normalized_shape", "eps")),
    "RMSNorm": (("RMSNorm",), ("normalized_shape", "eps")),
    "GroupNorm": (("GroupNorm",), ("num_groups", "num_channels", "eps")),
    "InstanceNorm": (("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
                     ("num_features", "eps", "momentum", "track_running_stats")),
}
LAZY = tuple(f"Lazy{kind}Norm{rank}d" for kind in ("Batch", "Instance") for rank in (1, 2, 3))


def from_torch(layer_type: type[Layer], module: Any) -> Layer:
    """Create a layer with the state, the settings and the mode of a PyTorch module.

    Parameters
    ----------
    layer_type : type
        The class of the layer.
    module : torch.nn.Module
        See the `from_torch` of the class.

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
    check_class(layer_type)
    torch = sys.modules.get("torch")  # imported, if the argument is a module of PyTorch
    if torch is not None and isinstance(module, _types(torch, LAZY)):
        raise ValueError(f"module is a {type(module).__name__} without parameters; run a batch through it first")
    kind = name_of(layer_type) or ""
    modules, names = SIBLINGS.get(kind, ((), ())) if is_whole(layer_type) else (BATCH, ())
    if not modules:
        raise TypeError(f"PyTorch has no module that is a {kind}")
    if torch is None or not isinstance(module, _types(torch, modules)):
        expected = f"one of torch.nn.{', '.join(modules)}" if len(modules) > 1 else f"a torch.nn.{modules[0]}"
        raise TypeError(f"module must be {expected}, got {type(module).__name__}")
    _check_module(module, _types(torch, modules))
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise ValueError("module has tensors on the device meta, which hold no values; load its state on a real device")
    state = module.state_dict()
    if names:
        return _sibling(layer_type, module, state, {name: getattr(module, name) for name in names})
    settings: Settings = {"eps": module.eps, "momentum": module.momentum}
    if state:
        layer = build(layer_type, convert(state, "torch", FASTBN), **settings)
    else:
        layer = construct(layer_type, module.num_features, affine=False, track_running_stats=False, **settings)
    layer.train(module.training)
    return layer


def _sibling(
    layer_type: type[Layer], module: Any, state: Mapping[str, Any], arguments: dict[str, Any]
) -> Layer:
    # A layer that is stored as a whole; what a class cannot have, as the beta of RMS norm, is no argument of it.
    vectors = {name: as_native(value) if value.is_floating_point() else value.cpu().numpy()
               for name, value in state.items()}
    wide = any(array.dtype == np.float64 for array in vectors.values())
    options = {"elementwise_affine": "weight" in state, "scale": "weight" in state, "center": "bias" in state,
               "dtype": np.float64 if wide else np.float32}
    if "momentum" in arguments and arguments["momentum"] is None:
        arguments["momentum"] = 0.0     # as an InstanceNorm of PyTorch takes it
    known = signature(layer_type).parameters
    constructor: Any = layer_type
    layer: Layer = constructor(**arguments, **{name: value for name, value in options.items() if name in known})
    layer.load_state_dict(vectors)
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
                         "them first, or load module.state_dict() into a layer of fastbn")


def _types(torch: Any, names: tuple[str, ...]) -> tuple[type[Any], ...]:
    return tuple(getattr(torch.nn, name) for name in names)
