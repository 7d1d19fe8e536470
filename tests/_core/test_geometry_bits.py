"""Samples and channels per statistic: the same bits for any number of threads, any ISA level and any cache."""

import json

import numpy as np
import pytest

from fastbn._core.dispatch import isa, kernels, supported
from tests._core.geometry import hashes, inputs, run
from tests.compare import same_bits
from tests.process import run as run_process


@pytest.mark.parametrize("layout", ["planes", "rows"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize(("shape", "samples", "channels"), [
    # Many small groups; a few large ones; one group of pooled channels.
    ((70, 24, 60), 1, 1), ((70, 24, 60), 1, 4), ((70, 24, 60), 3, 24), ((5, 40, 1300), 2, 1), ((5, 40, 1300), 2, 40),
    ((3, 4, 33000), 2, 2), ((2, 3, 60000), 1, 3), ((6, 1026, 30), 4, 2)], ids=str)
def test_threads(shape, samples, channels, layout, dtype):
    i = inputs(shape, layout, dtype, mean=3.0)
    want = run(i, samples, channels, relu=True, residual=True)
    for num_threads in (2, 3, 5):
        got = run(i, samples, channels, relu=True, residual=True, num_threads=num_threads)
        for a, b in zip(got, want, strict=True):
            same_bits(a, b)


@pytest.mark.parametrize("layout", ["planes", "rows"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize(("samples", "channels"), [(1, 1), (2, 4), (5, 8)])
@pytest.mark.parametrize("options", [{}, {"relu": True, "residual": True}, {"activation": "silu"}], ids=str)
def test_outputs_that_are_stored_around_the_caches(samples, channels, layout, dtype, options):
    i = inputs((5, 8, 64), layout, dtype)
    want = run(i, samples, channels, **options)
    before = kernels.assume_last_cache(0)
    try:
        got = run(i, samples, channels, **options)
    finally:
        kernels.assume_last_cache(before)
    for a, b in zip(got, want, strict=True):
        if a is not None:
            same_bits(a, b)


@pytest.mark.parametrize("level", supported())
def test_isa_levels(level):
    if level == isa:
        pytest.skip("the level of this process")
    done = run_process("-m", "tests._core.geometry", FASTBN_ISA=level)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == hashes()
