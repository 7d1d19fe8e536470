"""The same bits for any number of threads, any ISA level and any strides."""

import json

import numpy as np
import pytest

from fastbn import ChannelStats
from fastbn._core.dispatch import isa, supported
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests.cases import CASES, LARGE_CASES, SAMPLE_CASES, inputs
from tests.compare import same_bits
from tests.grid import over
from tests.hashes import ACTIVATIONS, AWKWARD, AWKWARD_CASES, FOR_INFERENCE, THREADS, TRAINED_CASES
from tests.process import run


@pytest.fixture(scope="module")
def table():
    """{ISA level: {name: {threads: hash}}} of every level of this build and CPU, each from a process of its own."""
    out = {}
    for level in supported():
        done = run("-m", "tests.hashes", "cases", FASTBN_ISA=level)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["isa"] == level
        out[level] = answer["hashes"]
    return out


def test_every_case_is_there(table):
    # The forwards, inferences and backwards; the statistics and images; the activations of inference.
    results = 3 * len(ACTIVATIONS) + 2 + len(FOR_INFERENCE)
    # Four dtypes of each case, two of awkward values.
    arrays, large = (4 * sum(len(c.layouts) for c in cases) for cases in (CASES + LARGE_CASES, LARGE_CASES))
    arrays += 2 * sum(len(c.layouts) for c in AWKWARD_CASES) * len(AWKWARD)
    # And training with the activations of inference.
    trained = [4 * len(c.layouts) * len(FOR_INFERENCE) for c in TRAINED_CASES]
    runs = [len(THREADS) if c in LARGE_CASES else 1 for c in TRAINED_CASES]
    assert len(table[isa]) == results * arrays + sum(trained)
    assert sum(map(len, table[isa].values())) == (
        results * (arrays + large * (len(THREADS) - 1)) + sum(a * b for a, b in zip(trained, runs, strict=True)))


def test_threads(table):
    for level, hashes in table.items():
        different = {key: counts for key, counts in hashes.items() if len(set(counts.values())) > 1}
        assert different == {}, level


def test_isa_levels(table):
    if len(table) == 1:
        pytest.skip(f"this build has only one level that this CPU runs: {isa}")
    for level, hashes in table.items():
        assert hashes.keys() == table[isa].keys()
        assert [key for key, counts in hashes.items() if counts != table[isa][key]] == [], level


def spread(a):
    """The same values, with gaps along the last axis."""
    wide = np.full((*a.shape[:-1], a.shape[-1] + 5), np.nan, a.dtype)
    wide[..., :-5] = a
    return wide[..., :-5]


@over(SAMPLE_CASES + LARGE_CASES)
def test_strides_do_not_change_bits(case, layout):
    i = inputs(case, layout)
    common = {"axis": i.axis, "activation": "relu"}

    def everything(change):
        x, dy = change(i.x), change(i.dy)
        out, dx = change(np.empty_like(i.x)), change(np.empty_like(i.x))
        y, saved = batch_norm_training(x, i.gamma, i.beta, out=out, **common)
        z = batch_norm_inference(x, i.mean, i.var, i.gamma, i.beta, **common)
        gradients = batch_norm_backward(dy, x, saved, i.gamma, axis=i.axis, out=dx)
        stats = ChannelStats(case.channels, axis=i.axis).update(x)
        return y, saved.mean, saved.var, z, *gradients, stats.mean, stats.m2

    for a, b in zip(everything(np.array), everything(spread), strict=True):
        same_bits(a, b)


@over(SAMPLE_CASES + LARGE_CASES)
def test_twice_the_same(case, layout):
    i = inputs(case, layout)
    first, _ = batch_norm_training(i.x, i.gamma, i.beta, axis=i.axis)
    # At another address, with another alignment to a cache line.
    room = np.empty(i.x.size + 7, i.x.dtype)
    moved = room[7:].reshape(i.x.shape)
    moved[...] = i.x
    same_bits(batch_norm_training(moved, i.gamma, i.beta, axis=i.axis)[0], first)


@pytest.mark.parametrize(("shape", "axis"), [
    ((130, 2047, 1), 2), ((8, 1, 3), 1), ((1, 5000, 70), 0), ((300, 1, 200), 1)])
def test_one_channel_whatever_its_stride(shape, axis):
    # The stride of an axis of length one is arbitrary.
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    gaps = np.zeros([2 * n for n in shape], np.float32)[tuple(slice(1, None, 2) for _ in shape)]
    gaps[...] = x
    reversed_twice = np.ascontiguousarray(x[::-1])[::-1]
    want, saved = batch_norm_training(x, axis=axis)
    for other in (gaps, reversed_twice):
        y, kept = batch_norm_training(other, axis=axis)
        same_bits(y, want)
        same_bits(kept.var, saved.var)
