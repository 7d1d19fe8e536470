"""Layer normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_flag
from fastbn.checkpoints.kinds import register_whole
from fastbn.functional import trailing
from fastbn.layers.attributes import check_affine
from fastbn.layers.trailing import TrailingNorm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn._core.saved_rows import RowSaved


@register_whole
class LayerNorm(TrailingNorm):
    """Layer normalization over trailing axes, like ``torch.nn.LayerNorm``.

    y = (x - mean) / sqrt(var + eps) * gamma + beta, with the mean and the biased variance over the trailing axes at
    each position of the other axes. Training and evaluation compute the same. After Ba, Kiros and Hinton (2016),
    "Layer Normalization", https://arxiv.org/abs/1607.06450.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The shape of the trailing axes; an integer stands for the last axis.
    eps : float
        Added to the variance. With 0, y is NaN where the variance is zero.
    elementwise_affine : bool
        Whether the layer has gamma and beta.
    bias : bool
        Whether it has beta if it has gamma.
    scale, center : bool, optional
        Whether it has gamma, and beta, as `BatchNorm`; by default `elementwise_affine`, and `elementwise_affine` and
        `bias`.
    dtype : dtype or None
        float32 (also for None) or float64, of parameters. x may have another dtype, also float16 or bfloat16; y has the
        dtype of x.
    num_threads : int, optional
        For all calls of this layer; see `fastbn.set_num_threads`.

    Attributes
    ----------
    gamma, beta : ndarray, shape normalized_shape, or None
        Learnable scale and shift, 1 and 0 if None. Change them in place or assign arrays.
    normalized_shape : tuple of int
    elementwise_affine, affine, scale, center : bool
        Whether there is a gamma or a beta (the first two); a gamma; a beta. They follow from the arrays.
    training : bool
        The mode; see `train` and `eval`.
    grad_gamma, grad_beta : ndarray, shape normalized_shape, or None
        Gradients of the last `backward`; each call replaces them. None if `learn_affine` is False.
    learn_affine : bool
        Whether `backward` leaves these gradients; True by default.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    Assignments to attributes are checked as in `BatchNorm`; normalized_shape and dtype cannot be assigned.
    ``copy.copy``, ``copy.deepcopy`` and pickles make an independent layer, without the last forward pass.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> ln = fastbn.LayerNorm(4)
    >>> x = np.random.default_rng(0).normal(5, 2, (2, 3, 4)).astype(np.float32)
    >>> y = ln(x)
    >>> bool(abs(y.mean(axis=-1)).max() < 1e-6)
    True
    >>> dx = ln.backward(np.ones_like(y))
    >>> ln.grad_beta
    array([6., 6., 6., 6.], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        scale: bool | None = None,
        center: bool | None = None,
        dtype: DTypeLike | None = np.float32,
        num_threads: int | None = None,
    ) -> None:
        if not check_flag(bias, "bias") and center is None:
            center = False
        super().__init__(
            normalized_shape, eps=eps, dtype=dtype, num_threads=num_threads,
            **check_affine(elementwise_affine, scale, center, "elementwise_affine"))

    def _hidden(self) -> tuple[str, ...]:
        return "bias",          # center

    def _train(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> tuple[NDArray[Any], RowSaved]:
        return trailing.train(
            views.rows(x, self.normalized_shape), self.gamma, self.beta, self.normalized_shape, eps=self.eps,
            about_zero=False, residual=residual, activation=activation, out=out, num_threads=self.num_threads)

    def _infer(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        return trailing.infer(
            views.rows(x, self.normalized_shape), self.gamma, self.beta, self.normalized_shape, eps=self.eps,
            about_zero=False, residual=residual, activation=activation, out=out, num_threads=self.num_threads)

    def _derive(self, dy: ArrayLike, x: ArrayLike, saved: RowSaved, out: NDArray[Any] | None) -> tuple[Any, ...]:
        return trailing.gradients(
            dy, x, saved, self.gamma, about_zero=False, out=out, num_threads=self.num_threads, parameters=self.affine)
