"""Accuracy and bits of group norm: the error of y for any ratio of mean to standard deviation, threads, ISA levels."""

import json

import numpy as np
import pytest

from fastbn._core.dispatch import isa, supported
from fastbn.functional import (
    group_norm_backward,
    group_norm_inference,
    group_norm_training,
    instance_norm_training,
)
from tests.compare import same_bits
from tests.groups import DTYPES, GRID, LARGE_SHAPES, exact, exact_gradients, groups_of, hashes, inputs, results, units
from tests.process import run

layouts = pytest.mark.parametrize("layout", ["planes", "rows"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
LARGE = [(shape, groups) for shape in LARGE_SHAPES for groups in groups_of(shape)]


@pytest.mark.parametrize(("shape", "groups"), GRID + LARGE, ids=str)
@layouts
@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e4, 1e6], ids="{:g}".format)
def test_means_far_from_zero(shape, groups, layout, ratio):
    i = inputs(shape, layout, mean=-2 * ratio)
    want = exact(i.x, groups, i.gamma, i.beta, axis=i.axis)
    y, saved = group_norm_training(i.x, groups, i.gamma, i.beta, axis=i.axis)
    assert units(y, want.y, np.float32) <= 4
    np.testing.assert_allclose(saved.var, want.var.astype(float), rtol=5e-7)
    dx = group_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)[0]
    right = exact_gradients(i.dy, want, groups, i.gamma, axis=i.axis).dx
    assert units(dx, right, np.float32, want.rstd.max() * np.abs(i.gamma).max() * np.abs(i.dy).max()) <= 8


@layouts
@dtypes
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_a_constant_group_gives_beta(layout, dtype, groups):
    i = inputs((3, 6, 7), layout, dtype)
    values = np.random.default_rng(1).normal(0, 1e3, (3, groups)).repeat(6 // groups, 1)[:, :, None].repeat(7, 2)
    x = np.ascontiguousarray(np.moveaxis(values.astype(dtype), 1, i.axis))
    for y in (group_norm_training(x, groups, i.gamma, i.beta, axis=i.axis)[0],
              group_norm_inference(x, groups, i.gamma, i.beta, axis=i.axis)):
        beta = i.beta.astype(dtype)
        np.testing.assert_array_equal(np.moveaxis(y, i.axis, -1), np.broadcast_to(beta, (3, 7, 6)))


def test_eps():
    x = np.array([[[2.0, 2.0], [1.0, 3.0]]])
    y, saved = instance_norm_training(x, eps=0)
    assert np.isnan(y[0, 0]).all()
    np.testing.assert_array_equal(y[0, 1], [-1, 1])
    np.testing.assert_allclose(instance_norm_training(x, eps=3.0)[1].rstd, [[3 ** -0.5, 0.5]], rtol=1e-15)
    assert saved.var.tolist() == [[0, 1]]


@layouts
@dtypes
@pytest.mark.parametrize(("shape", "groups"), LARGE, ids=str)
def test_threads(shape, groups, layout, dtype):
    i = inputs(shape, layout, dtype)
    for activation, residual in ((None, False), ("relu", True), ("silu", False)):
        want = results(i, groups, activation, residual, 1)
        for threads in (2, 3, 5):
            for a, b in zip(results(i, groups, activation, residual, threads), want, strict=True):
                same_bits(a, b)


@pytest.mark.parametrize("level", supported())
def test_isa_levels(level):
    if level == isa:
        pytest.skip("the level of this process")
    done = run("-m", "tests.groups", FASTBN_ISA=level)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == hashes()
