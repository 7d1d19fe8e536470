"""An autoencoder of digits, and denoising autoencoders of digits and of patches of photographs.

The right quarter of the photographs is the test set.

Denoising: Vincent et al. (2010), "Stacked Denoising Autoencoders", Journal of Machine Learning Research 11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from examples.applications.result import Result, main, pictures
from examples.nn import data
from examples.nn.layers import Linear, activation, batch_norm
from examples.nn.loop import Examples, batches, progress, step
from examples.nn.losses import squared_error
from examples.nn.model import Sequential
from examples.nn.optimizers import Adam

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS, BATCH, RATE, NOISE, SHOWN = 3000, 64, 0.002, 0.3, 12
PATCHES, TEST_PATCHES, SIDE = 4000, 500, 8


def network(inputs: int, hidden: int, code: int, rng: np.random.Generator) -> Sequential:
    """Return an encoder to a code, and a decoder to values from 0 to 1."""
    return Sequential(
        Linear(inputs, hidden, rng, bias=False), batch_norm(hidden, "relu"),
        Linear(hidden, code, rng, bias=False), batch_norm(code),
        Linear(code, hidden, rng, bias=False), batch_norm(hidden, "relu"),
        Linear(hidden, inputs, rng, scale=np.sqrt(1 / hidden)), activation("sigmoid"))


def train(
    model: Sequential, clean: NDArray[Any], noise: float, steps: int, rng: np.random.Generator, name: str,
) -> None:
    """Train a network to return clean rows for noisy ones."""
    optimizer, some = Adam(model.parameters(), RATE), batches(Examples(clean, clean), BATCH, rng)
    with progress(steps, name) as bar:
        for k in range(steps):
            optimizer.rate = RATE * (1 - k / steps)
            batch = next(some)
            step(model, squared_error, optimizer, Examples(noisy(batch.x, noise, rng), batch.target))
            bar.update()


def noisy(x: NDArray[Any], noise: float, rng: np.random.Generator) -> NDArray[Any]:
    """Return x with normally distributed noise."""
    y: NDArray[Any] = x + rng.normal(0, noise, x.shape).astype(np.float32) if noise else x
    return y


def error(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the mean squared error."""
    return float(np.mean((a - b) ** 2))


def application(seed: int = 0, short: bool = False) -> Result:
    """Train all three, and show inputs and results."""
    steps, rng = STEPS // 10 if short else STEPS, np.random.default_rng([seed, 1])
    train_set, test_set = (part.x.reshape(len(part.x), -1) for part in data.digits(seed))
    code = network(64, 128, 12, rng)
    train(code, train_set, 0.0, steps, rng, "autoencoder")
    rebuilt = code.eval()(test_set)
    variance = float(test_set.var(axis=0).mean())
    numbers = {"digits, code of 12 numbers: share of the variance that is lost": error(rebuilt, test_set) / variance}
    rows: list[tuple[str, NDArray[Any]]] = [("digits", test_set), ("from a code of 12 numbers", rebuilt)]

    left, right = (data.photograph_patches(SIDE, seed, number, part).reshape(number, -1)
                   for number, part in ((PATCHES, (0.0, 0.75)), (TEST_PATCHES, (0.75, 1.0))))
    for name, clean, test, hidden in (("digits", train_set, test_set, 256),
                                      ("photographs", left, right, 512)):
        model = network(clean.shape[1], hidden, hidden // 4, rng)
        train(model, clean, NOISE, steps, rng, f"denoising {name}")
        spoilt = noisy(test, NOISE, rng)
        denoised = model.eval()(spoilt)
        numbers[f"{name}: squared error of the result, relative to that of the noisy input"] = (
            error(denoised, test) / error(spoilt, test))
        rows += [(f"{name} with noise", spoilt), ("denoised", denoised)]
        if name == "photographs":
            rows.append(("the photographs", test))
    shapes = {64: (8, 8), 3 * SIDE * SIDE: (SIDE, SIDE, 3)}
    images = [(title, images[:SHOWN].reshape(SHOWN, *shapes[images.shape[1]])) for title, images in rows]
    return Result(numbers, pictures(images, SHOWN))


if __name__ == "__main__":
    raise SystemExit(main(__file__, __doc__ or "", application))
