"""The training loop: batches, steps, accuracy, and a progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from examples.nn.model import Sequential

    Loss = Callable[[NDArray[Any], NDArray[Any]], tuple[float, NDArray[Any]]]


class Optimizer(Protocol):
    """What changes the parameters."""

    def step(self) -> None:
        """Follow the gradients of the last backward pass."""


class Examples(NamedTuple):
    """Inputs and what a network should make of them.

    Attributes
    ----------
    x : ndarray of float32, shape (N, ...)
    target : ndarray, shape (N,) or (N, ...)
    """

    x: NDArray[Any]
    target: NDArray[Any]


def batches(examples: Examples, size: int, rng: np.random.Generator) -> Iterator[Examples]:
    """Yield batches without end, in a new random order in each epoch; the rest of an epoch is left out."""
    if not 1 <= size <= len(examples.x):
        raise ValueError(f"size must be between 1 and {len(examples.x)}, got {size}")
    while True:
        order = rng.permutation(len(examples.x))
        for first in range(0, len(order) - size + 1, size):
            chosen = order[first:first + size]
            yield Examples(examples.x[chosen], examples.target[chosen])


def step(model: Sequential, loss: Loss, optimizer: Optimizer, batch: Examples) -> float:
    """Take one training step, and return the loss before it."""
    value, gradient = loss(model(batch.x), batch.target)
    model.backward(gradient.astype(np.float32, copy=False))
    optimizer.step()
    return value


def fit(model: Sequential, loss: Loss, optimizer: Optimizer, some: Iterator[Examples], steps: int) -> list[float]:
    """Take training steps with the next batches, and return the loss before each."""
    return [step(model, loss, optimizer, next(some)) for _ in range(steps)]


def accuracy(model: Sequential, examples: Examples) -> float:
    """Return the share of right predictions in evaluation mode, in percent; the mode is training afterwards."""
    right = model.eval()(examples.x).argmax(axis=1) == examples.target
    model.train()
    return 100 * float(np.mean(right))


def progress(total: int, name: str) -> Any:
    """Return a progress bar on standard error, which is hidden if that is not a terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, desc=name, disable=None, leave=False)
