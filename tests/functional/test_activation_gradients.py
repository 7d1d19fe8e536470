"""Training with an activation other than ReLU: forward and backward, in every shape, dtype and place of the result."""

import copy

import ml_dtypes
import numpy as np
import pytest

from fastbn import ChannelAffine
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept
from fastbn.functional import Saved, batch_norm_backward, batch_norm_training
from tests.cases import (
    LARGE_CASES,
    LARGE_PLANES,
    LARGE_ROWS,
    MANY_ROWS,
    SAMPLE_CASES,
    SMALL_PLANES,
    arranged,
    axis_of,
    case,
    inputs,
)
from tests.compare import same_bits
from tests.functional.test_derivatives import NAMES
from tests.grid import over

IDENTITY = ChannelAffine([0.0], [1.0], [0.0])
ACTIVATIONS = [*NAMES, ("leaky_relu", 0.25), ("elu", 0.5)]
ALL_DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
# One with kinks and one with exp: they go through the same passes.
SOME = ("hardswish", "silu")
# One phase for each step: rows that exceed the second-level cache, a single channel of several spans, and planes of
# which a channel does.
PHASES = (case(6000, 128), case(3, 1, 300, 301), case(40, 3, 100, 100))


def train(i, activation, **options):
    return batch_norm_training(i.x, i.gamma, i.beta, axis=i.axis, activation=activation, **options)


def single(vector):
    """A vector of parameters in a dtype that they may have."""
    return vector.astype(np.promote_types(np.float32, vector.dtype))


def prepared(c, layout, dtype):
    i = inputs(c, layout, dtype)
    return i._replace(gamma=single(i.gamma), beta=single(i.beta))


def before_activation(dy, x, saved, axis, **options):
    """The gradient before the activation, of a backward pass that does nothing else."""
    frozen = copy.copy(saved)
    frozen._kept = saved._kept._replace(frozen=True, rstd=np.ones_like(saved.rstd))
    return batch_norm_backward(dy, x, frozen, axis=axis, **options)[0]


def without_activation(saved):
    linear = copy.copy(saved)
    linear._kept = saved._kept._replace(activation=(0, 0.0), scale=None, shift=None)
    return linear


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@over((SMALL_PLANES, MANY_ROWS, LARGE_PLANES, LARGE_ROWS))
def test_forward(case, layout, dtype, activation):
    i = inputs(case, layout, dtype)
    linear, before = train(i, None)
    y, saved = train(i, activation)
    # The activation follows the rounded transform, as in inference.
    same_bits(y.ravel(), IDENTITY(linear.reshape(-1, 1), activation=activation).ravel())
    for name in ("mean", "var", "rstd"):
        same_bits(getattr(saved, name), getattr(before, name))
    x = i.x.copy()
    assert train(i._replace(x=x), activation, out=x, num_threads=2)[0] is x
    same_bits(x, y)


@pytest.mark.parametrize("activation", SOME)
@pytest.mark.parametrize("kind", ALL_DTYPES, ids=lambda d: np.dtype(d).name)
@over(SAMPLE_CASES + LARGE_CASES + PHASES)
def test_backward_is_that_of_the_gradient_before_the_activation(case, layout, kind, activation):
    i = prepared(case, layout, kind)
    _, saved = train(i, activation)
    got = batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    inner = before_activation(i.dy, i.x, saved, i.axis)
    right = batch_norm_backward(inner, i.x, without_activation(saved), i.gamma, axis=i.axis)
    for a, b in zip(got, right, strict=True):
        same_bits(a, b)


def check_gradient_before_the_activation(case, layout, activation):
    """It is dy times the derivative, which is that of a layer without a transform."""
    i = inputs(case, layout, np.float64)
    linear, _ = train(i, None)
    _, saved = train(i, activation)
    inner = before_activation(i.dy, i.x, saved, i.axis)
    zero, one = np.zeros(1), np.ones(1)
    kept = Kept(zero, None, one, one, zero, None, frozen=True, activation=saved._kept.activation)
    identity = Saved(kept, one, 0, (linear.size, 1), 1)
    right = batch_norm_backward(i.dy.reshape(-1, 1), linear.reshape(-1, 1), identity)[0]
    kinks = np.isclose(np.abs(linear), 3, atol=1e-9) | np.isclose(linear, 6, atol=1e-9) | (np.abs(linear) < 1e-9)
    difference = np.abs(inner.ravel() - right.ravel())[~kinks.ravel()]
    assert difference.max() <= 1e-14 * np.abs(i.dy).max()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@over((SMALL_PLANES, MANY_ROWS, LARGE_PLANES))
def test_the_gradient_before_the_activation(case, layout, activation):
    check_gradient_before_the_activation(case, layout, activation)


@pytest.mark.parametrize("activation", SOME)
@over(PHASES)
def test_the_gradient_before_the_activation_in_phases(case, layout, activation):
    check_gradient_before_the_activation(case, layout, activation)


