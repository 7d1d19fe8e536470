"""With gamma = sqrt(var + eps) and beta = mean, batch normalization gives back its input.

Ioffe and Szegedy (2015), section 3: the transformation can represent the identity, so that a network loses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.style import BLUE, ORANGE, axes, band
from examples.nn import data
from examples.nn.losses import squared_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

STEPS, RATE = 200, 0.4
UNIT = 2.0**-24     # the rounding unit of float32


def measure(plan: Plan) -> dict[str, Any]:
    """Set gamma and beta, and learn them by gradient descent, on the 13 features of wine, not standardized."""
    exact, errors = [], []
    with plan.progress(plan.seeds, "identity") as bar:
        for seed in range(plan.seeds):
            x = data.raw_table("wine", seed)[0].x.astype(np.float32)
            mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
            bn = fastbn.BatchNorm(x.shape[1])
            bn.gamma, bn.beta = np.sqrt(std**2 + bn.eps), mean
            exact.append(float((np.abs(bn(x) - x).max(axis=0) / (UNIT * np.abs(x).max(axis=0))).max()))
            errors.append(learn(x / std.astype(np.float32), seed, plan.steps(STEPS)))
            bar.update()
    return {"exact": exact, "learned": errors}


def learn(x: Any, seed: int, steps: int) -> list[list[float]]:
    """Return the largest errors of gamma, of beta and of y over training from random gamma and beta."""
    bn = fastbn.BatchNorm(x.shape[1])
    goal = np.sqrt(x.var(axis=0, dtype=np.float64) + bn.eps), x.mean(axis=0, dtype=np.float64)
    bn.gamma[:], bn.beta[:] = np.random.default_rng([seed, 1]).normal(size=(2, x.shape[1]))
    found: list[list[float]] = [[], [], []]
    for _ in range(steps):
        y = bn(x)
        for errors, error in zip(found, (bn.gamma - goal[0], bn.beta - goal[1], y - x), strict=True):
            errors.append(float(np.abs(error).max()))
        _, dy = squared_error(y, x)
        bn.backward(dy * x.shape[1])        # the mean over samples, the sum over channels
        bn.gamma -= RATE * bn.grad_gamma
        bn.beta -= RATE * bn.grad_beta
    return found


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the errors over training."""
    (panel,) = axes(figure, 1)
    curves = np.array(numbers["learned"])
    for k, (name, colour) in enumerate((("gamma", BLUE), ("beta", ORANGE))):
        band(panel, np.arange(curves.shape[2]), curves[:, k], colour, name)
    panel.set(yscale="log", xlabel="step", ylabel="largest error", title="gamma to sqrt(var + eps), beta to the mean")
    panel.legend(frameon=False)


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    last = np.array(numbers["learned"])[:, :, -1].max(axis=0)
    return {"exact": f"{max(numbers['exact']):.1f}", "steps": str(STEPS), "gamma": f"{last[0]:.0e}",
            "beta": f"{last[1]:.0e}"}


CLAIM = Claim("identity", "The identity can be recovered", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
