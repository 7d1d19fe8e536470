"""Networks with batch normalization train in fewer steps, and at higher learning rates.

Figure 1 of Ioffe and Szegedy (2015), with digits in place of MNIST: a network of three hidden layers of 100 sigmoids,
and a convolutional network.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.effect import paired, span
from examples.claims.style import COLOURS, NAMES, axes, band
from examples.nn import data
from examples.nn.layers import Linear, Reshape, activation, batch_norm
from examples.nn.loop import accuracy, batches, fit, step
from examples.nn.losses import cross_entropy
from examples.nn.model import Sequential
from examples.nn.networks import convolutional
from examples.nn.optimizers import SGD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

BATCH, RATE, GOAL = 60, 0.1, 90.0
STEPS, EVERY = {"mlp": 5000, "cnn": 400}, {"mlp": 25, "cnn": 10}
RATES = [2.0**k for k in range(-3, 8)]
RATE_STEPS = {"mlp": 500, "cnn": 60}
PERCENTILES = (15, 50, 85)
HIDDEN = 100


def mlp(normalized: bool, rng: np.random.Generator) -> Sequential:
    """Return the network of the paper's figure 1; without normalization it has biases instead."""
    layers: list[Any] = [Reshape(64)]
    for inputs in (64, HIDDEN, HIDDEN):
        layers.append(Linear(inputs, HIDDEN, rng, scale=1 / np.sqrt(inputs), bias=not normalized))
        if normalized:
            layers.append(batch_norm(HIDDEN))
        layers.append(activation("sigmoid"))
    return Sequential(*layers, Linear(HIDDEN, 10, rng, scale=1 / np.sqrt(HIDDEN)))


def cnn(normalized: bool, rng: np.random.Generator) -> Sequential:
    """Return a network of three convolutions with ReLUs."""
    norm = partial(fastbn.BatchNorm, axis=-1) if normalized else None
    return convolutional((16, 32, 64), (1, 2, 2), norm, rng)


MODELS = {"mlp": mlp, "cnn": cnn}


def measure(plan: Plan) -> dict[str, Any]:
    """Train both networks with and without batch normalization, and find the largest stable learning rates."""
    found: dict[str, Any] = {"goal": GOAL, "rate": RATE}
    with plan.progress(2 * 2 * plan.seeds * (1 + len(RATES)), "faster training") as bar:
        for name, model in MODELS.items():
            runs = [[train(model(normalized, np.random.default_rng([seed, 1])), seed, plan.steps(STEPS[name]),
                           EVERY[name], bar) for seed in range(plan.seeds)] for normalized in (True, False)]
            found[name] = {
                "curves": [[run["accuracy"] for run in group] for group in runs],
                "first": [[reached(run["accuracy"], EVERY[name]) for run in group] for group in runs],
                "percentiles": [group[0]["percentiles"] for group in runs] if name == "mlp" else None,
                "largest rate": [[largest_rate(model, normalized, seed, plan.steps(RATE_STEPS[name]), bar)
                                  for seed in range(plan.seeds)] for normalized in (True, False)],
            }
    return found


def train(model: Sequential, seed: int, steps: int, every: int, bar: Any) -> dict[str, Any]:
    """Return the test accuracy, and the percentiles of a hidden unit's input, every some steps."""
    train_set, test_set = data.digits(seed)
    order = batches(train_set, BATCH, np.random.default_rng([seed, 2]))
    optimizer = SGD(model.parameters(), RATE)
    run: dict[str, Any] = {"accuracy": [], "percentiles": []}
    for k in range(steps + 1):
        if k % every == 0:
            run["accuracy"].append(round(accuracy(model, test_set), 2))
            run["percentiles"].append(unit_input(model, test_set.x))
        step(model, cross_entropy, optimizer, next(order))
    bar.update()
    return run


def unit_input(model: Sequential, x: Any) -> list[float]:
    """Return percentiles of the input of the first sigmoid of the last hidden layer."""
    model.eval()
    for layer in model.layers[:-2]:
        x = layer(x)
    model.train()
    return [round(float(value), 3) for value in np.percentile(x[..., 0], PERCENTILES)]


def reached(curve: list[float], every: int) -> int | None:
    """Return the first step with the accuracy of the goal, or None."""
    return next((k * every for k, value in enumerate(curve) if value >= GOAL), None)


def largest_rate(model: Any, normalized: bool, seed: int, steps: int, bar: Any) -> float:
    """Return the largest rate at which some steps lower the loss to less than half of that of guessing, or 0."""
    best = 0.0
    for rate in RATES:
        train_set, _ = data.digits(seed)
        order = batches(train_set, BATCH, np.random.default_rng([seed, 2]))
        network = model(normalized, np.random.default_rng([seed, 1]))
        optimizer = SGD(network.parameters(), rate)
        with np.errstate(all="ignore"):
            losses = fit(network, cross_entropy, optimizer, order, steps)
        bar.update()
        if np.mean(losses[-10:]) < 0.5 * np.log(10):
            best = rate
    return best


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the accuracy of both networks over steps, and the percentiles of the hidden unit."""
    panels = axes(figure, 4)
    for panel, name in zip(panels[:2], MODELS, strict=True):
        for normalized, group in zip((True, False), numbers[name]["curves"], strict=True):
            band(panel, np.arange(len(group[0])) * EVERY[name], group, COLOURS[normalized], NAMES[normalized])
        panel.set(title={"mlp": "three layers of sigmoids", "cnn": "three convolutions"}[name], xlabel="step")
    panels[0].set_ylabel("test accuracy in %")
    panels[0].legend(frameon=False, loc="lower right")
    for panel, normalized, values in zip(panels[2:], (False, True), numbers["mlp"]["percentiles"][::-1], strict=True):
        curves = np.array(values)
        for k, style in enumerate((":", "-", ":")):
            panel.plot(np.arange(len(curves)) * EVERY["mlp"], curves[:, k], style, color=COLOURS[normalized])
        panel.set(title=f"a sigmoid's input, {NAMES[normalized]}", xlabel="step")


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    found = {"rate": f"{numbers['rate']:g}", "goal": f"{numbers['goal']:g}"}
    for name in MODELS:
        with_, without = numbers[name]["first"]
        rates = [np.array(group) for group in numbers[name]["largest rate"]]
        found |= {
            f"{name}_with": span(with_), f"{name}_without": span(without),
            f"{name}_speed": paired(*(np.log2(np.array(steps, float)) for steps in (without, with_))).factor(),
            f"{name}_rates": f"{span(rates[0])} with and {span(rates[1])} without",
        }
    for normalized, curve in zip(("with", "without"), numbers["mlp"]["percentiles"], strict=True):
        spread = np.array(curve)[:, 2] - np.array(curve)[:, 0]
        found |= {f"early_{normalized}": f"{spread[len(spread) // 10]:.2f}", f"late_{normalized}": f"{spread[-1]:.2f}"}
    return found


CLAIM = Claim("faster_training", "Faster training, and higher learning rates", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
