"""The same bits for any number of threads and any ISA level, and whatever the strides."""

import json

import numpy as np
import pytest

from fastbn import ChannelStats
from fastbn._core.dispatch import LEVELS, isa, supported
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests.cases import CASES, LARGE_CASES, inputs
from tests.compare import same_bits
from tests.hashes import ACTIVATIONS, FOR_INFERENCE, THREADS
from tests.process import run


@pytest.fixture(scope="module")
def table():
    """{isa level: {case: {threads: hash}}} of every level this CPU has, each from a process of its own."""
    out = {}
    for level in supported():
        done = run("-m", "tests.hashes", FASTBN_ISA=level)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["isa"] == level
        out[level] = answer["hashes"]
    return out


def test_every_case_is_there(table):
    # layouts x dtypes x (three forwards, inferences and backwards; statistics, images and activations of inference)
    assert len(table[isa]) == len(CASES + LARGE_CASES) * 2 * 4 * (3 * len(ACTIVATIONS) + 2 + len(FOR_INFERENCE))
    assert sum(len(counts) for counts in table[isa].values()) == (len(CASES) + len(LARGE_CASES) * len(THREADS)) * 136


@pytest.mark.parametrize("case", LARGE_CASES, ids=lambda c: c.name)
def test_threads(table, case):
    for level, hashes in table.items():
        for key, counts in hashes.items():
            if key.startswith(f"{case.name} "):
                assert len(counts) == len(THREADS)
                assert len(set(counts.values())) == 1, f"{level} {key}: {counts}"


@pytest.mark.parametrize("level", LEVELS)
def test_isa_levels(table, level):
    if level not in table:
        pytest.skip(f"level {level} is not built, or beyond this CPU; it runs {', '.join(table)}")
    reference = table[isa]
    assert table[level].keys() == reference.keys()
    different = [key for key in reference if table[level][key] != reference[key]]
    assert different == []


def spread(a):
    """The same values, with a gap after every line of the last axis."""
    wide = np.full((*a.shape[:-1], a.shape[-1] + 5), np.nan, a.dtype)
    wide[..., :-5] = a
    return wide[..., :-5]


@pytest.mark.parametrize("case", [*CASES[5::9], *LARGE_CASES], ids=lambda c: c.name)
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


@pytest.mark.parametrize("case", [*CASES[::3], *LARGE_CASES], ids=lambda c: c.name)
def test_twice_the_same(case, layout):
    i = inputs(case, layout)
    first, _ = batch_norm_training(i.x, i.gamma, i.beta, axis=i.axis)
    # Another address, another alignment to a cache line.
    room = np.empty(i.x.size + 7, i.x.dtype)
    moved = room[7:].reshape(i.x.shape)
    moved[...] = i.x
    same_bits(batch_norm_training(moved, i.gamma, i.beta, axis=i.axis)[0], first)


@pytest.mark.parametrize(("shape", "axis"), [
    ((130, 2047, 1), 2), ((8, 1, 3), 1), ((1, 5000, 70), 0), ((300, 1, 200), 1)])
def test_one_channel_whatever_its_stride(shape, axis):
    # The stride of an axis of one means nothing, and may be anything.
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    gaps = np.zeros([2 * n for n in shape], np.float32)[tuple(slice(1, None, 2) for _ in shape)]
    gaps[...] = x
    reversed_twice = np.ascontiguousarray(x[::-1])[::-1]
    want, saved = batch_norm_training(x, axis=axis)
    for other in (gaps, reversed_twice):
        y, kept = batch_norm_training(other, axis=axis)
        same_bits(y, want)
        same_bits(kept.var, saved.var)
