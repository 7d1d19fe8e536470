"""Group norm and instance norm against the definition: statistics, y and gradients."""

import ml_dtypes
import numpy as np
import pytest

from fastbn import ChannelAffine
from fastbn.functional import (
    GroupSaved,
    batch_norm_backward,
    batch_norm_training,
    group_norm_backward,
    group_norm_inference,
    group_norm_training,
    instance_norm_backward,
    instance_norm_backward_backward,
    instance_norm_inference,
    instance_norm_jvp,
    instance_norm_training,
)
from tests.compare import same_bits
from tests.functional.test_derivatives import NAMES
from tests.groups import DTYPES, GRID, exact, exact_gradients, inputs, unit_of, units

over = pytest.mark.parametrize(("shape", "groups"), GRID, ids=str)
layouts = pytest.mark.parametrize("layout", ["planes", "rows"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)


def check_forward(got, saved, want, dtype):
    computed = np.float64 if dtype == np.float64 else np.float32
    assert got.dtype == dtype
    assert units(got, want.y, dtype) <= (4 if dtype == computed else 1.01)
    assert saved.mean.shape == saved.var.shape == saved.rstd.shape == want.mean.shape
    spread = np.abs(want.mean).max() + np.sqrt(want.var.max())
    assert units(saved.mean, want.mean, computed, spread) <= 4
    assert units(saved.var, want.var, computed) <= 8
    np.testing.assert_allclose(saved.rstd, want.rstd.astype(np.float64), rtol=16 * unit_of(computed))


def check_gradients(got, want, of, i):
    dtype = i.x.dtype.type
    size = of.rstd.max() * np.abs(i.gamma).max() * np.abs(i.dy.astype(np.float64)).max()
    assert got[0].dtype == dtype
    assert units(got[0], want.dx, dtype, size) <= {np.float32: 8, np.float64: 64}.get(dtype, 1.5)
    rest = tuple(k for k in range(i.dy.ndim) if k != i.axis % i.dy.ndim)
    summed = np.abs(i.dy.astype(np.float64)).sum(rest).max()
    for sums, right in ((got[1], want.dgamma), (got[2], want.dbeta)):
        assert sums.dtype == np.float64
        assert np.abs(sums - right).max() <= 4 * summed * (1e-14 if dtype == np.float64 else 5e-7)


@over
@layouts
@dtypes
def test_definition(shape, groups, layout, dtype):
    i = inputs(shape, layout, dtype)
    want = exact(i.x, groups, i.gamma, i.beta, axis=i.axis)
    y, saved = group_norm_training(i.x, groups, i.gamma, i.beta, axis=i.axis)
    check_forward(y, saved, want, dtype)
    assert saved.count == i.x[0].size // groups
    same_bits(group_norm_inference(i.x, groups, i.gamma, i.beta, axis=i.axis), y)
    got = group_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    check_gradients(got, exact_gradients(i.dy, want, groups, i.gamma, axis=i.axis), want, i)


@pytest.mark.parametrize("axis", [1, 2, 3, 4, -1, -4])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_every_channel_axis(axis, groups):
    shape = [3, 2, 5, 4, 3]
    shape[axis] = 6
    rng = np.random.default_rng(axis % 5)
    x, dy = rng.normal(3, 2, (2, *shape)).astype(np.float32)
    gamma, beta = rng.normal(1, 0.5, (2, 6)).astype(np.float32)
    want = exact(x, groups, gamma, beta, axis=axis)
    y, saved = group_norm_training(x, groups, gamma, beta, axis=axis)
    check_forward(y, saved, want, np.float32)
    got = group_norm_backward(dy, x, saved, gamma, axis=axis)
    right = exact_gradients(dy, want, groups, gamma, axis=axis)
    assert units(got[0], right.dx, np.float32, want.rstd.max() * np.abs(gamma).max() * np.abs(dy).max()) <= 8
    np.testing.assert_allclose(got[1], right.dgamma.astype(float), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(got[2], right.dbeta.astype(float), rtol=1e-5, atol=1e-5)


@layouts
@dtypes
def test_instance_norm_is_group_norm_of_single_channels(layout, dtype):
    i = inputs((3, 6, 5, 4), layout, dtype)
    for options in ({}, {"activation": "relu"}, {"activation": "relu", "residual": i.residual}):
        y, saved = instance_norm_training(i.x, i.gamma, i.beta, axis=i.axis, **options)
        z, other = group_norm_training(i.x, 6, i.gamma, i.beta, axis=i.axis, **options)
        same_bits(y, z)
        same_bits(saved.var, other.var)
        same_bits(instance_norm_inference(i.x, i.gamma, i.beta, axis=i.axis, **options), y)
        for a, b in zip(instance_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis),
                        group_norm_backward(i.dy, i.x, other, i.gamma, axis=i.axis), strict=True):
            same_bits(a, b)


@layouts
def test_instance_norm_is_batch_norm_of_each_sample(layout):
    i = inputs((4, 6, 5, 7), layout)
    y, saved = instance_norm_training(i.x, i.gamma, i.beta, axis=i.axis)
    dx = instance_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)[0]
    for n in range(4):
        z, other = batch_norm_training(i.x[n:n + 1], i.gamma, i.beta, axis=i.axis)
        same_bits(y[n:n + 1], z)
        same_bits(saved.mean[n], other.mean)
        same_bits(dx[n:n + 1], batch_norm_backward(i.dy[n:n + 1], i.x[n:n + 1], other, i.gamma, axis=i.axis)[0])


