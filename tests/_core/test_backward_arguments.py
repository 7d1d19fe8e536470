"""The kernels refuse a `Kept` whose parts they could not follow safely, before anything is written."""

import numpy as np
import pytest

from fastbn._core import views
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept
from fastbn.functional import batch_norm_training

X = np.random.default_rng(0).normal(size=(4, 3, 20)).astype(np.float32)
VIEW = views.view(X, 1)
WORDS = kernels.bits_words(VIEW)
PLAIN = batch_norm_training(X)[1]._kept
RELU = batch_norm_training(X, activation="relu")[1]._kept
SILU = batch_norm_training(X, activation="silu")[1]._kept
BITS = batch_norm_training(X, residual=X, activation="relu")[1]._kept


def backward(kept, residual):
    dx, dresidual = np.full_like(X, 7), np.full_like(X, 7)
    try:
        kernels.backward(VIEW, VIEW, views.output(VIEW, dx), views.output(VIEW, dresidual) if residual else None, kept,
                         None, fill=False, num_threads=1)
    finally:
        written = (dx != 7).any() or (dresidual != 7).any()
    return written


@pytest.mark.parametrize(("kept", "residual"), [
    (PLAIN, False), (PLAIN, True), (RELU, False), (SILU, False), (BITS, True)])
def test_what_a_forward_leaves(kept, residual):
    assert isinstance(kept, Kept)
    assert backward(kept, residual)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_the_kernel_reads_the_fields_in_their_order(relu, frozen):
    mean, low, rstd = np.array([1.0, 2.0, 3.0]), np.array([0.5, -0.25, 0.125]), np.array([1.0, 2.0, 0.5])
    scale, shift = (rstd * 3, np.array([0.5, -0.5, 1.0])) if relu else (None, None)
    kept = Kept(mean=mean, low=low, rstd=rstd, scale=scale, shift=shift, bits=None, frozen=frozen,
                activation=(int(relu), 0.0))
    dy, dx = X[::-1].astype(np.float64), np.empty(X.shape)
    view = views.view(X.astype(np.float64), 1)
    products, dbeta = kernels.backward(
        views.like(view, dy, "dy"), view, views.output(view, dx), None, kept, None, fill=False, num_threads=1)
    channel = (slice(None), None)
    centred = X - (mean + low)[channel]
    if relu:
        dy *= centred * scale[channel] + shift[channel] > 0
    x_hat = centred * rstd[channel]
    by_channel = [(dy * x_hat).sum((0, 2)), dy.sum((0, 2))]
    np.testing.assert_allclose([products, dbeta], by_channel, rtol=1e-12, atol=1e-12)
    terms = 0 if frozen else (by_channel[1][channel] + x_hat * by_channel[0][channel]) / 80
    np.testing.assert_allclose(dx, (dy - terms) * rstd[channel], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arguments", [{}, {"activation": "relu"}, {"residual": X, "activation": "relu"}], ids=str)
def test_saved_fills_the_fields_in_their_order(arguments):
    saved = batch_norm_training(X, np.full(3, 2.0), np.array([1.0, 2.0, 3.0]), **arguments)[1]
    kept = saved._kept
    x = X.astype(np.float64)
    np.testing.assert_allclose(kept.mean, x.mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(saved.var, x.var((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(kept.rstd, 1 / np.sqrt(saved.var + 1e-5), rtol=1e-15)
    assert 0 <= np.abs(kept.low).max() < 1e-15
    activation, residual = "activation" in arguments, "residual" in arguments
    if activation and not residual:
        np.testing.assert_array_equal([kept.scale, kept.shift], [2 * kept.rstd, [1, 2, 3]])
    else:
        assert kept.scale is kept.shift is None
    assert [kept.bits is not None, kept.frozen, kept.activation] == [residual, False, (int(activation), 0.0)]


@pytest.mark.parametrize(("kept", "residual", "error", "message"), [
    (list(PLAIN), False, TypeError, "kept must be a Kept, got list"),
    (BITS, False, ValueError, "kept has bits without a residual"),
    (RELU, True, ValueError, "or scale and shift with one"),
    (SILU, True, ValueError, "or scale and shift with one"),
    (SILU._replace(activation=7), False, TypeError, "the activation of kept must be a tuple, got int"),
    (SILU._replace(activation=(14, 0.0)), False, ValueError, "activation has the code 14; expected 0 to 13"),
    (SILU._replace(scale=None, shift=None), False, ValueError, "kept must have scale and shift if, and only if, it"),
    (SILU._replace(scale=None), False, ValueError, "kept must have both scale and shift, or neither"),
    (PLAIN._replace(shift=np.ones(3)), False, ValueError, "kept must have both scale and shift, or neither"),
    (SILU._replace(activation=(0, 0.0)), False, ValueError, "kept must have scale and shift if, and only if"),
    (SILU._replace(scale=np.ones(2)), False, ValueError, r"scale has shape \(2,\); expected \(3,\)"),
    (BITS._replace(activation=(7, 0.0)), True, ValueError, "kept must have bits of a ReLU only"),
    (BITS._replace(scale=RELU.scale, shift=RELU.shift), True, ValueError, "neither scale nor shift with them"),
    (BITS._replace(bits=BITS.bits.tolist()), True, TypeError, "bits must be a numpy.ndarray, got list"),
    (BITS._replace(bits=BITS.bits[:-1]), True, ValueError, rf"bits must be uint16\[{WORDS}\], C-contiguous; got"),
    (BITS._replace(bits=BITS.bits.view(np.int16)), True, ValueError, "got int16"),
    (BITS._replace(bits=np.repeat(BITS.bits, 2)[::2]), True, ValueError, "C-contiguous"),
    (PLAIN._replace(mean=np.zeros(2)), False, ValueError, r"mean has shape \(2,\); expected \(3,\)$"),
    (PLAIN._replace(rstd=np.zeros(3, int)), False, TypeError, "rstd has dtype int64"),
    (PLAIN._replace(rstd=None), False, TypeError, "rstd of kept must be a numpy.ndarray, got NoneType"),
    (PLAIN._replace(low=[0.0, 0.0, 0.0]), False, TypeError, "mean_low of kept must be a numpy.ndarray, got list"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_no_forward_leaves(kept, residual, error, message):
    with pytest.raises(error, match=message):
        backward(kept, residual)


@pytest.mark.parametrize("kept", [PLAIN, RELU, SILU], ids=["linear", "relu", "silu"])
def test_halves_of_a_backward_give_its_bits(kept):
    dy = X[::-1].copy()
    whole, halves = np.empty_like(X), np.empty_like(X)
    gradient = views.like(VIEW, dy, "dy")
    _, dbeta = kernels.backward(gradient, VIEW, views.output(VIEW, whole), None, kept, None, fill=False, num_threads=1)
    sums = kernels.reduce_gradient(gradient, VIEW, kept, num_threads=1)
    kernels.apply_gradient(
        gradient, VIEW, views.output(VIEW, halves), None, kept, None, sums=sums, count=80, fill=False, num_threads=1)
    np.testing.assert_array_equal(sums[1], dbeta)
    np.testing.assert_array_equal(halves, whole)
