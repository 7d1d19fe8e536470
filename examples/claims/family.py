"""Batch, layer, instance, group and RMS norm side by side on the same tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.effect import paired, table
from examples.claims.style import BLUE, GREY, axes
from examples.nn import data
from examples.nn.layers import Activated, Linear, Reshape, activation
from examples.nn.loop import accuracy, batches, fit
from examples.nn.losses import cross_entropy
from examples.nn.model import Sequential
from examples.nn.networks import convolutional
from examples.nn.optimizers import SGD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.figure import Figure

BATCH, HIDDEN = 32, 64
MEMBERS: dict[str, Callable[[int], Any] | None] = {
    "none": None,
    "batch norm": lambda c: fastbn.BatchNorm(c, axis=-1),
    "layer norm": fastbn.LayerNorm,
    "instance norm": lambda c: fastbn.InstanceNorm(c, affine=True, axis=-1),
    "group norm": lambda c: fastbn.GroupNorm(4, c, axis=-1),
    "RMS norm": fastbn.RMSNorm,
}
TASKS = {"digits, convolutions": 200, "digits, fully connected": 600, "wine": 300, "breast cancer": 300}     # steps
NO_POSITIONS = {"instance norm"}        # have no variance in a table


def connected(member: Callable[[int], Any] | None, inputs: int, classes: int, rng: np.random.Generator) -> Sequential:
    """Return two hidden layers."""
    return Sequential(
        Reshape(inputs), Linear(inputs, HIDDEN, rng), normalized(member, HIDDEN),
        Linear(HIDDEN, HIDDEN, rng), normalized(member, HIDDEN), Linear(HIDDEN, classes, rng))


def normalized(member: Callable[[int], Any] | None, channels: int) -> Any:
    """Return a normalization with a ReLU, or the ReLU alone."""
    return activation("relu") if member is None else Activated(member(channels), "relu")


def one(task: str, name: str, seed: int, steps: int) -> float:
    """Return the test accuracy."""
    rng, member = np.random.default_rng([seed, 1]), MEMBERS[name]
    if task.startswith("digits"):
        train_set, test_set = data.digits(seed)
        model = (convolutional((16, 32, 32), (1, 2, 1), member, rng) if task.endswith("convolutions")
                 else connected(member, 64, 10, rng))
    else:
        train_set, test_set = data.table(task.replace(" ", "_"), seed)
        model = connected(member, train_set.x.shape[1], int(train_set.target.max()) + 1, rng)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9)
    some = batches(train_set, BATCH, np.random.default_rng([seed, 2]))
    fit(model, cross_entropy, optimizer, some, steps)
    return round(accuracy(model, test_set), 2)


def measure(plan: Plan) -> dict[str, Any]:
    """Train each member on each task."""
    items = [(task, name, seed, plan.steps(steps)) for task, steps in TASKS.items() for name in MEMBERS
             if task.endswith("convolutions") or name not in NO_POSITIONS for seed in range(plan.seeds)]
    found: dict[str, dict[str, list[float]]] = {task: {} for task in TASKS}
    for (task, name, *_), value in zip(items, plan.parallel(one, items, "family"), strict=True):
        found[task].setdefault(name, []).append(value)
    return found


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the accuracies."""
    for panel, task in zip(axes(figure, len(TASKS)), TASKS, strict=True):
        names = list(numbers[task])
        for k, name in enumerate(names):
            values = numbers[task][name]
            panel.plot(values, [k] * len(values), "o", color=GREY if name == "none" else BLUE, alpha=0.5)
            panel.plot(np.mean(values), k, "|", color="black", markersize=14)
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.set(title=task, xlabel="test accuracy in %")


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    rows = {name: [f"{np.mean(numbers[task][name]):.1f}" if name in numbers[task] else "" for task in TASKS]
            for name in MEMBERS}
    first, second, *_ = (numbers[task] for task in TASKS)
    return {
        "batch": str(BATCH), "tasks": " | ".join(TASKS), "columns": "---:|" * len(TASKS), "table": table(rows),
        "none": paired(first["batch norm"], first["none"]).text(" points"),
        "group": paired(first["batch norm"], first["group norm"]).text(" points"),
        "layer": paired(second["layer norm"], second["none"]).text(" points"),
        "batch_connected": paired(second["batch norm"], second["none"]).text(" points"),
    }


CLAIM = Claim("family", "The family side by side", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
