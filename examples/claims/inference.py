"""Training normalizes by the batch, and inference by averages: how far the two are apart, and when that fails.

Ioffe and Szegedy (2015), section 3.1, use population statistics at inference; libraries keep a running average. Wu and
Johnson (2021), https://arxiv.org/abs/2105.07576, compare the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.effect import paired, table
from examples.claims.style import BLUE, GREY, ORANGE, axes
from examples.nn import data
from examples.nn.layers import Linear, Reshape, batch_norm
from examples.nn.loop import Examples, batches, fit
from examples.nn.losses import cross_entropy
from examples.nn.model import Sequential
from examples.nn.optimizers import SGD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from matplotlib.figure import Figure

MOMENTA = (0.001, 0.01, 0.1, 0.5, 1.0)
AVERAGES: dict[str, dict[str, Any]] = {
    **{f"momentum {m:g}": {"momentum": m} for m in MOMENTA}, "cumulative": {"averaging": "cumulative"},
    "exact of all batches": {"averaging": "exact"}}
POPULATION, BATCH_OF_TEST = "population statistics", "the test batch"
STEPS, BATCH, RATE, HIDDEN = 1000, 32, 0.1, 100


def network(rng: np.random.Generator, **settings: Any) -> Sequential:
    """Return a network of three hidden layers."""
    layers: list[Any] = [Reshape(64)]
    for inputs in (64, HIDDEN, HIDDEN):
        layers += [Linear(inputs, HIDDEN, rng, bias=False), batch_norm(HIDDEN, "relu", **settings)]
    return Sequential(*layers, Linear(HIDDEN, 10, rng, scale=np.sqrt(1 / HIDDEN)))


def by_class(examples: Examples, size: int, rng: np.random.Generator) -> Iterator[Examples]:
    """Yield batches without end, one class after the other."""
    while True:
        for label in rng.permutation(10):
            members = rng.permutation(np.flatnonzero(examples.target == label))
            for first in range(0, len(members) - size + 1, size):
                chosen = members[first:first + size]
                yield Examples(examples.x[chosen], examples.target[chosen])


ORDERS: dict[str, Callable[..., Iterator[Examples]]] = {"shuffled": batches, "sorted at the end": by_class}


def accuracies(seed: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """Return test accuracy and mean difference of the logits from those by population statistics, by order and average.

    The averages do not change the training: all networks of a seed have the same weights. With "sorted at the end" the
    last tenth of the batches has one class each, and leaves the weights alone.
    """
    train_set, test_set = data.digits(seed)
    found: dict[str, dict[str, list[float]]] = {}
    for order in ORDERS:
        logits: dict[str, Any] = {}
        for name, settings in AVERAGES.items():
            model = network(np.random.default_rng([seed, 1]), **settings)
            optimizer, some = SGD(model.parameters(), RATE), batches(train_set, BATCH, np.random.default_rng([seed, 2]))
            fit(model, cross_entropy, optimizer, some, steps)
            if order != "shuffled":
                last = ORDERS[order](train_set, BATCH, np.random.default_rng([seed, 3]))
                for _ in range(steps // 10):
                    model(next(last).x)
            logits[name] = model.eval()(test_set.x)
        logits[BATCH_OF_TEST] = model.train()(test_set.x)
        norms = [layer.norm for layer in model.layers if hasattr(layer, "norm")]
        parts = [train_set.x[k:k + BATCH] for k in range(0, len(train_set.x) - 1, BATCH)]
        fastbn.population_statistics(norms, parts, model, progress=False)
        logits[POPULATION] = right = model.eval()(test_set.x)
        found[order] = {name: [100 * float(np.mean(z.argmax(1) == test_set.target)),
                               float(np.abs(z - right).mean() / np.abs(right).mean())] for name, z in logits.items()}
    return found


def measure(plan: Plan) -> dict[str, Any]:
    """Train, and evaluate by each average."""
    runs = plan.parallel(accuracies, [(seed, plan.steps(STEPS)) for seed in range(plan.seeds)], "inference")
    names = [*AVERAGES, BATCH_OF_TEST, POPULATION]
    return {order: {name: {"accuracy": [run[order][name][0] for run in runs],
                           "difference": [run[order][name][1] for run in runs]} for name in names} for order in ORDERS}


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the accuracy of each average."""
    for panel, order in zip(axes(figure, 2), ORDERS, strict=True):
        for k, (name, values) in enumerate(numbers[order].items()):
            colour = BLUE if name == POPULATION else GREY if name == BATCH_OF_TEST else ORANGE
            panel.plot(values["accuracy"], [k] * len(values["accuracy"]), "o", color=colour, alpha=0.6)
        panel.set_yticks(range(len(numbers[order])), list(numbers[order]))
        panel.invert_yaxis()
        panel.set(xlabel="test accuracy in %", title=f"training batches {order}")


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    rows = {name: [f"{np.mean(numbers[order][name][key]):.{digits}f}" for order in ORDERS
                   for key, digits in (("accuracy", 1), ("difference", 2))] for name in numbers["shuffled"]}
    drifted = numbers["sorted at the end"]
    return {
        "steps": str(STEPS), "batch": str(BATCH), "last": str(STEPS // 10), "table": table(rows),
        "drift": paired(drifted["momentum 0.1"]["accuracy"], drifted[POPULATION]["accuracy"]).text(" points"),
        "large": paired(drifted["momentum 1"]["accuracy"], drifted[POPULATION]["accuracy"]).text(" points"),
    }


CLAIM = Claim("inference", "Training against inference", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
