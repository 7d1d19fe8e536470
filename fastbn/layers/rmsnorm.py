"""Root mean square normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_eps, check_flag
from fastbn.checkpoints.kinds import register_whole
from fastbn.functional import trailing
from fastbn.functional.rmsnorm import eps_of
from fastbn.layers.attributes import Check, refusal
from fastbn.layers.trailing import TrailingNorm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn._core.saved_rows import RowSaved


@register_whole
class RMSNorm(TrailingNorm):
    """Root mean square normalization over trailing axes, like ``torch.nn.RMSNorm``.

    y = x / sqrt(mean(x**2) + eps) * gamma, with the mean over the trailing axes at each position of the other axes.
    Training and evaluation compute the same. After Zhang and Sennrich (2019), "Root Mean Square Layer Normalization",
    https://arxiv.org/abs/1910.07467.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The shape of the trailing axes; an integer stands for the last axis.
    eps : float or None
        Added to the mean square. None is 2**-52 for x of float64, else 2**-23, which is what PyTorch computes with.
        With 0, y is NaN where all values are zero.
    elementwise_affine : bool
        Whether the layer has gamma.
    dtype : dtype or None
        float32 (also for None) or float64, of gamma. x may have another dtype, also float16 or bfloat16; y has the
        dtype of x.
    num_threads : int, optional
        For all calls of this layer; see `fastbn.set_num_threads`.

    Attributes
    ----------
    gamma : ndarray, shape normalized_shape, or None
        Learnable scale, 1 if None. Change it in place or assign an array.
    beta, grad_beta : None
    normalized_shape : tuple of int
    elementwise_affine, affine, scale : bool
        Whether there is a gamma.
    training : bool
        The mode; see `train` and `eval`.
    grad_gamma : ndarray, shape normalized_shape, or None
        Gradient of the last `backward`; each call replaces it. None if `learn_affine` is False.
    learn_affine : bool
        Whether `backward` leaves this gradient; True by default.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    Assignments to attributes are checked as in `BatchNorm`; normalized_shape, dtype and beta cannot be assigned.
    ``copy.copy``, ``copy.deepcopy`` and pickles make an independent layer, without the last forward pass.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> rms = fastbn.RMSNorm(2)
    >>> rms(np.array([[1.0, 7.0]])).round(3)
    array([[0.2, 1.4]])
    >>> dx = rms.backward(np.array([[5.0, 0.0]]))
    >>> rms.grad_gamma
    array([1., 0.], dtype=float32)
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        **TrailingNorm._checks,
        "eps": lambda _, value, name: None if value is None else check_eps(value),
        "beta": refusal("an RMS norm has none"),
    }
    _instead: ClassVar[Mapping[str, str]] = {**TrailingNorm._instead, "bias": "an RMS norm has none"}

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: DTypeLike | None = np.float32,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(
            normalized_shape, eps=eps, scale=check_flag(elementwise_affine, "elementwise_affine"), center=False,
            dtype=dtype, num_threads=num_threads)

    def _train(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> tuple[NDArray[Any], RowSaved]:
        view = views.rows(x, self.normalized_shape)
        return trailing.train(
            view, self.gamma, None, self.normalized_shape, eps=eps_of(self.eps, view.array.dtype), about_zero=True,
            residual=residual, activation=activation, out=out, num_threads=self.num_threads)

    def _infer(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        view = views.rows(x, self.normalized_shape)
        return trailing.infer(
            view, self.gamma, None, self.normalized_shape, eps=eps_of(self.eps, view.array.dtype), about_zero=True,
            residual=residual, activation=activation, out=out, num_threads=self.num_threads)

    def _derive(self, dy: ArrayLike, x: ArrayLike, saved: RowSaved, out: NDArray[Any] | None) -> tuple[Any, ...]:
        return trailing.gradients(
            dy, x, saved, self.gamma, about_zero=True, out=out, num_threads=self.num_threads, parameters=self.affine)
