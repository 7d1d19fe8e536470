"""In-place activated batch normalization without state: gradients from y, their errors, and what is refused."""

import ml_dtypes
import numpy as np
import pytest

from fastbn._core.dispatch import kernels
from fastbn.functional import (
    Saved,
    batch_norm_backward,
    batch_norm_training,
    inplace_batch_norm_backward,
    inplace_batch_norm_training,
)
from fastbn.functional.inplace import INVERSE_ELU
from tests import oracle
from tests.awkward import SHAPE, WRITABLE, by_name, values
from tests.compare import same_bits
from tests.conditional import UNITS
from tests.oracle import WIDE

ACTIVATIONS = (None, ("leaky_relu", 0.01), ("leaky_relu", 3.0), "elu", ("elu", 0.5))
KINDS = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
by_kind = {"ids": lambda kind: np.dtype(kind).name}


def arrays(kind, shape=(16, 8, 14, 14), axis=1, seed=0):
    """x, dy, and gamma of both signs and beta."""
    rng = np.random.default_rng(seed)
    c = shape[axis]
    gamma = rng.uniform(0.5, 2, c) * rng.choice([1, -1], c)
    return rng.normal(1, 2, shape).astype(kind), rng.normal(0, 1, shape).astype(kind), gamma, rng.normal(0, 1, c)


def exact(x, dy, gamma, beta, activation, axis=1, frozen=None):
    """dx, dgamma, dbeta by the definition."""
    mean, var = (None, None) if frozen is None else frozen
    of = oracle.forward(x, gamma, beta, axis=axis, mean=mean, var=var)
    name, alpha = activation if isinstance(activation, tuple) else (activation, {"leaky_relu": 0.01}.get(activation, 1))
    slope = {None: 1, "leaky_relu": alpha, "elu": WIDE(alpha) * np.exp(np.minimum(of.z, 0))}[name]
    return oracle.backward(
        np.where(of.z <= 0, slope, 1) * np.asarray(dy).astype(WIDE), x, of, gamma, axis=axis,
        frozen=frozen is not None)[:3]


def units(got, want, kind):
    """The largest error, in rounding units of the largest exact value."""
    return float(np.abs(got.astype(WIDE) - want).max() / np.abs(want).max() / UNITS[np.dtype(kind).name])


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS, **by_kind)
@pytest.mark.parametrize(("shape", "axis"), [((16, 8, 14, 14), 1), ((16, 14, 14, 8), -1), ((40, 9), 1)], ids=str)
def test_the_error_of_gradients(shape, axis, kind, activation):
    """The errors that the guide states, for gamma and beta of ordinary size."""
    x, dy, gamma, beta = arrays(kind, shape, axis)
    want = exact(x, dy, gamma, beta, activation, axis)
    y, saved = inplace_batch_norm_training(x, gamma, beta, axis=axis, activation=activation, out=x)
    assert y is x
    gradients = inplace_batch_norm_backward(dy, y, saved, gamma, beta, axis=axis)
    for got, right in zip(gradients, want, strict=True):
        assert units(got, right, kind) < 12


