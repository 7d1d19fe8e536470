"""The error of batch norm rises for small batches; that of group norm does not. Large batches need many steps.

Figure 1 of Wu and He (2018), https://arxiv.org/abs/1803.08494, in small. Batches of 50 to 100 as a sweet spot: Bengio
(2012), https://arxiv.org/abs/1206.5533, and Masters and Luschi (2018), https://arxiv.org/abs/1804.07612.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.effect import paired, table
from examples.claims.style import BLUE, GREY, INK, ORANGE, axes, ticks
from examples.nn import data
from examples.nn.loop import accuracy, batches, fit
from examples.nn.losses import cross_entropy
from examples.nn.networks import convolutional
from examples.nn.optimizers import SGD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.figure import Figure

SIZES = (1, 2, 4, 8, 16, 64, 256)
EPOCHS, LEAST = 3, 150      # the longer one of both
RATE, UNIT = 0.1, 64        # of batches of 64; other rates are in proportion, as in the paper
GHOSTS = 16
MEMBERS: dict[str, Callable[[int], Any]] = {
    "batch norm": lambda c: fastbn.BatchNorm(c, axis=-1),
    "batch renorm": lambda c: fastbn.BatchRenorm(c, axis=-1, r_max=(1, 3, 20, 60), d_max=(0, 5, 20, 60)),
    "ghost batch norm": lambda c: fastbn.BatchNorm(c, axis=-1, virtual_batch_size=GHOSTS),
    "group norm": lambda c: fastbn.GroupNorm(4, c, axis=-1),
    "instance norm": lambda c: fastbn.InstanceNorm(c, affine=True, axis=-1),
}


def steps_of(size: int, examples: int, epochs: int, least: int) -> int:
    """Return the number of training steps in batches of a size."""
    return max(least, epochs * (examples // size))


def error(name: str, size: int, seed: int, epochs: int, least: int) -> float:
    """Return the test error in percent, after some epochs, but at least some steps."""
    train_set, test_set = data.digits(seed)
    model = convolutional((8, 16, 32), (1, 2, 1), MEMBERS[name], np.random.default_rng([seed, 1]))
    optimizer = SGD(model.parameters(), RATE * size / UNIT, momentum=0.9)
    order = batches(train_set, size, np.random.default_rng([seed, 2]))
    fit(model, cross_entropy, optimizer, order, steps_of(size, len(train_set.x), epochs, least))
    return round(100 - accuracy(model, test_set), 2)


def measure(plan: Plan) -> dict[str, Any]:
    """Train with each member of the family at each batch size."""
    sizes = (SIZES[0], *SIZES[4:]) if plan.short else SIZES
    items = [(name, size, seed, 0 if plan.short else EPOCHS, plan.steps(LEAST))
             for size in sizes for name in MEMBERS for seed in range(plan.seeds)]
    errors = np.reshape(plan.parallel(error, items, "batch size"), (len(sizes), len(MEMBERS), plan.seeds))
    return {"sizes": sizes, "errors": {name: errors[:, k].tolist() for k, name in enumerate(MEMBERS)}}


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the error against the batch size."""
    (panel,) = axes(figure, 1)
    for name, colour, style in zip(MEMBERS, (BLUE, BLUE, BLUE, ORANGE, GREY), ("-", "--", ":", "-", "-"), strict=True):
        panel.plot(numbers["sizes"], np.mean(numbers["errors"][name], axis=1), style, marker=".", color=colour,
                   label=name)
    panel.set_xscale("log", base=2)
    panel.set(yscale="log", xlabel="batch size", ylabel="test error in %")
    ticks(panel, numbers["sizes"])
    panel.legend(frameon=False, labelcolor=INK, loc="lower left")


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    sizes = list(numbers["sizes"])
    errors = {name: np.array(rows) for name, rows in numbers["errors"].items()}
    batch, group, at = errors["batch norm"], errors["group norm"], sizes.index
    best = int(batch.mean(axis=1).argmin())
    examples = len(data.digits(0)[0].x)
    epochs = [steps_of(size, examples, EPOCHS, LEAST) / (examples // size) for size in sizes]
    return {
        "epochs": str(EPOCHS), "least": str(LEAST),
        "sizes": " | ".join(map(str, sizes)), "columns": "---:|" * len(sizes),
        "passes": " | ".join(f"{value:.0f}" for value in epochs),
        "table": table({name: [f"{value:.1f}" for value in rows.mean(axis=1)] for name, rows in errors.items()}),
        "second": f"{np.sort(batch[at(16)])[-2]:.1f}", "largest": f"{batch[at(16)].max():.1f}",
        "one": paired(batch[0], group[0]).text(" points"),
        "rise": paired(batch[0], batch[at(64)]).text(" points"),
        "group_rise": paired(group[0], group[at(64)]).text(" points"),
        "best": str(sizes[best]),
        "sweet_small": paired(batch[at(16)], batch[at(64)]).text(" points"),
        "sweet_large": paired(batch[at(256)], batch[at(64)]).text(" points"),
    }


CLAIM = Claim("batch_size", "Batch sizes from 1 to 256", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
