"""Regression on a table: the progression of diabetes, with inputs and targets scaled by `ChannelScaler`."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes  # type: ignore[import-untyped]
from sklearn.linear_model import Ridge  # type: ignore[import-untyped]

from examples.applications.result import Result, main
from examples.nn.data import split
from examples.nn.layers import Dropout, Linear, batch_norm
from examples.nn.loop import Examples, batches, progress, step
from examples.nn.losses import squared_error
from examples.nn.model import Sequential
from examples.nn.optimizers import Adam
from fastbn.sklearn import ChannelScaler

STEPS, BATCH, HIDDEN, RATE = 400, 64, 32, 0.003


def application(seed: int = 0, short: bool = False) -> Result:
    """Train a network, and compare it with ridge regression on the same inputs."""
    bunch = load_diabetes(scaled=False)
    train_set, test_set = split(bunch.data, bunch.target[:, None], seed)
    inputs, targets = ChannelScaler().fit(train_set.x), ChannelScaler().fit(train_set.target)
    scaled = Examples(inputs.transform(train_set.x).astype(np.float32),
                      targets.transform(train_set.target).astype(np.float32))
    test_x = inputs.transform(test_set.x).astype(np.float32)
    rng = np.random.default_rng([seed, 1])
    model = Sequential(
        Linear(10, HIDDEN, rng, bias=False), batch_norm(HIDDEN, "relu"), Dropout(0.2, rng),
        Linear(HIDDEN, HIDDEN, rng, bias=False), batch_norm(HIDDEN, "relu"), Dropout(0.2, rng),
        Linear(HIDDEN, 1, rng, scale=np.sqrt(1 / HIDDEN)))
    optimizer, some = Adam(model.parameters(), RATE), batches(scaled, BATCH, rng)
    steps = STEPS // 10 if short else STEPS
    with progress(steps, "diabetes") as bar:
        for k in range(steps):
            optimizer.rate = RATE * (1 - k / steps)
            step(model, squared_error, optimizer, next(some))
            bar.update()
    predicted = targets.inverse_transform(model.eval()(test_x).astype(np.float64))
    line = targets.inverse_transform(Ridge(1.0).fit(scaled.x, scaled.target).predict(test_x).reshape(-1, 1))
    spread = np.mean((test_set.target - train_set.target.mean()) ** 2)
    numbers = {f"{name}: explained variance of the test set in %":
               100 * float(1 - np.mean((y - test_set.target) ** 2) / spread)
               for name, y in (("network", predicted), ("ridge regression", line))}
    figure = Figure(figsize=(4.4, 4), layout="constrained")
    panel = figure.subplots()
    panel.plot([25, 350], [25, 350], color="0.8")
    panel.plot(test_set.target, predicted, "o", alpha=0.6)
    panel.set(xlabel="progression of the disease after a year", ylabel="predicted")
    return Result(numbers, figure)


if __name__ == "__main__":
    raise SystemExit(main(__file__, __doc__ or "", application))
