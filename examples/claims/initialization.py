"""Batch normalization makes training depend less on the scale of the initial weights.

Ioffe and Szegedy (2015), section 3.3: back-propagation through a layer is unaffected by the scale of its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from examples.claims.claim import Claim, Plan, main
from examples.claims.style import COLOURS, NAMES, axes, band
from examples.nn import data
from examples.nn.layers import Linear, Reshape, activation, batch_norm
from examples.nn.loop import accuracy, batches, fit
from examples.nn.losses import cross_entropy
from examples.nn.model import Sequential
from examples.nn.optimizers import SGD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

SCALES = [round(float(scale), 6) for scale in np.logspace(-2, 2, 9)]     # times sqrt(2 / inputs), He et al. (2015)
HIDDEN, STEPS, BATCH, RATE = 100, 600, 60, 0.1
GOOD = 90.0


def network(normalized: bool, scale: float, rng: np.random.Generator) -> Sequential:
    """Return four layers, all of whose initial weights are multiplied by a scale."""
    layers: list[Any] = [Reshape(64)]
    for inputs in (64, HIDDEN, HIDDEN):
        layers.append(Linear(inputs, HIDDEN, rng, scale=scale * np.sqrt(2 / inputs), bias=not normalized))
        layers.append(batch_norm(HIDDEN, "relu") if normalized else activation("relu"))
    return Sequential(*layers, Linear(HIDDEN, 10, rng, scale=np.sqrt(1 / HIDDEN)))


def train(normalized: bool, scale: float, seed: int, steps: int) -> float:
    """Return the test accuracy after some steps."""
    train_set, test_set = data.digits(seed)
    model = network(normalized, scale, np.random.default_rng([seed, 1]))
    optimizer, order = SGD(model.parameters(), RATE), batches(train_set, BATCH, np.random.default_rng([seed, 2]))
    with np.errstate(all="ignore"):     # some networks diverge
        fit(model, cross_entropy, optimizer, order, steps)
        return round(accuracy(model, test_set), 2)


def measure(plan: Plan) -> dict[str, Any]:
    """Train networks of all scales, with and without batch normalization."""
    with plan.progress(2 * len(SCALES) * plan.seeds, "initialization") as bar:
        def accuracies(normalized: bool) -> list[list[float]]:
            rows = []
            for seed in range(plan.seeds):
                rows.append([train(normalized, scale, seed, plan.steps(STEPS)) for scale in SCALES])
                bar.update(len(SCALES))
            return rows

        return {"scales": SCALES, "with": accuracies(True), "without": accuracies(False)}


def decades(numbers: Mapping[str, Any], name: str) -> float:
    """Return over how many decades of scales all seeds are good."""
    good = (np.array(numbers[name]) >= GOOD).all(axis=0)
    scales = np.log10(numbers["scales"])
    return float(scales[good].max() - scales[good].min()) if good.any() else 0.0


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw accuracy against the scale."""
    (panel,) = axes(figure, 1)
    for normalized, name in ((True, "with"), (False, "without")):
        band(panel, numbers["scales"], numbers[name], COLOURS[normalized], NAMES[normalized])
    panel.set(xscale="log", xlabel="scale of the initial weights (1: He et al., 2015)",
              ylabel=f"test accuracy in %, {STEPS} steps")
    panel.legend(frameon=False, loc="lower center")


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    worst = {name: np.array(numbers[name]).mean(axis=0).min() for name in ("with", "without")}
    tested = np.log10(numbers["scales"][-1] / numbers["scales"][0])
    return {
        "steps": str(STEPS), "rate": f"{RATE:g}", "good": f"{GOOD:g}",
        **{f"decades_{name}": f"{decades(numbers, name):g} of {tested:g}" for name in worst},
        **{f"worst_{name}": f"{value:.1f}" for name, value in worst.items()},
    }


CLAIM = Claim("initialization", "Less care with initialization", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
