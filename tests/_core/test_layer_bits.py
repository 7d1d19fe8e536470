"""Kernels of layer norm and RMS norm over rows: the same bits for any threads, ISA level, strides and stores."""

import json

import numpy as np
import pytest

from fastbn._core.dispatch import isa, kernels, supported
from tests.compare import same_bits
from tests.process import run
from tests.row_norms import DTYPES, backward, forward, hashes, results, values


@pytest.fixture(scope="module")
def table():
    """{ISA level: {name: {threads: hash}}}, each level from a process of its own."""
    out = {isa: hashes()}
    for level in supported():
        if level != isa:
            done = run("-m", "tests.row_norms", FASTBN_ISA=level)
            assert done.returncode == 0, done.stderr
            out[level] = json.loads(done.stdout)
    return out


def test_threads(table):
    for level, found in table.items():
        assert {key: counts for key, counts in found.items() if len(set(counts.values())) > 1} == {}, level


def test_isa_levels(table):
    if len(table) == 1:
        pytest.skip(f"this build has only one level that this CPU runs: {isa}")
    for level, found in table.items():
        assert [key for key, counts in found.items() if counts != table[isa][key]] == [], level


@pytest.mark.parametrize("width", [64, 600, 1030])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_strides_do_not_change_bits(width, dtype):
    x, dy, gamma, beta = values(40, width, dtype)

    def spread(a):
        wide = np.full((a.shape[0], width + 8), np.nan, dtype)
        wide[:, :width] = a
        return wide[:, :width]

    want = forward(x, gamma, beta)
    out = spread(x)
    got = forward(spread(x), gamma, beta, out=out)
    same_bits(got.y, want.y)
    same_bits(backward(spread(dy), spread(x), got.statistics, gamma, out=out).dx,
              backward(dy, x, want.statistics, gamma).dx)


def test_a_row_does_not_depend_on_the_others():
    x, dy, gamma, beta = values(50, 100, np.float32)
    y, statistics = forward(x, gamma, beta)
    dx = backward(dy, x, statistics, gamma).dx
    for k in (0, 17, 49):
        alone = forward(x[k:k + 1], gamma, beta)
        same_bits(alone.y[0], y[k])
        same_bits(backward(dy[k:k + 1], x[k:k + 1], alone.statistics, gamma).dx[0], dx[k])


@pytest.mark.parametrize("width", [48, 64, 100, 1024])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_stores_around_the_caches(width, dtype):
    x, dy, gamma, beta = values(50, width, dtype)
    want = results(x, dy, gamma, beta, about_zero=False, threads=1)
    before = kernels.assume_last_cache(0)
    try:
        got = results(x, dy, gamma, beta, about_zero=False, threads=1)
    finally:
        kernels.assume_last_cache(before)
    for a, b in zip(got, want, strict=True):
        same_bits(a, b)
