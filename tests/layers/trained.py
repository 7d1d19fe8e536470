"""Layers for the tests: batches, a layer that has seen some, and what its state was before."""

import copy

import numpy as np

from fastbn import BatchNorm
from tests.cases import array, axis_of, case

SHAPE = case(16, 5, 3, 3)
N = 16 * 9
STATE = ("gamma", "beta", "running_mean", "running_var")


def batches(layout="planes", dtype=np.float32, count=4):
    return [array(SHAPE, layout, dtype, mean=3, std=2, seed=s) for s in range(count)]


def trained(layout="planes", dtype=np.float32, **options):
    """A layer that has seen two batches and has parameters of its own."""
    bn = BatchNorm(5, axis=axis_of(layout), dtype=dtype, **options)
    if bn.gamma is not None:
        bn.gamma[...] = [1, -2, 0.5, 3, 0.1]
    if bn.beta is not None:
        bn.beta[...] = [0, 1, -1, 0.5, 2]
    for x in batches(layout, dtype, 2):
        bn(x)
    return bn


def snapshot(bn):
    state = {name: copy.deepcopy(getattr(bn, name)) for name in STATE}
    return state | {"count": bn.num_batches_tracked}


def assert_same(bn, before):
    after = snapshot(bn)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
