"""The noise of batch statistics regularizes, and can replace dropout.

Ioffe and Szegedy (2015), section 3.4: a training example is seen together with others of its batch, and no longer has
one output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from examples.claims.claim import Claim, Plan, main
from examples.claims.effect import paired, table
from examples.claims.style import BLUE, GREY, ORANGE, axes, band, ticks
from examples.nn import data
from examples.nn.layers import Dropout, Linear, Reshape, activation, batch_norm
from examples.nn.loop import Examples, accuracy, batches, fit
from examples.nn.losses import cross_entropy
from examples.nn.model import Sequential
from examples.nn.optimizers import SGD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
DRAWS, HIDDEN, FEW, STEPS, BATCH, RATE = 100, 200, 200, 1500, 20, 0.05
MORE = 4        # times the usual number of seeds
KINDS = {"neither": (False, False), "dropout": (False, True), "batch norm": (True, False), "both": (True, True)}


def network(normalized: bool, dropout: bool, rng: np.random.Generator) -> Sequential:
    """Return a network of two hidden layers."""
    layers: list[Any] = [Reshape(64)]
    for inputs in (64, HIDDEN):
        layers.append(Linear(inputs, HIDDEN, rng, bias=not normalized))
        layers.append(batch_norm(HIDDEN, "relu") if normalized else activation("relu"))
        if dropout:
            layers.append(Dropout(0.5, rng))
    return Sequential(*layers, Linear(HIDDEN, 10, rng, scale=np.sqrt(1 / HIDDEN)))


def train(model: Sequential, train_set: Examples, seed: int, steps: int) -> None:
    """Train a network."""
    optimizer = SGD(model.parameters(), RATE, momentum=0.9)
    order = batches(train_set, BATCH, np.random.default_rng([seed, 2]))
    fit(model, cross_entropy, optimizer, order, steps)


def spread(model: Sequential, x: Any, size: int, rng: np.random.Generator) -> float:
    """Return the deviation of the logits of one example over random batches that contain it, relative to all logits.

    The rest of a batch is drawn with replacement, because large batches without it have too much in common.
    """
    model.train()
    logits = np.array([model(x[np.r_[0, 1 + rng.choice(len(x) - 1, size - 1)]])[0] for _ in range(DRAWS)])
    return float(logits.std(axis=0).mean() / model(x).std())


def measure(plan: Plan) -> dict[str, Any]:
    """Measure the spread of one example's output against the batch size, and the gap of generalization."""
    found: dict[str, Any] = {"sizes": SIZES, "spread": [], "train": {}, "test": {}}
    seeds = MORE * plan.seeds
    with plan.progress(seeds * len(KINDS), "batch noise") as bar:
        for seed in range(seeds):
            train_set, test_set = data.digits(seed)
            few = Examples(train_set.x[:FEW], train_set.target[:FEW])
            for name, (normalized, dropout) in KINDS.items():
                rng = np.random.default_rng([seed, 1])
                model = network(normalized, dropout, rng)
                train(model, few, seed, plan.steps(STEPS))
                for key, part in (("train", few), ("test", test_set)):
                    found[key].setdefault(name, []).append(round(accuracy(model, part), 2))
                if name == "batch norm":
                    found["spread"].append([spread(model, test_set.x, size, rng) for size in SIZES])
                bar.update()
    return found


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the spread against the batch size, and the test accuracies."""
    left, right = axes(figure, 2)
    band(left, numbers["sizes"], numbers["spread"], BLUE)
    left.set(xscale="log", yscale="log", xlabel="batch size", title="spread of one example's logits")
    ticks(left, numbers["sizes"])
    for k, (name, colour) in enumerate(zip(KINDS, (GREY, ORANGE, BLUE, BLUE), strict=True)):
        right.plot(numbers["test"][name], [k] * len(numbers["test"][name]), "o", color=colour, alpha=0.6)
    right.set_yticks(range(len(KINDS)), list(KINDS))
    right.invert_yaxis()
    right.set(xlabel="test accuracy in %", title=f"{FEW} training digits")


def power(sizes: Any, noise: Any, least: int = 4) -> float:
    """Return the power of the batch size that fits the spread best, over sizes from the least on."""
    chosen = np.asarray(sizes) >= least
    return float(np.polyfit(np.log(np.asarray(sizes)[chosen]), np.log(np.asarray(noise)[chosen]), 1)[0])


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    noise = np.array(numbers["spread"]).mean(axis=0)
    slope = power(numbers["sizes"], noise)
    test = numbers["test"]
    rows = {name: (np.mean(numbers["train"][name]), np.mean(test[name])) for name in KINDS}
    return {
        "draws": str(DRAWS), "few": str(FEW), "batch": str(BATCH), "seeds": str(len(test["both"])),
        "small": f"{noise[0]:.2f}", "large": f"{noise[-1]:.3f}", "slope": f"{slope:.2f}",
        "table": table({name: [f"{a:.1f}", f"{b:.1f}", f"{a - b:.1f}"] for name, (a, b) in rows.items()}),
        "dropout": paired(test["dropout"], test["neither"]).text(" points"),
        "batch_norm": paired(test["batch norm"], test["neither"]).text(" points"),
        "both": paired(test["both"], test["batch norm"]).text(" points"),
    }


CLAIM = Claim("batch_noise", "Regularization by batch noise", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