@pytest.mark.parametrize("ratio", [1, 10, 100, 1000])
@pytest.mark.parametrize("kind", KINDS[:2], **by_kind)
def test_the_error_grows_with_beta_over_gamma(kind, ratio):
    x, dy, gamma, _ = arrays(kind)
    beta = ratio * np.abs(gamma)
    want = exact(x, dy, gamma, beta, None)
    y, saved = inplace_batch_norm_training(x, gamma, beta)
    dx, dgamma, dbeta = inplace_batch_norm_backward(dy, y, saved, gamma, beta)
    assert units(dx, want[0], kind) < 4 + 0.2 * ratio
    assert units(dgamma, want[1], kind) < 8 * (1 + ratio)
    assert units(dbeta, want[2], kind) < 4


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_finite_differences(activation):
    x, dy, gamma, beta = arrays(np.float64, (5, 3, 4))

    def loss(x, gamma, beta):
        return (batch_norm_training(x, gamma, beta, activation=activation)[0] * dy).sum()

    given = x, gamma, beta
    y, saved = inplace_batch_norm_training(*given, activation=activation)
    for k, gradient in enumerate(inplace_batch_norm_backward(dy, y, saved, gamma, beta)):
        for at in range(0, gradient.size, 1 + gradient.size // 12):
            step = np.zeros(gradient.size)
            step[at] = 1e-6
            ends = [loss(*(a + sign * step.reshape(a.shape) if k == j else a for j, a in enumerate(given)))
                    for sign in (1, -1)]
            np.testing.assert_allclose(gradient.reshape(-1)[at], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_the_forward_pass_is_that_of_batch_norm(activation, dtype):
    x, _, gamma, beta = arrays(dtype)
    want, saved = batch_norm_training(x, gamma, beta, activation=activation)
    y, other = inplace_batch_norm_training(x, gamma, beta, activation=activation)
    same_bits(y, want)
    np.testing.assert_array_equal(other.rstd, saved.rstd)


@pytest.mark.parametrize("make", WRITABLE, **by_name)
@pytest.mark.parametrize("target", [None, "buffer", "dy", "y"], ids=str)
@pytest.mark.parametrize("activation", [None, "leaky_relu", "elu"])
def test_memory_and_out(make, target, activation, dtype):
    x, dy = values(dtype), values(dtype, seed=1)
    gamma, beta = np.linspace(-2, 2, SHAPE[1]), np.linspace(-1, 1, SHAPE[1])
    want = exact(x, dy, gamma, beta, activation)
    given, upstream = make(x.copy()), make(dy.copy())
    y, saved = inplace_batch_norm_training(given, gamma, beta, activation=activation, out=given)
    before = y.copy()
    out = {None: None, "buffer": make(np.full_like(x, np.nan)), "dy": upstream, "y": y}[target]
    dx, dgamma, _ = inplace_batch_norm_backward(upstream, y, saved, gamma, beta, out=out)
    assert out is None or dx is out
    assert units(dx, want[0], dtype) < 12
    assert units(dgamma, want[1], dtype) < 12
    if target != "y":
        np.testing.assert_array_equal(y, before)


@pytest.mark.parametrize("axes", [(1, 2), (1, 3)], ids=str)
def test_several_channel_axes(axes, dtype):
    x, dy = values(dtype), values(dtype, seed=1)
    gamma = np.linspace(1, 2, SHAPE[axes[0]] * SHAPE[axes[1]])
    want, saved = batch_norm_training(x, gamma, axis=axes, activation="leaky_relu")
    right = batch_norm_backward(dy, x, saved, gamma, axis=axes)
    y, saved = inplace_batch_norm_training(x, gamma, axis=axes, activation="leaky_relu")
    same_bits(y, want)
    for got, other in zip(inplace_batch_norm_backward(dy, y, saved, gamma, axis=axes), right, strict=True):
        np.testing.assert_allclose(got, other, rtol=0, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("activation", [None, "leaky_relu", "elu"])
def test_same_bits_for_any_number_of_threads(activation):
    x, dy, gamma, beta = arrays(np.float32, (8, 24, 40, 40))
    y, saved = inplace_batch_norm_training(x, gamma, beta, activation=activation)
    results = [inplace_batch_norm_backward(dy, y, saved, gamma, beta, num_threads=threads) for threads in (1, 2, 3)]
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            same_bits(got, want)


def test_given_statistics(dtype):
    x, dy, gamma, beta = arrays(dtype)
    statistics = np.linspace(0, 2, 8), np.linspace(1, 4, 8)
    want = exact(x, dy, gamma, beta, None, frozen=statistics)
    y = oracle.forward(x, gamma, beta, mean=statistics[0], var=statistics[1]).y.astype(dtype)
    gradients = inplace_batch_norm_backward(dy, y, Saved.from_statistics(*statistics), gamma, beta)
    for got, right in zip(gradients, want, strict=True):
        assert units(got, right, dtype) < 8


@pytest.mark.parametrize("kind", [np.float32, np.float64], **by_kind)
def test_the_inverse_of_elu(kind):
    """At most 2 units in the last place from the logarithm of a rounded y."""
    z = -np.concatenate([np.geomspace(1e-30, 16, 20_001), np.linspace(1e-3, 16, 20_001)])
    y = np.expm1(z.astype(WIDE)).astype(kind)
    want = np.log1p(y.astype(WIDE))
    got = inverse(y)
    assert (np.abs(got - want) / np.spacing(np.abs(want).astype(kind))).max() < 2
    least = kind(-17.328679) if kind == np.float32 else kind(-37.429947750237048)
    np.testing.assert_allclose(inverse(np.array([-1, -1.5], kind)), least, rtol=4 * UNITS[np.dtype(kind).name])
    same_bits(inverse(np.array([0, 2.5, np.inf], kind)), np.array([0, 2.5, np.inf], kind))
    assert np.isnan(inverse(np.array([np.nan], kind))).all()


def inverse(y):
    same = kernels.Constants(1, None, None, None, None, 0.0)
    return kernels.apply(y[:, None], 1, same, None, None, (INVERSE_ELU, 1.0), 1)[:, 0]


def test_outputs_that_elu_has_saturated(dtype):
    """-alpha does not tell its z, but the gradients are finite, and those of dy there vanish."""
    x, dy, gamma, beta = arrays(dtype, (32, 2, 8, 8))
    gamma[:] = 30.0
    y, saved = inplace_batch_norm_training(x, gamma, beta, activation="elu")
    assert (y == -1).any()
    dx, dgamma, dbeta = inplace_batch_norm_backward(dy, y, saved, gamma, beta)
    want = exact(x, dy, gamma, beta, "elu")
    np.testing.assert_allclose(dbeta, want[2].astype(float), rtol=1e-4)
    np.testing.assert_allclose(dgamma, want[1].astype(float), rtol=1e-3, atol=1e-3)
    assert np.abs(dx - want[0]).max() < 0.2 * np.abs(want[0]).max()


def test_nan_stays_in_its_channel(dtype):
    x, dy, gamma, beta = arrays(dtype)
    x[1, 2, 3, 3] = np.nan
    y, saved = inplace_batch_norm_training(x, gamma, beta, activation="elu")
    dx, *_ = inplace_batch_norm_backward(dy, y, saved, gamma, beta)
    assert np.isnan(dx[:, 2]).all()
    assert np.isfinite(np.delete(dx, 2, axis=1)).all()


def test_empty(dtype):
    x = np.zeros((0, 3, 4), dtype)
    y, saved = inplace_batch_norm_training(x, activation="elu")
    dx, dgamma, dbeta = inplace_batch_norm_backward(x, y, saved)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dgamma, np.zeros(3))
    np.testing.assert_array_equal(dbeta, np.zeros(3))


G = np.array([1.0, 0.0, 2.0, 1e-40])
BAD = {
    "gamma": ({"gamma": G}, r"gamma is 0 in channels 1, 3, and the backward .* expected 1\.18e-38 or more in size"),
    "relu": ({"activation": "relu"}, "activation must be None, 'leaky_relu' or 'elu' .* got 'relu'"),
    "silu": ({"activation": "silu"}, "activation must be None, 'leaky_relu' or 'elu' .* got 'silu'"),
    "slope 0": ({"activation": ("leaky_relu", 0.0)}, r"the slope of leaky_relu must be positive .* got 0\.0"),
    "slope -1": ({"activation": ("leaky_relu", -1.0)}, r"the slope of leaky_relu must be positive .* got -1\.0"),
    "alpha 0": ({"activation": ("elu", 0.0)}, r"the alpha of elu must be positive .* got 0\.0"),
    "gamma shape": ({"gamma": G[:3]}, r"gamma has shape \(3,\); expected \(4,\)"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_inverted(arguments, message):
    x = np.random.default_rng(0).normal(0, 1, (5, 4))
    before = x.copy()
    with pytest.raises(ValueError, match=message):
        inplace_batch_norm_training(x, **arguments, out=x)
    np.testing.assert_array_equal(x, before)


def test_a_backward_pass_that_does_not_fit(dtype):
    x, dy, gamma, beta = arrays(dtype)
    y, saved = inplace_batch_norm_training(x, gamma, beta, activation="elu")
    out = np.full_like(x, 7)
    wrong = gamma.copy()
    wrong[3] = 0
    room = np.concatenate([y, y])
    _, relu = batch_norm_training(x, activation="relu")
    _, plus = batch_norm_training(x, residual=x)
    _, ghost = batch_norm_training(x, virtual_batch_size=4)
    for arguments, message in (
            ((dy, y, saved, wrong, beta), "gamma is 0 in channel 3"),
            ((dy, y[:3], saved, gamma, beta), r"y has shape .*; expected that of the forward pass"),
            ((dy[:3], y, saved, gamma, beta), "dy has shape"),
            ((dy, y, saved, gamma, beta[:3]), r"beta has shape \(3,\); expected \(8,\)"),
            ((dy, y, relu, gamma, beta), "activation must be None, 'leaky_relu' or 'elu'"),
            ((dy, y, plus, gamma, beta), "without a residual"),
            ((dy, y, ghost, gamma, beta), "without a virtual batch size")):
        with pytest.raises(ValueError, match=message):
            inplace_batch_norm_backward(*arguments, out=out)
    with pytest.raises(ValueError, match="out overlaps y without being the same array"):
        inplace_batch_norm_backward(dy, room[:16], saved, gamma, beta, out=room[1:17])
    with pytest.raises(TypeError, match=r"saved must be a Saved, .* got NoneType"):
        inplace_batch_norm_backward(dy, y, None)
    np.testing.assert_array_equal(out, 7)
