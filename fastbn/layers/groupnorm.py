"""Group normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastbn._core.checks import check_flag, check_integer, check_size
from fastbn.checkpoints.kinds import register_whole
from fastbn.functional import groupnorm
from fastbn.layers.attributes import Check, check_affine, check_channel_axis, refusal, set_unchecked
from fastbn.layers.samplenorm import SampleNorm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn._core.saved_groups import GroupSaved


@register_whole
class GroupNorm(SampleNorm):
    """Group normalization of the channels of each sample, like ``torch.nn.GroupNorm``.

    y = (x - mean) / sqrt(var + eps) * gamma + beta, with the mean and the biased variance of num_channels / num_groups
    consecutive channels of a sample. Training and evaluation mode compute the same. One group is layer norm over all
    axes after the first, and a group per channel is instance norm. After Wu and He (2018), "Group Normalization",
    https://arxiv.org/abs/1803.08494.

    Parameters
    ----------
    num_groups : int
        Number of groups, a divisor of num_channels.
    num_channels : int
        Number of channels, C.
    eps : float
        Added to the variance. With 0, a group of zero variance gives NaN.
    affine : bool
        Whether the layer has gamma and beta.
    axis : int
        The channel axis: 1 for NCHW, -1 for NHWC. The first axis is that of the samples.
    scale, center : bool, optional
        Whether it has gamma, and beta; `affine` by default. ``center=False`` is PyTorch's ``bias=False``.
    per_group : bool
        Whether gamma and beta have one value per group, as in ONNX before opset 21.
    dtype : dtype or None
        float32 (also for None) or float64, of the parameters. x may have another dtype, also float16 or bfloat16; y has
        the dtype of x.
    num_threads : int, optional
        For all calls of this layer; see `fastbn.set_num_threads`.

    Attributes
    ----------
    gamma, beta : ndarray, shape (C,) or (num_groups,), or None
        Learnable scale and shift, 1 and 0 if None. Change them in place or assign arrays.
    affine, scale, center : bool
        Whether there is a gamma or a beta; a gamma; a beta. They follow from the arrays.
    training : bool
        The mode; see `train` and `eval`.
    grad_gamma, grad_beta : ndarray, shape of gamma, or None
        Gradients of the last `backward`; each call replaces them. None if `learn_affine` is False.
    learn_affine : bool
        Whether `backward` leaves these gradients; True by default.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; in a call also for a single sample with one value per group, as in PyTorch.

    Notes
    -----
    Assignments to attributes are checked as the arguments of the constructor. num_groups, num_channels, per_group,
    dtype, and names that the layer does not have cannot be assigned (AttributeError). ``copy.copy``, ``copy.deepcopy``
    and pickles make an independent layer, without the last forward pass.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> gn = fastbn.GroupNorm(2, 4)
    >>> x = np.random.default_rng(0).normal(5, 2, (8, 4, 3, 3)).astype(np.float32)
    >>> y = gn(x)
    >>> bool(abs(y.reshape(8, 2, -1).mean(axis=2)).max() < 1e-6)
    True
    >>> dx = gn.backward(np.ones_like(y))
    >>> gn.grad_beta
    array([72., 72., 72., 72.], dtype=float32)
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        **SampleNorm._checks,
        "axis": check_channel_axis,
        "num_groups": refusal("make a new layer"),
        "num_channels": refusal("make a new layer"),
        "per_group": refusal("make a new layer"),
    }

    num_groups: int
    num_channels: int
    axis: int
    per_group: bool

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        axis: int = 1,
        scale: bool | None = None,
        center: bool | None = None,
        per_group: bool = False,
        dtype: DTypeLike | None = np.float32,
        num_threads: int | None = None,
    ) -> None:
        groups = check_integer(num_groups, "num_groups", 1)
        channels = check_size(num_channels, "num_channels")
        if channels % groups:
            raise ValueError(f"num_groups must divide num_channels, got {groups} and {channels}")
        set_unchecked(self, "num_groups", groups)
        set_unchecked(self, "num_channels", channels)
        set_unchecked(self, "per_group", check_flag(per_group, "per_group"))
        self.axis = axis
        super().__init__(
            (groups if self.per_group else channels,), eps=eps, dtype=dtype, num_threads=num_threads,
            **check_affine(affine, scale, center))

    def _positional(self) -> list[str]:
        return [str(self.num_groups), str(self.num_channels)]

    def _train(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> tuple[NDArray[Any], GroupSaved]:
        view = groupnorm.group_view(x, self.num_groups, self.axis, self.num_channels)
        return groupnorm.train(
            view, self.num_groups, self.gamma, self.beta, eps=self.eps, residual=residual, activation=activation,
            out=out, num_threads=self.num_threads)

    def _infer(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        view = groupnorm.group_view(x, self.num_groups, self.axis, self.num_channels)
        return groupnorm.infer(
            view, self.num_groups, self.gamma, self.beta, eps=self.eps, residual=residual, activation=activation,
            out=out, num_threads=self.num_threads)

    def _derive(self, dy: ArrayLike, x: ArrayLike, saved: GroupSaved, out: NDArray[Any] | None) -> tuple[Any, ...]:
        return groupnorm.group_norm_backward(
            dy, x, saved, self.gamma, axis=self.axis, out=out, num_threads=self.num_threads)
