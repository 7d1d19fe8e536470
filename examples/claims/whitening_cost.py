"""Full whitening also removes the correlation of channels, at a cost that grows with their number.

Ioffe and Szegedy (2015), section 3, normalize each channel by itself because whitening is costly. Whitening of
activations: Huang et al. (2018), https://arxiv.org/abs/1804.08450.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.style import BLUE, GREY, ORANGE, axes, ticks
from examples.nn import data

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

WIDTHS, ROWS, ROUNDS = (16, 32, 64, 128, 256, 512), 4096, 5
MEMBERS: dict[str, Callable[[int], Any]] = {
    "batch norm": lambda c: fastbn.BatchNorm(c, num_threads=1),
    "whitening, ZCA": lambda c: fastbn.Whitening(c, num_threads=1),
    "whitening, Newton": lambda c: fastbn.Whitening(c, method="iternorm", num_threads=1),
}


def correlation(y: NDArray[Any]) -> float:
    """Return the mean absolute correlation of two different channels."""
    c = np.corrcoef(y, rowvar=False)
    return float(np.abs(c[~np.eye(len(c), dtype=bool)]).mean())


def seconds(layer: Any, x: NDArray[Any]) -> float:
    """Return the best time of a forward and a backward pass."""
    best = np.inf
    for _ in range(ROUNDS):
        started = time.perf_counter()
        layer.backward(layer(x))
        best = min(best, time.perf_counter() - started)
    return best


def measure(plan: Plan) -> dict[str, Any]:
    """Measure the correlation of hidden values of digits, and the time of both passes against the channels."""
    widths = WIDTHS[:3] if plan.short else WIDTHS
    found: dict[str, Any] = {"widths": widths, "correlation": {"input": []}, "times": {}}
    with plan.progress(len(MEMBERS) * (len(widths) + 1), "whitening") as bar:
        images = data.digits(0)[0].x.reshape(-1, 64)
        for seed in range(plan.seeds):
            weight = np.random.default_rng(seed).normal(0, 1 / 8, (64, 32)).astype(np.float32)
            hidden = np.maximum(images @ weight, 0)
            hidden = hidden[:, hidden.std(axis=0) > 0]
            found["correlation"]["input"].append(correlation(hidden))
            for name, make in MEMBERS.items():
                found["correlation"].setdefault(name, []).append(correlation(make(hidden.shape[1])(hidden)))
        bar.update(len(MEMBERS))
        for name, make in MEMBERS.items():
            found["times"][name] = []
            for width in widths:
                x = np.random.default_rng(width).standard_normal((ROWS, width), np.float32)
                found["times"][name].append(seconds(make(width), x))
                bar.update()
    return found


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the correlations, and the times as multiples of batch norm."""
    left, right = axes(figure, 2)
    names = ["input", *MEMBERS]
    left.barh(range(len(names)), [np.mean(numbers["correlation"][name]) for name in names],
              color=[GREY, BLUE, ORANGE, ORANGE])
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(title="mean correlation of two channels")
    plain = np.array(numbers["times"]["batch norm"])
    for name, style in zip(MEMBERS, ("-", "-", ":"), strict=True):
        right.plot(numbers["widths"], np.array(numbers["times"][name]) / plain, style,
                   color=BLUE if name == "batch norm" else ORANGE, label=name)
    right.set(xscale="log", yscale="log", xlabel="channels", title="time of both passes, batch norm = 1")
    ticks(right, numbers["widths"])
    right.legend(frameon=False)


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    means = [np.mean(numbers["correlation"][name]) for name in ("input", *MEMBERS)]
    plain, zca, newton = (np.array(numbers["times"][name]) for name in MEMBERS)
    return {
        **{name: f"{mean:.3f}" for name, mean in zip(("input", "batch", "zca", "newton"), means, strict=True)},
        "rows": str(ROWS), "few": str(numbers["widths"][0]), "many": str(numbers["widths"][-1]),
        "zca_few": f"{zca[0] / plain[0]:.0f}", "zca_many": f"{zca[-1] / plain[-1]:.0f}",
        "newton_few": f"{newton[0] / plain[0]:.0f}", "newton_many": f"{newton[-1] / plain[-1]:.0f}",
    }


CLAIM = Claim("whitening_cost", "Whitening, and its cost", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
