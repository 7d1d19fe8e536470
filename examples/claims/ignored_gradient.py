"""A gradient step that ignores the normalization makes parameters grow while the loss stands still.

Ioffe and Szegedy (2015), section 2: if the normalization is not part of the gradient, an update of the bias has no
effect on the output, and the bias grows without bound; it gets worse where the scale is normalized too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.style import BLUE, ORANGE, axes, band
from examples.nn import data
from examples.nn.layers import Linear
from examples.nn.losses import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

STEPS, EVERY, RATE = 1000, 10, 1.0


def train(ignoring: bool, seed: int, steps: int) -> list[list[float]]:
    """Return the training loss, the norm of the weights and that of the bias every EVERY steps.

    Each step takes the whole training set. The logits are normalized, without gamma and beta. `ignoring` takes mean and
    deviation as constants: dz = rstd dy.
    """
    train_set, _ = data.digits(seed)
    x = train_set.x.reshape(len(train_set.x), -1)
    linear = Linear(64, 10, np.random.default_rng([seed, 1]), scale=1 / 8)
    assert linear.bias is not None
    bn = fastbn.BatchNorm(10, affine=False)
    found: list[list[float]] = [[], [], []]
    for k in range(steps + 1):
        z = linear(x)
        loss, dy = cross_entropy(bn(z), train_set.target)
        dz: NDArray[Any] = dy / np.sqrt(z.var(axis=0) + np.float32(bn.eps)) if ignoring else bn.backward(dy)
        linear.backward(dz)
        if k % EVERY == 0:
            norms = (float(np.linalg.norm(array)) for array in (linear.weight, linear.bias))
            for curve, value in zip(found, (loss, *norms), strict=True):
                curve.append(value)
        linear.weight -= RATE * linear.grad_weight
        linear.bias -= RATE * linear.grad_bias
    return found


def measure(plan: Plan) -> dict[str, Any]:
    """Train by both gradients."""
    with plan.progress(2 * plan.seeds, "ignored gradient") as bar:
        def runs(ignoring: bool) -> list[list[list[float]]]:
            found = []
            for seed in range(plan.seeds):
                found.append(train(ignoring, seed, plan.steps(STEPS)))
                bar.update()
            return found

        return {"right": runs(False), "ignoring": runs(True)}


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the loss and the norms over training."""
    for k, (panel, title) in enumerate(zip(axes(figure, 3), ("loss", "norm of W", "norm of the bias"), strict=True)):
        for name, colour in (("right", BLUE), ("ignoring", ORANGE)):
            curves = np.array(numbers[name])[:, k]
            label = {"right": "right gradient", "ignoring": "normalization ignored"}[name]
            band(panel, EVERY * np.arange(curves.shape[1]), curves, colour, label)
        panel.set(xlabel="step", title=title)
        if k == 0:
            panel.legend(frameon=False)


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    right, wrong = (np.array(numbers[name]).mean(axis=0) for name in ("right", "ignoring"))
    half = wrong.shape[1] // 2
    return {
        "rate": f"{RATE:g}", "half": str(EVERY * half), "steps": str(STEPS),
        "loss": f"{wrong[0, half]:.3f}", "loss_end": f"{wrong[0, -1]:.3f}",
        "norm": f"{wrong[1, half]:.0f}", "norm_end": f"{wrong[1, -1]:.0f}",
        "bias": f"{wrong[2, half]:.2f}", "bias_end": f"{wrong[2, -1]:.2f}",
        "right": f"{right[0, half]:.3f}", "right_end": f"{right[0, -1]:.3f}", "right_norm": f"{right[1, -1]:.1f}",
        "right_bias": f"{right[2, -1]:.0e}",
    }


CLAIM = Claim("ignored_gradient", "A gradient that ignores the normalization", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
