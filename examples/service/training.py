"""Trains the network of ``python -m fastbn demo`` on uint8 images, as the service receives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fastbn import BatchNorm, ChannelAffine, ChannelStats
from fastbn.cli.demo.network import Network
from fastbn.cli.demo.training import Digits, Run, load, train_epoch

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPOCHS, BATCH, RATE, SEED = 10, 64, 0.1, 0


def pixels(digits: Digits) -> NDArray[np.uint8]:
    """Return the images as uint8 values from 0 to 255."""
    scaled: NDArray[np.float32] = np.rint(255 * digits.images)
    return scaled.astype(np.uint8)


def test_pixels() -> NDArray[np.uint8]:
    """Return the test digits, shape (450, 8, 8, 1)."""
    return pixels(load(SEED)[1])


def train() -> tuple[dict[str, NDArray[Any]], float]:
    """Train the network, which takes one or two seconds.

    Returns
    -------
    parameters : dict
        Parameters for `examples.service.model.Classifier`.
    accuracy : float
        Test accuracy in percent.
    """
    train_digits, test_digits = load(SEED)
    statistics = ChannelStats(1, axis=-1).update(pixels(train_digits) / np.float32(255))
    normalize = ChannelAffine.from_mean_std(statistics.mean, statistics.std())
    train_set, test_set = (Digits(normalize(pixels(d)), d.labels) for d in (train_digits, test_digits))
    run = Run(Network(True, np.random.default_rng([SEED, 1])), True, RATE)
    order = np.random.default_rng([SEED, 2])
    with threadpool_limits(1, user_api="blas"):     # the matrices are small
        for _ in range(EPOCHS):
            run.accuracy.append(train_epoch(run, train_set, test_set, BATCH, order))
    return {"mean": statistics.mean, "std": statistics.std(), **parameters(run.network)}, run.accuracy[-1]


def parameters(network: Network) -> dict[str, NDArray[Any]]:
    """Return the parameters of a trained network by name."""
    arrays = {"weight": network.weight, "bias": network.bias}
    for i, (convolution, norm) in enumerate(zip(network.convolutions, network.norms, strict=True)):
        assert isinstance(norm, BatchNorm)
        arrays[f"convolutions.{i}.weight"] = convolution.weight
        arrays |= {f"norms.{i}.{name}": value for name, value in norm.state_dict().items()}
    return arrays