@pytest.mark.parametrize(("gamma", "beta"), [(True, True), (True, False), (False, True)])
@layouts
def test_parameters_of_groups(layout, gamma, beta):
    i = inputs((3, 6, 5), layout)
    two = {"gamma": i.gamma[[0, 3]], "beta": i.beta[[0, 3]]}
    each = {name: v.repeat(3) for name, v in two.items()}
    given = {"gamma": two["gamma"] if gamma else each["gamma"], "beta": two["beta"] if beta else each["beta"]}
    y, saved = group_norm_training(i.x, 2, **given, axis=i.axis)
    z, other = group_norm_training(i.x, 2, **each, axis=i.axis)
    same_bits(y, z)
    same_bits(group_norm_inference(i.x, 2, **given, axis=i.axis), y)
    dx, dgamma, dbeta = group_norm_backward(i.dy, i.x, saved, given["gamma"], axis=i.axis)
    dz, *sums = group_norm_backward(i.dy, i.x, other, each["gamma"], axis=i.axis)
    same_bits(dx, dz)
    for got, total, per_group in ((dgamma, sums[0], gamma), (dbeta, sums[1], beta)):
        want = total.reshape(2, 3).sum(1) if per_group else total
        np.testing.assert_allclose(got, want, rtol=1e-15)
        assert got.shape == want.shape


def test_parameters_are_optional_and_may_be_lists():
    x = np.random.default_rng(0).normal(2, 3, (3, 4, 5))
    want = exact(x, 2)
    y, saved = group_norm_training(x, 2)
    np.testing.assert_allclose(y, want.y.astype(float), rtol=0, atol=1e-14)
    _, dgamma, dbeta = group_norm_backward(x, x, saved)
    assert dgamma.shape == dbeta.shape == (4,)
    for gamma in ([1, 2], [1.0, 1.0, 2.0, 2.0], (1, 2), np.array([1.0, 2.0], ">f4")):
        z, other = group_norm_training(x, 2, gamma, beta=[3, 4, 5, 6])
        np.testing.assert_allclose(z, exact(x, 2, [1, 2], [3, 4, 5, 6]).y.astype(float), rtol=0, atol=1e-14)
        grads = group_norm_backward(x, x, other, gamma)
        np.testing.assert_allclose(grads[2], dbeta, rtol=1e-14)


