"""Classify digits by a residual convolutional network, whose additions and ReLUs are part of the batch norms."""

from __future__ import annotations

import numpy as np

import fastbn
from examples.applications.result import Result, main, pictures
from examples.nn import data
from examples.nn.layers import Convolution, GlobalAverage, Linear, batch_norm
from examples.nn.loop import Examples, accuracy, batches, progress, step
from examples.nn.losses import cross_entropy
from examples.nn.model import Residual, Sequential
from examples.nn.optimizers import SGD

STEPS, BATCH, RATE, WIDTH = 600, 64, 0.1, 32


def network(rng: np.random.Generator) -> Sequential:
    """Return a network of five convolutions, four of them in residual blocks."""
    def block() -> Residual:
        return Residual(Convolution(WIDTH, WIDTH, rng), batch_norm(WIDTH, "relu"), Convolution(WIDTH, WIDTH, rng),
                        norm=fastbn.BatchNorm(WIDTH, axis=-1))

    return Sequential(
        Convolution(1, WIDTH, rng, stride=2), batch_norm(WIDTH, "relu"), block(), block(), GlobalAverage(),
        Linear(WIDTH, 10, rng))


def train(seed: int, steps: int) -> tuple[Sequential, Examples, Examples]:
    """Return a trained network, and the training and test digits."""
    train_set, test_set = data.digits(seed)
    rng = np.random.default_rng([seed, 1])
    model = network(rng)
    optimizer, some = SGD(model.parameters(), RATE, momentum=0.9, decay=1e-4), batches(train_set, BATCH, rng)
    with progress(steps, "residual network") as bar:
        for k in range(steps):
            optimizer.rate = RATE * (0.5 + 0.5 * np.cos(np.pi * k / steps))
            step(model, cross_entropy, optimizer, next(some))
            bar.update()
    return model, train_set, test_set


def application(seed: int = 0, short: bool = False) -> Result:
    """Train, and show the digits that are recognized worst."""
    model, _, test_set = train(seed, STEPS // 10 if short else STEPS)
    numbers = {"test accuracy in %": accuracy(model, test_set)}
    logits = model.eval()(test_set.x)
    margin = logits[np.arange(len(logits)), test_set.target] - np.sort(logits, axis=1)[:, -1]
    worst = np.lexsort([logits.max(axis=1), margin])[:12]
    titles = [f"{test_set.target[k]} as {logits[k].argmax()}" for k in worst]
    figure = pictures([("test digits with the smallest margin (true as predicted)", test_set.x[worst, :, :, 0])], 12)
    for panel, title in zip(figure.axes, titles, strict=True):
        panel.text(0.5, -0.25, title, transform=panel.transAxes, ha="center", fontsize=7)
    return Result(numbers, figure)


if __name__ == "__main__":
    raise SystemExit(main(__file__, __doc__ or "", application))
