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

TEST_SHARE = 4   # one digit in four is a test digit


class Digits(NamedTuple):
    """Images of shape (N, 8, 8, 1), float32 from 0 to 1, and their labels."""

    images: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True)
class Recipe:
    """Settings of the training.

    Attributes
    ----------
    epochs : int
    batch : int
        Digits in a training step.
    rate : float
        The lower learning rate; the higher one is ten times as large.
    seed : int
    """

    epochs: int
    batch: int
    rate: float
    seed: int


@dataclass
class Run:
    """The training of one network.

    Attributes
    ----------
    network : Network
    normalize : bool
        Whether the network has batch normalization.
    rate : float
        The learning rate.
    accuracy : list of float
        Test accuracy after each epoch, in percent; NaN from the epoch in which the loss overflows.
    """

    network: Network
    normalize: bool
    rate: float
    accuracy: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The heading in tables."""
        return "batch norm" if self.normalize else "without"

    @property
    def diverged(self) -> bool:
        """Whether the loss overflowed."""
        return math.isnan(self.accuracy[-1])


def load(seed: int) -> tuple[Digits, Digits]:
    """Return the digits of scikit-learn in random order, as a training set and a test set."""
    digits = load_digits()
    order = np.random.default_rng([seed, 0]).permutation(len(digits.target))
    images = (digits.images[order, :, :, np.newaxis] / 16).astype(np.float32)
    labels = digits.target[order]
    held_out = len(order) // TEST_SHARE + 1
    return Digits(images[held_out:], labels[held_out:]), Digits(images[:held_out], labels[:held_out])


def train_all(train: Digits, test: Digits, recipe: Recipe) -> list[Run]:
    """Train the four networks from the same initial weights, on the same batches in the same order.

    Returns
    -------
    list of Run
        For the lower and then the higher learning rate: without batch normalization, then with it.
    """
    runs = [Run(Network(normalize, np.random.default_rng([recipe.seed, 1])), normalize, rate)
            for rate in (recipe.rate, 10 * recipe.rate) for normalize in (False, True)]
    with tqdm(total=len(runs) * recipe.epochs, unit="epoch", leave=False) as progress:
        for run in runs:
            progress.set_description(f"rate {run.rate:g}, {run.name}")
            order = np.random.default_rng([recipe.seed, 2])
            for _ in range(recipe.epochs):
                run.accuracy.append(train_epoch(run, train, test, recipe.batch, order))
                progress.update()
    return runs


def train_epoch(run: Run, train: Digits, test: Digits, batch: int, order: np.random.Generator) -> float:
    """Train for one epoch, and return the test accuracy in percent, or NaN if the loss overflowed."""
    if run.accuracy and run.diverged:
        return math.nan
    shuffled = order.permutation(len(train.labels))
    # Overflow is a possible result, which the loss shows.
    with np.errstate(over="ignore", invalid="ignore"):
        # An incomplete last batch is dropped: a single digit would have no variance.
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
    """Return the mean cross-entropy of the softmax, and its gradient with respect to the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float((np.log(sums[:, 0]) - shifted[rows, labels]).mean())
    gradient = exponentials / sums
    gradient[rows, labels] -= 1
    return loss, gradient / np.float32(len(labels))
