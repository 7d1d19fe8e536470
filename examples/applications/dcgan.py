"""Generate digits by a DCGAN with batch norm in both networks, and real and generated digits together or apart.

Radford, Metz and Chintala (2016), https://arxiv.org/abs/1511.06434. A batch of real and generated digits together has
statistics of neither, so that the discriminator normalizes one by the other; the usual remedy is a batch for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]

from examples.applications.result import Result, main, pictures
from examples.nn import data
from examples.nn.layers import Convolution, Linear, Parameter, Reshape, Upsample, activation, batch_norm
from examples.nn.loop import Examples, batches, progress
from examples.nn.losses import binary_cross_entropy
from examples.nn.model import Sequential
from examples.nn.optimizers import Adam

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS, BATCH, RATE, BETAS, CODE, LEAK = 800, 64, 0.001, (0.5, 0.999), 16, ("leaky_relu", 0.2)


REAL = 0.9      # the target of real digits, below 1 as in Salimans et al. (2016), https://arxiv.org/abs/1606.03498


def generator(rng: np.random.Generator) -> Sequential:
    """Return a network from codes (N, CODE) to images (N, 8, 8, 1)."""
    return Sequential(
        Linear(CODE, 4 * 4 * 32, rng, bias=False), Reshape(4, 4, 32), batch_norm(32, "relu"), Upsample(),
        Convolution(32, 16, rng), batch_norm(16, "relu"), Convolution(16, 1, rng, bias=True, scale=0.05),
        activation("sigmoid"))


def discriminator(rng: np.random.Generator) -> Sequential:
    """Return a network from images to logits (N, 1), positive for real ones."""
    return Sequential(
        Convolution(1, 16, rng, bias=True), activation("leaky_relu"), Convolution(16, 32, rng, stride=2),
        batch_norm(32, LEAK), Convolution(32, 64, rng, stride=2), batch_norm(64, LEAK), Reshape(2 * 2 * 64),
        Linear(2 * 2 * 64, 1, rng, scale=0.05))


class Totals:
    """Parameters whose gradients are sums over several backward passes."""

    def __init__(self, model: Sequential) -> None:
        self._parameters = model.parameters()
        self.clear()

    def clear(self) -> None:
        """Begin a new sum."""
        self._sums: list[NDArray[Any]] = [np.zeros_like(p.value) for p in self._parameters]

    def add(self) -> None:
        """Add the gradients of the last backward pass."""
        for total, parameter in zip(self._sums, self._parameters, strict=True):
            total += parameter.gradient()

    def parameters(self) -> list[Parameter]:
        """Return the parameters with the sums as gradients."""
        return [Parameter(p.value, lambda k=k: self._sums[k], p.decays)     # type: ignore[misc]
                for k, p in enumerate(self._parameters)]


def train(together: bool, seed: int, steps: int) -> Sequential:
    """Return a trained generator. `together`: the discriminator gets real and generated digits in one batch."""
    rng = np.random.default_rng([seed, 1])
    make, judge = generator(rng), discriminator(rng)
    totals = Totals(judge)
    optimizers = Adam(make.parameters(), RATE, BETAS), Adam(totals.parameters(), RATE, BETAS)
    some = batches(Examples(*data.digits(seed)[0]), BATCH, rng)
    with progress(steps, "together" if together else "apart") as bar:
        for _ in range(steps):
            real, fake = next(some).x, make(rng.standard_normal((BATCH, CODE), np.float32))
            totals.clear()
            parts: list[tuple[Any, Any]] = [(real, REAL), (fake, 0.0)]
            if together:
                parts = [(np.concatenate([real, fake]), np.repeat(np.array([[REAL], [0]], np.float32), BATCH, axis=0))]
            for x, target in parts:
                _, dlogits = binary_cross_entropy(judge(x), target)
                judge.backward(dlogits.astype(np.float32))
                totals.add()
            optimizers[1].step()
            logits = judge(np.concatenate([real, fake]) if together else fake)
            _, dlogits = binary_cross_entropy(logits[-BATCH:], 1.0)
            dlogits = np.concatenate([np.zeros((len(logits) - BATCH, 1)), dlogits])     # none through real digits
            make.backward(judge.backward(dlogits.astype(np.float32))[-BATCH:])
            optimizers[0].step()
            bar.update()
    return make


def distance(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the Frechet distance of two sets of images, as of normal distributions of their pixels."""
    x, y = (images.reshape(len(images), -1).astype(np.float64) for images in (x, y))
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()     # the trace of the root of a b
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * cross)


def application(seed: int = 0, short: bool = False) -> Result:
    """Train with real and generated digits apart and together, and compare the digits of both with real ones."""
    train_set, test_set = data.digits(seed)
    nearest = KNeighborsClassifier(3).fit(train_set.x.reshape(-1, 64), train_set.target)
    numbers = {"real training digits: distance to test digits": distance(train_set.x, test_set.x)}
    rows = [("real", train_set.x[:12, :, :, 0])]
    codes = np.random.default_rng([seed, 2]).standard_normal((1000, CODE), np.float32)
    for name, together in (("apart", False), ("together", True)):
        made = train(together, seed, STEPS // 10 if short else STEPS).eval()(codes)
        share = np.bincount(nearest.predict(made.reshape(-1, 64)), minlength=10) / len(made)
        numbers[f"{name}: distance of generated digits to test digits"] = distance(made, test_set.x)
        numbers[f"{name}: share of the rarest digit in %"] = 100 * float(share.min())
        rows.append((f"generated, trained {name}", made[:12, :, :, 0]))
    return Result(numbers, pictures(rows, 12))


if __name__ == "__main__":
    raise SystemExit(main(__file__, __doc__ or "", application))
