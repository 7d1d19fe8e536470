"""SyncBatchNorm over one to four ranks; what each rank does and asserts is in sync_program.py."""

from fractions import Fraction

import numpy as np
import pytest

from fastbn.layers.source import merge
from tests.interop import mpi

PROGRAM = "tests.interop.sync_program"
MASKS = "tests.interop.sync_masks_program"


def succeed(ranks, name, program=PROGRAM):
    done = mpi.run(ranks, program, name)
    assert done.code == 0, done.stdout + done.stderr
    assert done.stdout.count("done") == ranks


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["whole_batch", "awkward"])
def test_equals_one_process(name, ranks):
    succeed(ranks, name)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["positions", "by_channel", "kinds", "nothing", "accumulated", "adapted"])
def test_masks(name, ranks):
    succeed(ranks, name, MASKS)


@pytest.mark.parametrize("name", ["halves", "places", "modes"])
def test_as_the_layer(name):
    succeed(3, name)


@pytest.mark.parametrize("ranks", [2, 4])
def test_an_error_on_one_rank_is_raised_on_all(ranks):
    succeed(ranks, "errors")


@pytest.mark.parametrize("name", ["missing", "missing_from_the_start"])
def test_a_rank_that_does_not_come(name):
    done = mpi.run(3, PROGRAM, name)
    assert done.code != 0
    assert "the data of rank 0 are not there" in done.stderr
    assert done.stdout.count("timed out") == 2, done.stdout + done.stderr


def test_layers_of_different_widths():
    done = mpi.run(2, PROGRAM, "widths")
    assert done.stdout.count("refused") == 2, done.stdout + done.stderr


def test_a_rank_that_is_killed():
    done = mpi.run(3, PROGRAM, "killed")
    assert done.code != 0
    assert "done" not in done.stdout


exact = np.vectorize(Fraction, otypes=[object])


def moments(x):
    """Mean and variance of the rows in rational numbers."""
    mean = exact(x).sum(axis=0) / Fraction(len(x))
    return mean, ((exact(x) - mean) ** 2).sum(axis=0) / Fraction(len(x))


@pytest.mark.parametrize("ratio", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("ranks", [1, 2, 7, 300])
def test_merge(ranks, ratio):
    rng = np.random.default_rng(ranks)
    counts = rng.integers(0, 9, ranks)
    counts[-1] = 5
    x = rng.standard_normal((counts.sum(), 4)) + ratio
    parts = np.zeros((ranks, 1 + 3 * 4))
    for row, part in zip(parts, np.split(x, np.cumsum(counts)[:-1]), strict=True):
        if len(part):
            mean, var = moments(part)
            high = mean.astype(float)
            row[:] = len(part), *high, *(mean - exact(high)).astype(float), *(var * len(part)).astype(float)
    [count], mean, low, var = merge(parts[:, :1], parts[:, 1:])
    exact_mean, exact_var = moments(x)
    assert count == counts.sum()
    np.testing.assert_allclose(mean, exact_mean.astype(float), rtol=0, atol=4e-16 * max(ratio, 1.0))
    both = exact(mean) + exact(low) - exact_mean
    np.testing.assert_allclose(both.astype(float), 0, atol=1e-15)
    np.testing.assert_allclose(var, exact_var.astype(float), rtol=2e-15)


def test_arguments():
    succeed(1, "arguments")
