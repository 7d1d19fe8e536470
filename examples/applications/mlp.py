"""Classify wines and tumours by a network of two hidden layers with batch normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.applications.result import Result, main
from examples.nn import data
from examples.nn.layers import Linear, batch_norm
from examples.nn.loop import accuracy, batches, progress, step
from examples.nn.losses import cross_entropy
from examples.nn.model import Sequential
from examples.nn.optimizers import Adam

TABLES, STEPS, BATCH, HIDDEN = ("wine", "breast_cancer"), 400, 32, 32


def train(name: str, seed: int, steps: int) -> tuple[list[float], Any]:
    """Return the test accuracy every ten steps, and the table of true and predicted classes."""
    train_set, test_set = data.table(name, seed)
    rng, classes = np.random.default_rng([seed, 1]), int(train_set.target.max()) + 1
    model = Sequential(
        Linear(train_set.x.shape[1], HIDDEN, rng, bias=False), batch_norm(HIDDEN, "relu"),
        Linear(HIDDEN, HIDDEN, rng, bias=False), batch_norm(HIDDEN, "relu"), Linear(HIDDEN, classes, rng))
    optimizer, some = Adam(model.parameters(), 0.003), batches(train_set, BATCH, rng)
    curve = []
    with progress(steps, name) as bar:
        for k in range(steps):
            step(model, cross_entropy, optimizer, next(some))
            bar.update()
            if k % 10 == 9:
                curve.append(accuracy(model, test_set))
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (test_set.target, model.eval()(test_set.x).argmax(axis=1)), 1)
    return curve, confusion


def application(seed: int = 0, short: bool = False) -> Result:
    """Train on both tables."""
    figure, numbers = Figure(figsize=(8, 5), layout="constrained"), {}
    for row, name in zip(figure.subplots(2, 2), TABLES, strict=True):
        curve, confusion = train(name, seed, STEPS // 10 if short else STEPS)
        numbers[f"{name}: test accuracy in %"] = curve[-1]
        row[0].plot(10 * np.arange(1, len(curve) + 1), curve)
        row[0].set(title=name, xlabel="step", ylabel="test accuracy in %")
        row[1].imshow(confusion, cmap="Blues")
        for (i, j), count in np.ndenumerate(confusion):
            row[1].text(j, i, str(count), ha="center", va="center")
        row[1].set(xlabel="predicted", ylabel="true", xticks=range(len(confusion)), yticks=range(len(confusion)))
    return Result(numbers, figure)


if __name__ == "__main__":
    raise SystemExit(main(__file__, __doc__ or "", application))