@over
@layouts
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("with_residual", [False, True])
def test_relu(shape, groups, layout, dtype, with_residual):
    i = inputs(shape, layout, dtype)
    options = {"residual": i.residual} if with_residual else {}
    z, linear = group_norm_training(i.x, groups, i.gamma, i.beta, axis=i.axis, **options)
    if with_residual and dtype == np.float32:
        want = exact(i.x, groups, i.gamma, i.beta, axis=i.axis, residual=i.residual)
        assert units(z, want.y, dtype) <= 4
    y, saved = group_norm_training(i.x, groups, i.gamma, i.beta, axis=i.axis, activation="relu", **options)
    same_bits(y, np.where(z > 0, z, 0).astype(dtype))
    same_bits(group_norm_inference(i.x, groups, i.gamma, i.beta, axis=i.axis, activation="relu", **options), y)
    got = group_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    gated = np.where(y > 0, i.dy, 0).astype(dtype)
    right = group_norm_backward(gated, i.x, linear, i.gamma, axis=i.axis)
    for a, b in zip(got[:3], right[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    if with_residual:
        np.testing.assert_array_equal(got[3], gated)


@pytest.mark.parametrize("activation", [*NAMES, ("leaky_relu", 0.25), ("elu", 0.5)], ids=str)
@layouts
def test_other_activations(layout, activation):
    i = inputs((3, 6, 5, 4), layout, np.float64)
    identity = ChannelAffine([0.0], [1.0], [0.0])
    z, linear = group_norm_training(i.x, 2, i.gamma, i.beta, axis=i.axis)
    y, saved = group_norm_training(i.x, 2, i.gamma, i.beta, axis=i.axis, activation=activation)
    same_bits(y.ravel(), identity(z.reshape(-1, 1), activation=activation).ravel())
    step = 1e-6
    slope = (identity(z.reshape(-1, 1) + step, activation=activation)
             - identity(z.reshape(-1, 1) - step, activation=activation)).reshape(z.shape) / (2 * step)
    got = group_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    right = group_norm_backward(i.dy * slope, i.x, linear, i.gamma, axis=i.axis)
    for a, b in zip(got, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-7 * np.abs(b).max())


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@layouts
def test_finite_differences(layout, groups, activation):
    i = inputs((2, 4, 3, 2), layout, np.float64, mean=0)

    def loss(x, gamma, beta):
        return (group_norm_inference(x, groups, gamma, beta, axis=i.axis, activation=activation) * i.dy).sum()

    saved = group_norm_training(i.x, groups, i.gamma, i.beta, axis=i.axis, activation=activation)[1]
    gradients = group_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    arguments, step = [i.x, i.gamma, i.beta], 1e-6
    for which, gradient in enumerate(gradients):
        for place in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in arguments]
                moved[which][place] += sign * step
                ends.append(loss(*moved))
            np.testing.assert_allclose(gradient[place], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@layouts
@dtypes
def test_a_value_that_is_not_finite_spoils_its_group_alone(layout, dtype, value):
    i = inputs((3, 6, 5), layout, dtype)
    x = i.x.copy()
    x[0, 0, 0] = value
    clean = np.moveaxis(group_norm_training(i.x, 2, axis=i.axis)[0], i.axis, 1)
    y = np.moveaxis(group_norm_training(x, 2, axis=i.axis)[0], i.axis, 1)
    assert np.isnan(y[0, :3]).all()
    same_bits(y[1:], clean[1:])
    same_bits(y[0, 3:], clean[0, 3:])


@pytest.mark.parametrize("shape", [(0, 6, 4), (0, 6), (2, 6, 0), (2, 6, 0, 3), (0, 6, 0)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_no_values(shape, groups):
    x = np.empty(shape, np.float32)
    gamma = np.ones(groups, np.float32)
    y, saved = group_norm_training(x, groups, gamma, residual=x, activation="relu")
    assert y.shape == shape
    assert saved.mean.shape == (shape[0], groups)
    assert group_norm_inference(x, groups, gamma).shape == shape
    dx, dgamma, dbeta, dresidual = group_norm_backward(x, x, saved, gamma)
    assert dx.shape == dresidual.shape == shape
    assert dgamma.tolist() == [0] * groups
    assert dbeta.tolist() == [0] * 6


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 0, 0)], ids=str)
def test_instance_norm_of_no_channels(shape):
    x = np.empty(shape, np.float32)
    y, saved = instance_norm_training(x)
    assert (y.shape, saved.mean.shape, repr(saved)) == (shape, shape[:2], f"GroupSaved({shape[0]}, 0, count=0)")
    assert [array.shape for array in instance_norm_backward(x, x, saved)] == [shape, (0,), (0,)]
    second = instance_norm_backward_backward(x, None, None, x, x, saved)
    assert [array.shape for array in second] == [shape, shape, (0,)]
    assert instance_norm_jvp(x, x, saved).shape == shape


def test_one_value_per_group():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y, saved = group_norm_training(x, 3, beta=[1, 2, 3])
    np.testing.assert_array_equal(y, [[1, 2, 3], [1, 2, 3]])
    dx, dgamma, dbeta = group_norm_backward(x, x, saved)
    assert not dx.any()
    assert not dgamma.any()
    assert dbeta.tolist() == [3, 5, 7]
    assert repr(saved) == "GroupSaved(2, 3, count=1)"
    assert isinstance(saved, GroupSaved)
