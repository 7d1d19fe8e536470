"""Layers with an activation other than ReLU: evaluation, micro-batches, masks, and what is refused."""

import copy

import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn.functional import Saved, batch_norm_backward
from tests.cases import axis_of
from tests.compare import same_bits

ACTIVATIONS = ["silu", "hardswish", ("leaky_relu", 0.2), "mish"]
SIZES = (5, 1, 7, 3)
activations = pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)


def arrays(shape, layout, dtype=np.float64):
    rng = np.random.default_rng(0)
    values = [rng.normal(1, 2, shape).astype(dtype) for _ in range(2)]
    return values if layout == "planes" else [np.ascontiguousarray(np.moveaxis(v, 1, -1)) for v in values]


def layer(layout, dtype=np.float64, channels=6, **options):
    bn = BatchNorm(channels, axis=axis_of(layout), dtype=dtype, **options)
    bn.gamma[:] = np.linspace(-1, 2, channels)
    bn.beta[:] = np.linspace(-2, 1, channels)
    bn.running_mean[:] = np.linspace(0.5, 1, channels)
    bn.running_var[:] = np.linspace(2, 4, channels)
    return bn


def derivative(z, activation):
    """The derivative at z, of a layer that changes nothing but by its activation."""
    identity = BatchNorm(1, eps=0, dtype=np.float64).eval()
    column = z.reshape(-1, 1)
    identity(column, activation=activation)
    return identity.backward(np.ones_like(column)).reshape(z.shape)


@activations
def test_backward_of_evaluation(activation, layout):
    x, dy = arrays((4, 6, 5, 3), layout)
    bn = layer(layout).eval()
    linear = bn(x)
    y = bn(x, activation=activation)
    inner = dy * derivative(linear, activation)
    kept = bn.backward(dy)
    saved = Saved.from_statistics(bn.running_mean, bn.running_var)
    right = batch_norm_backward(inner, x, saved, bn.gamma, axis=bn.axis)
    for got, want in zip((kept, bn.grad_gamma, bn.grad_beta), right, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max())
    out = x.copy()
    bn(out, activation=activation)
    assert bn.backward(dy, out) is out
    same_bits(out, kept)
    assert y.shape == kept.shape


@activations
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_micro_batches(activation, layout, dtype):
    x, dy = arrays((sum(SIZES), 6, 9, 3), layout, dtype)
    edges = np.cumsum(SIZES)[:-1]
    xs, dys = np.split(x, edges), np.split(dy, edges)
    bn, one = layer(layout, dtype), layer(layout, dtype)
    whole = bn.accumulate(xs)
    y = np.concatenate([whole(part, activation=activation) for part in xs])
    dx = np.concatenate(whole.backward(dys))
    units = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(y, one(x, activation=activation), rtol=0, atol=units * np.abs(y).max())
    np.testing.assert_allclose(dx, one.backward(dy), rtol=0, atol=units * np.abs(dx).max())
    for name in ("grad_gamma", "grad_beta", "running_mean", "running_var"):
        want = getattr(one, name)
        np.testing.assert_allclose(getattr(bn, name), want, rtol=0, atol=units * np.abs(want).max())
    # In place, over the gradients.
    whole = bn.accumulate(xs)
    for part in xs:
        whole(part, activation=activation)
    targets = [part.copy() for part in dys]
    same_bits(np.concatenate(whole.backward(targets, out=targets)), dx)


@pytest.mark.parametrize("channels", [6, 64])
def test_values_that_do_not_count(channels, layout):
    x, dy = arrays((4, channels, 9), layout, np.float32)
    mask = np.random.default_rng(1).random((4, 9)) < 0.5
    others = np.moveaxis(np.broadcast_to(~mask[..., None], (4, 9, channels)), -1, axis_of(layout))
    results = []
    for padding in ("zero", "keep"):
        bn = layer(layout, np.float32, channels)
        bn(x, activation="silu", mask=mask, padding=padding)
        dx = bn.backward(dy)
        np.testing.assert_array_equal(dx[others], 0 if padding == "zero" else dy[others])
        results.append(dx[~others])
        out = x.copy()
        bn(out, activation="silu", mask=mask, padding=padding)
        bn.backward(dy, out)
        results.append(out[~others])
    for other in results[1:]:
        same_bits(other, results[0])


def test_jagged():
    values, dy = np.random.default_rng(2).standard_normal((2, 20, 6))
    offsets = np.array([0, 3, 3, 20])
    a, b = layer("rows"), layer("rows")
    y, _ = a((values, offsets), None, "silu")
    same_bits(y, b(values, activation="silu"))
    same_bits(a.backward(dy), b.backward(dy))


@pytest.mark.parametrize("activation", [None, "silu", ("elu", 2.0)], ids=str)
def test_the_tape_has_the_activation_of_its_forward(activation):
    x, dy = arrays((8, 6), "rows")
    bn = layer("rows")
    bn(x, activation=activation)
    expected = bn.backward(dy)
    copy.deepcopy(bn)(x, activation="relu")
    same_bits(bn.backward(dy), expected)
    other = layer("rows")
    other(x, activation="tanh")
    assert (other.backward(dy) != expected).any()


@activations
def test_a_residual_is_refused_before_anything_changes(activation):
    x, dy = arrays((8, 6), "rows")
    bn, out = layer("rows"), np.full(x.shape, 7.0)
    before = bn.state_dict()
    for options in ({}, {"mask": np.ones(8, bool)}, {"mask": np.ones((8, 6), bool)}):
        with pytest.raises(ValueError, match="activation must be None or 'relu' after a residual in training, got"):
            bn(x, x, activation, out, **options)
    assert (out == 7).all()
    for name, value in bn.state_dict().items():
        same_bits(value, before[name])
    for options in ({}, {"mask": np.arange(8) > 3}):
        bn.eval()(x, x, activation, **options)
        with pytest.raises(RuntimeError, match=r"was .*, after a residual, where backward supports only relu"):
            bn.backward(dy)
