"""Batches that are not like the data: sorted by class in training, and shifted at test time.

Ioffe (2017), https://arxiv.org/abs/1702.03275, section 4.3, on dependent batches; Li et al. (2016),
https://arxiv.org/abs/1603.04779, and Schneider et al. (2020), https://arxiv.org/abs/2006.16971, on shifted data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.effect import paired, table
from examples.claims.style import BLUE, GREY, ORANGE, axes
from examples.nn import data
from examples.nn.layers import Activated
from examples.nn.loop import Examples, accuracy, batches, fit
from examples.nn.losses import cross_entropy
from examples.nn.networks import convolutional
from examples.nn.optimizers import SGD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from examples.nn.model import Sequential

STEPS, BATCH, RATE, TEST_BATCH = 400, 32, 0.05, 50
MEMBERS: dict[str, Callable[[int], Any]] = {
    "batch norm": lambda c: fastbn.BatchNorm(c, axis=-1),
    "batch renorm": lambda c: fastbn.BatchRenorm(c, axis=-1, r_max=(1, 3, 50, 150), d_max=(0, 5, 50, 150)),
    "group norm": lambda c: fastbn.GroupNorm(4, c, axis=-1)}
SHIFTS: dict[str, Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]] = {
    "none": lambda x, _: x,
    "half the contrast": lambda x, _: 0.5 * x + 0.25,
    "noise": lambda x, rng: x + rng.normal(0, 0.4, x.shape).astype(np.float32),
    "inverted and dark": lambda x, _: 0.4 * (1 - x)}
STORED, ADAPTED, DOMAIN = "stored statistics", "adapt, n0 = 16", "statistics of the domain"


def mixed(examples: Examples, size: int, rng: np.random.Generator) -> Iterator[Examples]:
    """Yield batches without end, each of two random classes."""
    members = [np.flatnonzero(examples.target == label) for label in range(10)]
    while True:
        chosen = np.concatenate([rng.choice(members[label], size // 2, replace=False)
                                 for label in rng.choice(10, 2, replace=False)])
        yield Examples(examples.x[chosen], examples.target[chosen])


ORDERS: dict[str, Callable[..., Iterator[Examples]]] = {"shuffled": batches, "two classes in a batch": mixed}


def trained(name: str, order: str, seed: int, steps: int) -> Sequential:
    """Return a trained network."""
    model = convolutional((16, 32, 32), (1, 2, 1), MEMBERS[name], np.random.default_rng([seed, 1]))
    optimizer = SGD(model.parameters(), RATE, momentum=0.9)
    some = ORDERS[order](data.digits(seed)[0], BATCH, np.random.default_rng([seed, 2]))
    fit(model, cross_entropy, optimizer, some, steps)
    return model


def one_seed(seed: int, steps: int) -> dict[str, dict[str, float]]:
    """Return test accuracies: by order and member, and by shift and method."""
    _, test_set = data.digits(seed)
    found: dict[str, dict[str, float]] = {order: {} for order in ORDERS}
    for order in ORDERS:
        for name in MEMBERS:
            model = trained(name, order, seed, steps)
            found[order][name] = accuracy(model, test_set)
    model, rng = trained("batch norm", "shuffled", seed, steps), np.random.default_rng([seed, 3])
    norms = [layer.norm for layer in model.layers if isinstance(layer, Activated)]
    source = [norm.state_dict() for norm in norms]
    for shift, change in SHIFTS.items():
        x = change(test_set.x, rng).astype(np.float32)
        parts = [Examples(x[k:k + TEST_BATCH], test_set.target[k:k + TEST_BATCH]) for k in range(0, len(x), TEST_BATCH)]
        found[shift] = {STORED: of_batches(model, parts)}
        with fastbn.adapt(norms, n0=16):
            found[shift][ADAPTED] = of_batches(model, parts)
        fastbn.population_statistics(norms, [part.x for part in parts], model, progress=False)
        found[shift][DOMAIN] = of_batches(model, parts)
        for norm, state in zip(norms, source, strict=True):
            norm.load_state_dict(state)
    return found


def of_batches(model: Sequential, parts: list[Examples]) -> float:
    """Return the accuracy over batches, in evaluation mode, in percent."""
    model.eval()
    right = np.concatenate([model(part.x).argmax(1) == part.target for part in parts])
    model.train()
    return 100 * float(right.mean())


def measure(plan: Plan) -> dict[str, Any]:
    """Train on shuffled and dependent batches, and evaluate on shifted digits."""
    runs = plan.parallel(one_seed, [(seed, plan.steps(STEPS)) for seed in range(plan.seeds)], "dependent batches")
    return {group: {name: [run[group][name] for run in runs] for name in runs[0][group]} for group in runs[0]}


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the accuracies."""
    left, right = axes(figure, 2)
    for panel, groups, colours in (
            (left, list(ORDERS), (BLUE, BLUE, ORANGE)), (right, list(SHIFTS), (GREY, BLUE, ORANGE))):
        names = list(numbers[groups[0]])
        for k, (name, colour) in enumerate(zip(names, colours, strict=True)):
            panel.bar(np.arange(len(groups)) + 0.25 * (k - 1), [np.mean(numbers[group][name]) for group in groups],
                      0.22, color=colour, alpha=0.5 if name == "batch renorm" else 1, label=name)
        panel.set_xticks(range(len(groups)), groups, fontsize=7)
        panel.set(ylim=(0, 140), yticks=range(0, 101, 20), ylabel="test accuracy in %")
        panel.legend(frameon=False, fontsize=8, loc="upper right")
    left.set_title("training batches")
    right.set_title("shift of the test digits")


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    def rows(names: Iterable[str], groups: Iterable[str]) -> dict[str, list[str]]:
        return {name: [f"{np.mean(numbers[group][name]):.1f}" for group in groups] for name in names}

    dependent, noise = numbers["two classes in a batch"], numbers["noise"]
    shifts = {shift: [f"{np.mean(numbers[shift][method]):.1f}" for method in (STORED, ADAPTED, DOMAIN)]
              for shift in SHIFTS}
    return {
        "steps": str(STEPS), "batch": str(BATCH), "test_batch": str(TEST_BATCH),
        "orders": table(rows(MEMBERS, ORDERS)), "shifts": table(shifts),
        "drop": paired(dependent["batch norm"], numbers["shuffled"]["batch norm"]).text(" points"),
        "renorm": paired(dependent["batch renorm"], dependent["batch norm"]).text(" points"),
        "noise": paired(noise[ADAPTED], noise[STORED]).text(" points"),
    }


CLAIM = Claim("dependent_batches", "Batches that are not like the data", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
