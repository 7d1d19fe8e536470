"""Data sets of scikit-learn, which need no download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import datasets  # type: ignore[import-untyped]

from examples.nn.loop import Examples
from fastbn import ChannelAffine, ChannelStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

HELD_OUT = 0.25     # share of the test examples


def digits(seed: int) -> tuple[Examples, Examples]:
    """Return training and test digits: images (N, 8, 8, 1) from 0 to 1, and labels from 0 to 9."""
    bunch = datasets.load_digits()
    return split((bunch.images[..., None] / 16).astype(np.float32), bunch.target, seed)


def table(name: str, seed: int) -> tuple[Examples, Examples]:
    """Return training and test rows of a table, standardized by the statistics of the training rows.

    Parameters
    ----------
    name : {"wine", "breast_cancer", "diabetes"}
    seed : int
    """
    train, test = raw_table(name, seed)
    statistics = ChannelStats(train.x.shape[1], axis=-1).update(train.x)
    standardize = ChannelAffine.from_mean_std(statistics.mean, statistics.std(), axis=-1)
    return tuple(part._replace(x=standardize(part.x.astype(np.float32))) for part in (train, test))  # type: ignore


def raw_table(name: str, seed: int) -> tuple[Examples, Examples]:
    """Return training and test rows of a table as they are."""
    bunch = getattr(datasets, f"load_{name}")()
    return split(bunch.data, bunch.target, seed)


def photograph_patches(
    size: int, seed: int, number: int, columns: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.float32]:
    """Return random patches of the two photographs, (number, size, size, 3), from 0 to 1.

    Parameters
    ----------
    size, seed, number : int
    columns : tuple of float
        Where the part of the photographs begins and ends that the patches are from, relative to their width.
    """
    rng = np.random.default_rng(seed)
    photographs = [image.astype(np.float32) / 255 for image in datasets.load_sample_images().images]
    found = np.empty((number, size, size, 3), np.float32)
    for k in range(number):
        image = photographs[k % len(photographs)]
        first, last = (int(share * image.shape[1]) for share in columns)
        image = image[:, first:last]
        top, left = (rng.integers(length - size + 1) for length in image.shape[:2])
        found[k] = image[top:top + size, left:left + size]
    return found


def split(x: NDArray[Any], target: NDArray[Any], seed: int) -> tuple[Examples, Examples]:
    """Return training and test examples, chosen at random."""
    order = np.random.default_rng(seed).permutation(len(x))
    held_out = int(HELD_OUT * len(x))
    return (Examples(x[order[held_out:]], target[order[held_out:]]),
            Examples(x[order[:held_out]], target[order[:held_out]]))
