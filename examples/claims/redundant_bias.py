"""A bias before a batch normalization has no effect, and no gradient; folding removes it.

Ioffe and Szegedy (2015), section 3.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.style import BLUE, ORANGE, axes, band
from examples.nn import data
from examples.nn.layers import Linear, Reshape, batch_norm
from examples.nn.loop import batches, step
from examples.nn.losses import cross_entropy
from examples.nn.model import Sequential
from examples.nn.optimizers import SGD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

STEPS, EVERY, BATCH, RATE, HIDDEN = 1000, 5, 60, 0.1, 100


def train(seed: int, steps: int) -> dict[str, Any]:
    """Return the largest gradients of the bias and of beta every EVERY steps, and what a bias and a fold change."""
    train_set, test_set = data.digits(seed)
    rng = np.random.default_rng([seed, 1])
    linear, norm = Linear(64, HIDDEN, rng), batch_norm(HIDDEN, "relu")
    assert linear.bias is not None
    model = Sequential(Reshape(64), linear, norm, Linear(HIDDEN, 10, rng))
    optimizer, order = SGD(model.parameters(), RATE), batches(train_set, BATCH, rng)
    gradients: dict[str, list[float]] = {"bias": [], "beta": []}
    for k in range(steps):
        step(model, cross_entropy, optimizer, next(order))
        if k % EVERY == 0:
            gradients["bias"].append(float(np.abs(linear.grad_bias).max()))
            gradients["beta"].append(float(np.abs(norm.norm.grad_beta).max()))
    x = train_set.x[:BATCH]
    y = model(x)
    linear.bias += rng.normal(0, 1, HIDDEN).astype(np.float32)
    moved = float(np.abs(model(x) - y).max() / np.abs(y).max())
    # Evaluation, unfolded and folded into one matrix and one bias.
    folded = fastbn.fold_linear(linear.weight.T, linear.bias, norm.norm.eval())
    hidden = np.maximum(test_set.x.reshape(-1, 64) @ folded.weight.T + folded.bias, 0)
    logits, unfolded = model.layers[-1](hidden), model.eval()(test_set.x)
    return {**gradients, "bias change": float(np.abs(linear.bias).max()), "moved": moved,
            "fold": float(np.abs(logits - unfolded).max() / np.abs(unfolded).max()),
            "same": int((logits.argmax(1) == unfolded.argmax(1)).sum()), "of": len(logits)}


def measure(plan: Plan) -> dict[str, Any]:
    """Train, with a bias before the normalization."""
    runs = []
    with plan.progress(plan.seeds, "redundant bias") as bar:
        for seed in range(plan.seeds):
            runs.append(train(seed, plan.steps(STEPS)))
            bar.update()
    return {name: [run[name] for run in runs] for name in runs[0]}


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the gradients over training."""
    (panel,) = axes(figure, 1)
    for name, colour in (("beta", BLUE), ("bias", ORANGE)):
        band(panel, EVERY * np.arange(len(numbers[name][0])), numbers[name], colour,
             {"beta": "beta of the batch norm", "bias": "bias before it"}[name])
    panel.set(yscale="log", xlabel="step", ylabel="largest gradient")
    panel.legend(frameon=False)


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    ratios = np.array(numbers["bias"]).max(axis=1) / np.array(numbers["beta"]).max(axis=1)
    return {
        "steps": str(STEPS), "ratio": f"{ratios.max():.0e}", "moved": f"{max(numbers['moved']):.0e}",
        "fold": f"{max(numbers['fold']):.0e}", "same": str(min(numbers["same"])), "of": str(numbers["of"][0]),
    }


CLAIM = Claim("redundant_bias", "The bias before batch norm is redundant", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
