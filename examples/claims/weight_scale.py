"""The scale of the weights before a batch normalization changes neither its result nor what flows back.

Ioffe and Szegedy (2015), section 3.3: BN((a W) u) = BN(W u), the gradient of u is the same, and that of a W is 1 / a of
that of W. The consequence for weight decay: van Laarhoven (2017), https://arxiv.org/abs/1706.05350.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.effect import paired
from examples.claims.style import BLUE, GREY, ORANGE, axes, band
from examples.nn import data
from examples.nn.layers import Linear, Reshape, batch_norm
from examples.nn.loop import accuracy, batches, step
from examples.nn.losses import cross_entropy
from examples.nn.model import Sequential
from examples.nn.optimizers import SGD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

FACTORS = [float(f"{factor:g}") for factor in np.logspace(-3, 3, 13)]
EPS = (1e-5, 0.0)
STEPS, EVERY, BATCH, RATE, HIDDEN = 6000, 100, 60, 2.0, 100
DECAYS = (0.0, 0.0005)


def invariance(seed: int) -> dict[str, list[list[float]]]:
    """Return relative differences between a W and W: of y, of the gradient of u, and of a times that of the weights.

    Each is a list of lists: by eps, by factor.
    """
    rng = np.random.default_rng(seed)
    u, weight, dy = rng.normal(size=(60, 64)), rng.normal(0, 1 / 8, (64, HIDDEN)), rng.normal(size=(60, HIDDEN))

    def results(factor: float, eps: float) -> list[NDArray[Any]]:
        bn = fastbn.BatchNorm(HIDDEN, eps=eps, dtype=np.float64)
        y = bn(u @ (factor * weight))
        dz = bn.backward(dy)
        return [y, dz @ (factor * weight).T, factor * (u.T @ dz)]

    found: dict[str, list[list[float]]] = {"y": [], "du": [], "dweight": []}
    for eps in EPS:
        right = results(1.0, eps)
        differences = [[np.abs(a - b).max() / np.abs(b).max() for a, b in zip(results(f, eps), right, strict=True)]
                       for f in FACTORS]
        for name, column in zip(found, zip(*differences, strict=True), strict=True):
            found[name].append([float(value) for value in column])
    return found


def train(decay: float, seed: int, steps: int) -> dict[str, list[float]]:
    """Return the norm of the first weights every EVERY steps, and the test accuracy at the end."""
    train_set, test_set = data.digits(seed)
    rng = np.random.default_rng([seed, 1])
    first = Linear(64, HIDDEN, rng, bias=False)
    model = Sequential(Reshape(64), first, batch_norm(HIDDEN, "relu"), Linear(HIDDEN, 10, rng))
    optimizer, order = SGD(model.parameters(), RATE, decay=decay), batches(train_set, BATCH, rng)
    norms = []
    for k in range(steps + 1):
        if k % EVERY == 0:
            norms.append(round(float(np.linalg.norm(first.weight)), 4))
        step(model, cross_entropy, optimizer, next(order))
    return {"norms": norms, "accuracy": [round(accuracy(model, test_set), 2)]}


def measure(plan: Plan) -> dict[str, Any]:
    """Compare the two sides of the equations, and train with and without weight decay."""
    with plan.progress(plan.seeds * (len(DECAYS) + 1), "weight scale") as bar:
        found: dict[str, Any] = {"factors": FACTORS, "eps": EPS, "differences": {}, "decays": DECAYS}
        every = []
        for seed in range(plan.seeds):
            every.append(invariance(seed))
            bar.update()
        for name in every[0]:
            found["differences"][name] = np.max([one[name] for one in every], axis=0).tolist()
        runs: list[list[dict[str, list[float]]]] = []
        for decay in DECAYS:
            runs.append([])
            for seed in range(plan.seeds):
                runs[-1].append(train(decay, seed, plan.steps(STEPS)))
                bar.update()
        found["norms"] = [[run["norms"] for run in group] for group in runs]
        found["accuracy"] = [[run["accuracy"][0] for run in group] for group in runs]
        return found


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the differences against the factor, and the norms and effective rates over training."""
    left, middle, right = axes(figure, 3)
    for eps, values, colour in zip(numbers["eps"], numbers["differences"]["y"], (ORANGE, BLUE), strict=True):
        left.plot(numbers["factors"], np.maximum(values, 1e-17), ".-", color=colour, label=f"eps = {eps:g}")
    left.set(xscale="log", yscale="log", xlabel="factor of the weights", ylabel="largest difference of y",
             title="BN((a W) u) and BN(W u)")
    left.legend(frameon=False)
    steps = np.arange(len(numbers["norms"][0][0])) * EVERY
    for decay, group, colour in zip(numbers["decays"], numbers["norms"], (GREY, BLUE), strict=True):
        name = f"decay {decay:g}" if decay else "no decay"
        band(middle, steps, group, colour, name)
        band(right, steps, RATE / np.array(group) ** 2, colour, name)
    middle.set(xlabel="step", title="norm of W")
    right.set(xlabel="step", yscale="log", title="effective rate, rate / norm$^2$")
    right.legend(frameon=False)


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    small, one = numbers["factors"].index(0.001), numbers["factors"].index(1.0)
    differences, norms = numbers["differences"], [np.array(group) for group in numbers["norms"]]
    growth = [(group[:, -1] / group[:, 0]).mean() for group in norms]
    return {
        "exact": f"{max(max(rows[1]) for rows in differences.values()):.0e}",
        "small": f"{100 * differences['y'][0][small]:.0f}", "large": f"{max(differences['y'][0][one:]):.0e}",
        "steps": str(STEPS), "rate": f"{RATE:g}", "decay": f"{DECAYS[1]:g}",
        "growth": f"{growth[0]:.2f}", "growth_decay": f"{growth[1]:.2f}",
        "effective": f"{np.mean((norms[0][:, -1] / norms[1][:, -1]) ** 2):.1f}",
        "accuracy": paired(numbers["accuracy"][1], numbers["accuracy"][0]).text(" points"),
    }


CLAIM = Claim("weight_scale", "Weight scale", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