@pytest.mark.parametrize("activation", SOME)
@pytest.mark.parametrize("kind", ALL_DTYPES, ids=lambda d: np.dtype(d).name)
@over((SMALL_PLANES, MANY_ROWS, LARGE_PLANES, LARGE_ROWS, *PHASES))
def test_where_the_result_goes_and_who_computes_it(case, layout, kind, activation):
    i = prepared(case, layout, kind)
    _, saved = train(i, activation)
    before = i.x.copy(), i.dy.copy()
    right = batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis, num_threads=1)
    for now, then in zip((i.x, i.dy), before, strict=True):
        same_bits(now, then)
    for place in ("given", "dy", "x"):
        for threads in (1, 2, 3):
            x, dy = i.x.copy(), i.dy.copy()
            out = {"given": np.full_like(x, 7), "dy": dy, "x": x}[place]
            got = batch_norm_backward(dy, x, saved, i.gamma, axis=i.axis, out=out, num_threads=threads)
            assert got[0] is out
            for a, b in zip(got, right, strict=True):
                same_bits(a, b)


@over((LARGE_PLANES, *PHASES))
def test_the_size_of_the_caches_changes_no_bits(case, layout):
    i = inputs(case, layout, np.float32)
    _, saved = train(i, "silu")
    right = batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    for size in (0, 1 << 40):
        before = kernels.assume_last_cache(size)
        try:
            got = batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
        finally:
            kernels.assume_last_cache(before)
        for a, b in zip(got, right, strict=True):
            same_bits(a, b)


@pytest.mark.parametrize("activation", SOME)
@over(SAMPLE_CASES)
def test_strides(case, layout, activation):
    i = inputs(case, layout)
    _, saved = train(i, activation)
    right = batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)

    def spread(a):
        wide = np.full((*a.shape[:-1], a.shape[-1] + 5), np.nan, a.dtype)
        wide[..., :-5] = a
        return wide[..., :-5]

    for arrays in ((i.dy, spread(i.x), None), (spread(i.dy), i.x, None), (i.dy, i.x, spread(i.x)),
                   (i.dy[::-1].copy()[::-1], i.x.astype(">f4").astype(i.x.dtype.newbyteorder()), spread(i.x))):
        dy, x, out = arrays
        got = batch_norm_backward(dy, x, saved, i.gamma, axis=i.axis, out=out)
        for a, b in zip(got, right, strict=True):
            same_bits(np.ascontiguousarray(a), np.ascontiguousarray(b))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2, 2)], ids=str)
def test_finite_differences(shape, activation, layout):
    rng = np.random.default_rng(3)
    axis = axis_of(layout)
    x, weights = (arranged(rng.standard_normal(shape), layout) for _ in range(2))
    gamma, beta = rng.standard_normal((2, 3)) * 2
    _, saved = batch_norm_training(x, gamma, beta, axis=axis, activation=activation)
    gradients = batch_norm_backward(weights, x, saved, gamma, axis=axis)

    def difference(values, step=1e-5):
        out = np.empty(values.size)
        for k in range(values.size):
            before, sides = values.flat[k], []
            for value in (before + step, before - step):
                values.flat[k] = value
                y, _ = batch_norm_training(x, gamma, beta, axis=axis, activation=activation)
                sides.append((weights * y).sum())
            values.flat[k] = before
            out[k] = (sides[0] - sides[1]) / (2 * step)
        return out.reshape(values.shape)

    for values, gradient in zip((x, gamma, beta), gradients, strict=True):
        np.testing.assert_allclose(gradient, difference(values), rtol=1e-6, atol=2e-8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_one_bad_element_spoils_its_channel_alone(name, value, layout, dtype):
    i = inputs(SMALL_PLANES, layout, dtype)
    _, saved = train(i, name)
    clean = batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    dy, x = i.dy.copy(), i.x.copy()
    for array in (dy, x):
        spoiled = array.copy()
        np.moveaxis(spoiled, i.axis, 0)[5].flat[7] = value
        given = (spoiled, i.x) if array is dy else (i.dy, spoiled)
        kept = saved if array is dy else train(i._replace(x=spoiled), name)[1]
        got = batch_norm_backward(*given, kept, i.gamma, axis=i.axis)
        for a, b in zip(got, clean, strict=True):
            a, b = (np.moveaxis(v, i.axis, 0) if v.ndim > 1 else v for v in (a, b))
            others = np.arange(len(a)) != 5
            same_bits(np.ascontiguousarray(a[others]), np.ascontiguousarray(b[others]))
        assert not np.isfinite(np.moveaxis(got[0], i.axis, 0)[5]).any()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_after_a_residual_training_has_relu_only(activation):
    x = np.random.default_rng(0).standard_normal((8, 3))
    out = np.full_like(x, 7)
    with pytest.raises(ValueError, match=r"activation must be None or 'relu' after a residual in training, got .*; "
                                         "leave it out and apply it to the result"):
        batch_norm_training(x, residual=x, activation=activation, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("activation", SOME)
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)], ids=str)
def test_empty(shape, activation):
    x = np.zeros(shape)
    y, saved = batch_norm_training(x, activation=activation)
    dx, dgamma, dbeta = batch_norm_backward(x, x, saved)
    assert y.shape == dx.shape == shape
    np.testing.assert_array_equal([dgamma, dbeta], np.zeros((2, 3)))
