"""Trains the four networks: with and without batch normalization, at two learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from tqdm import tqdm  # type: ignore[import-untyped]

from fastbn.cli.demo.network import Network

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEST_SHARE = 4   # every fourth digit is kept for the test


class Digits(NamedTuple):
    """Images of shape (N, 8, 8, 1), float32 in 0..1, and their labels."""

    images: NDArray[Any]
    labels: NDArray[Any]


@dataclass
class Run:
    """One network in training.

    Attributes
    ----------
    accuracy : list of float
        On the test digits after each epoch, in percent; NaN once the loss is no longer finite.
    """

    network: Network
    normalize: bool
    rate: float
    accuracy: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What tables call it."""
        return "batch norm" if self.normalize else "without"

    @property
    def diverged(self) -> bool:
        """Whether the loss overflowed."""
        return math.isnan(self.accuracy[-1])


def load(seed: int) -> tuple[Digits, Digits]:
    """Return the digits of scikit-learn, shuffled, as a training set and a test set."""
    digits = load_digits()
    order = np.random.default_rng([seed, 0]).permutation(len(digits.target))
    images = (digits.images[order, :, :, np.newaxis] / 16).astype(np.float32)
    labels = digits.target[order]
    held_out = len(order) // TEST_SHARE + 1
    return Digits(images[held_out:], labels[held_out:]), Digits(images[:held_out], labels[:held_out])


def train_all(train: Digits, test: Digits, epochs: int, batch: int, rate: float, seed: int) -> list[Run]:
    """Train the four networks from the same weights, on the same batches in the same order.

    Returns
    -------
    list of Run
        At `rate` and then at ten times that; each without batch normalization and then with it.
    """
    runs = [Run(Network(normalize, np.random.default_rng([seed, 1])), normalize, r)
            for r in (rate, 10 * rate) for normalize in (False, True)]
    with tqdm(total=len(runs) * epochs, unit="epoch") as progress:
        for run in runs:
            progress.set_description(f"rate {run.rate:g}, {run.name}")
            order = np.random.default_rng([seed, 2])
            for _ in range(epochs):
                run.accuracy.append(train_epoch(run, train, test, batch, order))
                progress.update()
    return runs


def train_epoch(run: Run, train: Digits, test: Digits, batch: int, order: np.random.Generator) -> float:
    """Train for one epoch and return the test accuracy in percent, or NaN where the loss is no longer finite."""
    if run.accuracy and run.diverged:
        return math.nan
    shuffled = order.permutation(len(train.labels))
    # Overflow is an outcome here, seen in the loss.
    with np.errstate(over="ignore", invalid="ignore"):
        # An incomplete last batch is left out: one digit alone would have no variance.
        for start in range(0, len(shuffled) - batch + 1, batch):
            chosen = shuffled[start:start + batch]
            loss, dlogits = cross_entropy(run.network.logits(train.images[chosen]), train.labels[chosen])
            if not math.isfinite(loss):
                return math.nan
            run.network.step(dlogits, run.rate)
        scores = run.network.train(False).logits(test.images)
        run.network.train()
    return 100 * float((scores.argmax(axis=1) == test.labels).mean()) if np.isfinite(scores).all() else math.nan


def cross_entropy(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Return the mean cross-entropy of the softmax, and its gradient by the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float((np.log(sums[:, 0]) - shifted[rows, labels]).mean())
    gradient = exponentials / sums
    gradient[rows, labels] -= 1
    return loss, gradient / np.float32(len(labels))
