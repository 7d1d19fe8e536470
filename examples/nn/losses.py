"""Losses, each of which returns its mean and its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from examples.nn.layers import sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cross_entropy(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Return the mean of -log softmax(logits)[label], and its gradient.

    Parameters
    ----------
    logits : ndarray, shape (N, classes)
    labels : ndarray of int, shape (N,)
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(shifted - log_sum)
    gradient[rows, labels] -= 1
    return float(np.mean(log_sum[:, 0] - shifted[rows, labels])), gradient / len(labels)


def binary_cross_entropy(logits: NDArray[Any], targets: NDArray[Any] | float) -> tuple[float, NDArray[Any]]:
    """Return the mean of -log sigmoid(logits) where the target is 1, and of -log(1 - sigmoid) where it is 0."""
    value = np.mean(np.logaddexp(0, logits) - targets * logits)
    return float(value), (sigmoid(logits) - targets) / np.float32(logits.size)


def squared_error(y: NDArray[Any], target: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Return the mean squared error, and its gradient."""
    difference = y - target
    return float(np.mean(difference * difference)), 2 / np.float32(difference.size) * difference
