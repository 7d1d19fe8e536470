"""The options of batch norm: frozen modes, single values, virtual batches, and several channel axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fastbn._core import views
from fastbn._core.checks import check_choice, check_flag, check_integer
from fastbn.checkpoints.settings import KEEP, ON_SINGLE
from fastbn.functional.ghost import samples_are_channels
from fastbn.layers.attributes import Check, set_unchecked
from fastbn.layers.converted import ConvertedNorm
from fastbn.layers.single import Singles

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from typing_extensions import Self

    from fastbn._core.checks import Axis
    from fastbn.checkpoints.settings import Keep, OnSingle


def check_features(value: object) -> int | tuple[int, ...]:
    """Return a number of channels, or the numbers along several axes."""
    if isinstance(value, tuple):
        if not value:
            raise ValueError("num_features is empty; expected the number of channels along each axis")
        return tuple(check_integer(size, "num_features", 1) for size in value)
    return check_integer(value, "num_features", 1)


def check_axis(layer: NormWithOptions, value: Any, name: str) -> Axis:
    """Return an axis, or several as a tuple."""
    if not isinstance(value, (tuple, list)):
        axes: Axis = check_integer(value, name)
    elif not value:
        raise ValueError(f"{name} is {value!r}; expected one or more axes")
    else:
        axes = tuple(check_integer(axis, name) for axis in value)
        if len({*axes}) < len(axes):
            raise ValueError(f"{name} is {value!r}; expected each axis once")
    if getattr(layer, "virtual_batch_size", None) is not None:
        refuse_samples(axes, name)
    sizes = layer._channels
    if isinstance(sizes, tuple) and (isinstance(axes, int) or len(axes) != len(sizes)):
        raise ValueError(f"{name} is {value!r}; expected {len(sizes)} axes, one for each number in num_features, "
                         f"{sizes}")
    return axes


def refuse_samples(axes: Axis, name: str) -> None:
    """Raise an error for channels along the axis of the samples, which a virtual batch size divides."""
    if 0 in (axes if isinstance(axes, tuple) else (axes,)):
        raise samples_are_channels(name, axes)


def check_use(layer: NormWithOptions, value: Any, name: str) -> bool:
    """Return a bool; True only in a layer with running averages."""
    flag = check_flag(value, name)
    if flag and not layer.track_running_stats:
        raise ValueError(f"{name} must be False with track_running_stats=False, got True")
    return flag


def check_on_single(layer: NormWithOptions, value: object, name: str) -> str:
    """Return a choice; others than "raise" only without a virtual batch size."""
    choice = check_choice(value, name, ON_SINGLE)
    if choice != "raise" and layer.virtual_batch_size is not None:
        raise ValueError(f"{name} must be 'raise' with a virtual_batch_size, got {choice!r}")
    if choice == "running" and not layer.track_running_stats:
        raise ValueError(f"{name} must not be 'running' with track_running_stats=False")
    return choice


def check_virtual(layer: NormWithOptions, value: object, name: str) -> int | None:
    """Return None or a number of samples; a number only if a single value is an error."""
    if value is None:
        return None
    size = check_integer(value, name, 1)
    if layer.on_single != "raise":
        raise ValueError(f"{name} must be None with on_single={layer.on_single!r}, got {size}")
    if layer.keep == "output":
        raise ValueError(f"{name} must be None with keep='output', got {size}")
    refuse_samples(layer.axis, "axis")
    return size


def check_keep(layer: NormWithOptions, value: object, name: str) -> str:
    """Return a choice; "output" only without a virtual batch size."""
    choice = check_choice(value, name, KEEP)
    if choice == "output" and layer.virtual_batch_size is not None:
        raise ValueError(f"{name} must be 'input' with a virtual_batch_size, got {choice!r}")
    return choice


class NormWithOptions(ConvertedNorm):
    """A layer with the options of batch norm, which the forward passes read.

    Attributes
    ----------
    use_running_stats : bool
        Whether training normalizes by the running averages, which are constants in the gradient.
    update_running_stats : bool
        Whether the running averages follow training batches.
    on_single : {"raise", "zero", "running"}
    virtual_batch_size : int or None
    keep : {"input", "output"}
        What the backward pass reads.
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        **ConvertedNorm._checks,
        "axis": check_axis,
        "use_running_stats": check_use,
        "update_running_stats": lambda _, value, name: check_flag(value, name),
        "on_single": check_on_single,
        "virtual_batch_size": check_virtual,
        "keep": check_keep,
    }
    _modes: ClassVar[Mapping[str, bool]] = {
        **ConvertedNorm._modes, "use_running_stats": False, "update_running_stats": True}

    use_running_stats: bool
    update_running_stats: bool
    on_single: OnSingle
    virtual_batch_size: int | None
    keep: Keep
    _channels: int | tuple[int, ...]        # along the channel axis, or along each

    def _set_options(self, on_single: OnSingle, virtual_batch_size: int | None, keep: Keep) -> None:
        # Each is checked against the others.
        set_unchecked(self, "virtual_batch_size", None)
        self.on_single, self.keep = on_single, keep
        self.virtual_batch_size = virtual_batch_size

    def _positional(self) -> list[str]:
        return [str(self._channels)]

    def _view(self, x: ArrayLike) -> views.View:
        return views.view(x, self.axis, self._channels)

    def _singles(self) -> Singles:
        averages = self.track_running_stats and self.on_single == "running"
        return Singles(self.on_single, self._constant_statistics() if averages else None)

    def freeze(
        self, *, use_running_stats: bool = True, update_running_stats: bool = False, learn_affine: bool = False
    ) -> Self:
        """Freeze the layer for fine-tuning: set three modes, which `train` and `eval` do not change.

        With ``use_running_stats=True`` training normalizes by the running averages, as evaluation does, and
        dx = gamma * rstd * dy. `frozen` is something else: it returns the transform of evaluation mode.

        Parameters
        ----------
        use_running_stats, update_running_stats, learn_affine : bool
            The attributes of these names. By default all of the layer is constant, as in torchvision's
            FrozenBatchNorm2d and in Keras with ``trainable=False``; ``freeze(learn_affine=True)`` freezes the
            statistics alone.

        Returns
        -------
        layer
            The layer itself.

        Raises
        ------
        TypeError, ValueError
            If an argument is not a bool, or `use_running_stats` is True in a layer without running averages.

        Examples
        --------
        >>> import numpy as np
        >>> import fastbn
        >>> bn = fastbn.BatchNorm(1).freeze()
        >>> y = bn.train()(np.array([[3.0], [5.0]]))
        >>> y.round(3).tolist(), bn.running_mean
        ([[3.0], [5.0]], array([0.], dtype=float32))
        >>> bn
        BatchNorm(1, learn_affine=False, use_running_stats=True, update_running_stats=False)
        """
        modes = {"use_running_stats": use_running_stats, "update_running_stats": update_running_stats,
                 "learn_affine": learn_affine}
        checked = {name: self._checks[name](self, value, name) for name, value in modes.items()}
        for name, value in checked.items():
            set_unchecked(self, name, value)
        return self

    def unfreeze(self) -> Self:
        """Undo `freeze`: normalize by the batch in training mode, update the running averages, learn gamma and beta.

        Returns
        -------
        layer
            The layer itself.
        """
        return self.freeze(use_running_stats=False, update_running_stats=True, learn_affine=True)
