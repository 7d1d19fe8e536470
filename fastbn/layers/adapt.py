"""Test-time adaptation: evaluation by a blend of stored statistics and those of the batch."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ContextDecorator
from typing import TYPE_CHECKING, Any

from fastbn._core.checks import check_number
from fastbn.layers.blend import Blend
from fastbn.layers.population import check_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastbn.layers.population import Layers
    from fastbn.layers.tracked import TrackedNorm


def adapt(bn_layers: Layers, *, n0: float) -> AbstractContextManager[None]:
    """Let evaluation mode normalize by a blend of stored statistics and those of each batch, in a ``with`` block.

    With the stored mean_s and var_s, and mean_t and var_t (biased) of a test batch of n samples, ::

        mean = (n0 mean_s + n mean_t) / (n0 + n),    var = (n0 var_s + n var_t) / (n0 + n)

    The prior strength n0 is the number of samples that the stored statistics count as. After Schneider et al. (2020),
    "Improving Robustness Against Common Corruptions by Covariate Shift Adaptation", https://arxiv.org/abs/2006.16971.
    As in the paper, var is the weighted mean of the two variances; it does not include the difference of the means.
    With ``n0=0`` only the batch counts; with ``n0=math.inf`` only the stored statistics, as without adaptation.

    Parameters
    ----------
    bn_layers : BatchNorm, BatchRenorm or iterable of them
        Layers with running averages, in evaluation mode. Calls in training mode do as always.
    n0 : float
        0 or more, possibly Inf.

    Returns
    -------
    context manager
        Use it in a ``with`` statement; the call alone has no effect. Blocks must nest, also in threads that share a
        layer.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    Nothing is stored: each call computes its own blend, the running averages do not change, and after the block
    evaluation is as before. A sample is one index of the first axis other than the channel axis, or one part of a
    jagged batch. With a mask or lengths, n is the number of samples that have a value that counts, in each channel, and
    does not depend on how many of their values count. A batch with a single value per channel needs an n0 above 0. A
    layer with ``keep="output"`` keeps x here, as with "input". In evaluation mode a `SyncBatchNorm` then blends with
    the batch of all ranks, and each call is a collective operation.

    `backward` computes the gradients of what the forward pass computed: with w = n / (n0 + n), N values per channel,
    x_hat = (x - mean) * rstd and sums over the batch, ::

        dbeta = sum dy,    dgamma = sum dy x_hat
        dx = gamma rstd (dy - w (dbeta + (x - mean_t) rstd dgamma) / N)

    so gamma and beta of all layers can be fitted to unlabelled data by the entropy of predictions, as in Wang et al.
    (2021), "Tent", https://arxiv.org/abs/2006.10726.

    For statistics of a whole target domain in place of the stored ones, as in AdaBN (Li et al., 2016,
    https://arxiv.org/abs/1603.04779), use `population_statistics`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.BatchNorm(1, eps=1e-12).eval()       # mean 0 and variance 1
    >>> x = np.array([[2.0], [6.0]])                     # mean 4 and variance 4
    >>> with fastbn.adapt(bn, n0=2):                     # mean 2 and variance 2.5
    ...     y = bn(x)
    >>> y * np.sqrt(2.5)
    array([[0.],
           [4.]])
    >>> bn(x)
    array([[2.],
           [6.]])
    """
    layers = check_layers(bn_layers)
    strength = check_number(n0, "n0")
    if not strength >= 0:
        raise ValueError(f"n0 must be 0 or more, got {n0!r}")
    return _Adapting(layers, None if math.isinf(strength) else Blend(strength))


class _Adapting(ContextDecorator, AbstractContextManager[None]):
    # A block of `adapt`, which may be entered again.

    def __init__(self, layers: Sequence[TrackedNorm], blend: Blend | None) -> None:
        self._layers, self._blend = layers, blend
        self._before: list[list[Any]] = []

    def __enter__(self) -> None:
        self._before.append([layer._blend for layer in self._layers])
        for layer in self._layers:
            layer._blend = self._blend

    def __exit__(self, *error: object) -> None:
        for layer, earlier in zip(self._layers, self._before.pop(), strict=True):
            layer._blend = earlier
