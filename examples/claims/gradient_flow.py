"""Gradients of deep networks, and the singular values of a layer's Jacobian.

Ioffe and Szegedy (2015), section 3.3, expect Jacobians with singular values near 1. Yang et al. (2019),
https://arxiv.org/abs/1902.08129, show that gradients explode in deep networks with batch norm and no shortcuts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import fastbn
from examples.claims.claim import Claim, Plan, main
from examples.claims.effect import table
from examples.claims.style import BLUE, GREY, ORANGE, axes, band
from examples.nn import data
from examples.nn.layers import Linear, Reshape, activation, batch_norm
from examples.nn.losses import cross_entropy
from examples.nn.model import Residual, Sequential

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

DEPTH, HIDDEN, BATCH = 30, 64, 128
SCALES = {"half": 0.5, "He": 1.0, "double": 2.0}        # times sqrt(2 / inputs)
SAMPLES, UNITS = 16, 32     # of the Jacobian, whose size is the square of their product
RANKS = 33      # quantiles of the singular values that are kept


def network(kind: str, scale: float, rng: np.random.Generator) -> Sequential:
    """Return a network of 30 layers of ReLUs."""
    layers: list[Any] = [Reshape(64)]
    for _ in range(DEPTH):
        linear = Linear(HIDDEN, HIDDEN, rng, bias=False, scale=scale * np.sqrt(2 / HIDDEN))
        if kind == "batch norm and shortcuts":
            layers.append(Residual(linear, norm=fastbn.BatchNorm(HIDDEN)))
        else:
            layers += [linear, batch_norm(HIDDEN, "relu") if kind == "with batch norm" else activation("relu")]
    return Sequential(*layers, Linear(HIDDEN, 10, rng, scale=np.sqrt(1 / HIDDEN)))


KINDS = ("with batch norm", "without", "batch norm and shortcuts")


def norms(kind: str, scale: float, seed: int) -> list[float]:
    """Return the norm of the gradient of the output of each layer, from the first to the last."""
    batch = data.digits(seed)[0]
    model = network(kind, scale, np.random.default_rng([seed, 1]))
    with np.errstate(all="ignore"):
        _, dy = cross_entropy(model(batch.x[:BATCH]), batch.target[:BATCH])
        found = []
        for layer in reversed(model.layers):
            if isinstance(layer, Residual) or type(layer).__name__ in ("Activated", "Function"):
                found.append(float(np.linalg.norm(dy)))
            dy = layer.backward(dy.astype(np.float32))
    return found[::-1]


def singular_values(normalized: bool, scale: float, seed: int) -> list[float]:
    """Return quantiles of those of the Jacobian of one layer, without ReLU, by all inputs of a batch."""
    rng = np.random.default_rng(seed)
    u, weight = rng.normal(size=(SAMPLES, UNITS)), rng.normal(0, scale / np.sqrt(UNITS), (UNITS, UNITS))
    bn = fastbn.BatchNorm(UNITS, dtype=np.float64)
    bn(u @ weight)

    def row(k: int) -> NDArray[Any]:
        dy = np.zeros((SAMPLES, UNITS))
        dy.flat[k] = 1
        dx: NDArray[Any] = (bn.backward(dy) if normalized else dy) @ weight.T
        return dx.ravel()

    jacobian = np.array([row(k) for k in range(SAMPLES * UNITS)])
    return [float(q) for q in np.quantile(np.linalg.svd(jacobian, compute_uv=False), np.linspace(0, 1, RANKS))]


def measure(plan: Plan) -> dict[str, Any]:
    """Measure gradients at initialization, and singular values, for weights of three scales."""
    found: dict[str, Any] = {"norms": {}, "singular": {}}
    with plan.progress(len(SCALES) * plan.seeds, "gradient flow") as bar:
        for name, scale in SCALES.items():
            found["norms"][name] = {kind: [] for kind in KINDS}
            found["singular"][name] = {"with batch norm": [], "without": []}
            for seed in range(plan.seeds):
                for kind, curves in found["norms"][name].items():
                    curves.append(norms(kind, scale, seed))
                for kind, values in found["singular"][name].items():
                    values.append(singular_values(kind == "with batch norm", scale, seed))
                bar.update()
    return found


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw the norms by layer, and the singular values."""
    *panels, last = axes(figure, len(SCALES) + 1)
    for panel, name in zip(panels, SCALES, strict=True):
        for kind, colour in zip(KINDS, (BLUE, ORANGE, GREY), strict=True):
            band(panel, range(1, DEPTH + 1), numbers["norms"][name][kind], colour, kind)
        panel.set(yscale="log", xlabel="layer", title=f"norm of the gradient, {SCALES[name]:g} x He")
    panels[0].legend(frameon=False, fontsize=8)
    for name, style in zip(SCALES, (":", "-", "--"), strict=True):
        for kind, colour in zip(KINDS[:2], (BLUE, ORANGE), strict=True):
            values = np.mean(numbers["singular"][name][kind], axis=0)
            last.plot(np.linspace(0, 1, len(values)), np.maximum(values, 1e-3), style, color=colour)
    last.set(yscale="log", xlabel="quantile", title="singular values of a layer")


def growth(curves: Any) -> float:
    """Return by which factor the norm of the gradient grows from one layer to the one below."""
    logs = np.log(np.array(curves))
    return float(np.exp(np.mean((logs[:, 0] - logs[:, -1]) / (DEPTH - 1))))


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    rows, medians = {}, {}
    for name, scale in SCALES.items():
        rows[f"{scale:g}"] = [f"{growth(numbers['norms'][name][kind]):.3f}" for kind in KINDS]
        medians[f"{scale:g}"] = [f"{np.mean(numbers['singular'][name][kind], axis=0)[int(q * (RANKS - 1))]:.2f}"
                                 for kind in KINDS[:2] for q in (0.25, 0.5, 0.75)]
    zeros = 2 / SAMPLES     # of the values of a channel, two directions are lost
    return {"depth": str(DEPTH), "width": str(HIDDEN), "kinds": " | ".join(KINDS), "table": table(rows),
            "singular": table(medians), "zeros": f"{100 * zeros:.0f}",
            "theory": f"{np.sqrt(np.pi / (np.pi - 1)):.3f}"}


CLAIM = Claim("gradient_flow", "Vanishing and exploding gradients", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
