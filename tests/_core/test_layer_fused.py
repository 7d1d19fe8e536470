"""Kernels of layer norm and RMS norm over rows: residual and activation, against separate passes."""

import numpy as np
import pytest

from fastbn._core.checks import ACTIVATIONS
from tests.compare import same_bits
from tests.row_norms import DTYPES, backward, forward, inference, new_bits, values

WIDTHS = (1, 15, 16, 17, 64, 100, 1024, 1025, 3000)


@pytest.fixture(params=DTYPES, ids=lambda d: np.dtype(d).name)
def dtype(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["layer norm", "rms norm"])
def about_zero(request):
    return request.param


def case(rows, width, dtype):
    """x, dy, residual, gamma and beta; beta away from zero, so that a ReLU without it differs."""
    x, dy, gamma, beta = values(rows, width, dtype)
    return x, dy, values(rows, width, dtype, seed=1)[0], gamma, beta


def in_real(x):
    """The values in the type that the kernels compute in."""
    return x.astype(np.float64 if x.dtype == np.float64 else np.float32)


def transformed(x, gamma, beta, *, about_zero):
    """y without an activation, before it is rounded to a half, and the statistics."""
    y, statistics = forward(x, gamma, beta, about_zero=about_zero)
    return (y if x.dtype.itemsize > 2 else forward(in_real(x), gamma, beta, about_zero=about_zero).y), statistics


def activated(t, name):
    """The activation by batch norm's kernel, whose accuracy tests/functional asserts."""
    from fastbn import ChannelAffine

    identity = ChannelAffine.from_statistics(np.zeros(1), np.ones(1), eps=0.0)
    return identity(t.reshape(1, 1, -1), activation=name).reshape(t.shape)


@pytest.mark.parametrize("width", WIDTHS)
def test_residual(width, dtype, about_zero):
    x, _, residual, gamma, beta = case(5, width, dtype)
    t, _ = transformed(x, gamma, beta, about_zero=about_zero)
    want = t + in_real(residual)
    got = forward(x, gamma, beta, about_zero=about_zero, residual=residual).y
    same_bits(got, want.astype(dtype))
    bits = new_bits(x)
    got = forward(x, gamma, beta, about_zero=about_zero, residual=residual, activation="relu", bits=bits).y
    same_bits(got, np.where(want <= 0, 0, want).astype(dtype))
    marks = np.unpackbits(bits.view(np.uint8), bitorder="little").reshape(5, -1)
    assert (marks[:, :width] == (want > 0)).all()
    assert not marks[:, width:].any()
    same_bits(inference(x, gamma, beta, about_zero=about_zero, residual=residual, activation="relu"), got)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("width", [1, 17, 100, 1500])
def test_activations(name, width, dtype, about_zero):
    x, _, residual, gamma, beta = case(4, width, dtype)
    t, _ = transformed(x, gamma, beta, about_zero=about_zero)
    for other in (None, residual):
        want = activated(t if other is None else t + in_real(other), name)
        got = forward(x, gamma, beta, about_zero=about_zero, residual=other, activation=name).y
        same_bits(got, want.astype(dtype))
        same_bits(inference(x, gamma, beta, about_zero=about_zero, residual=other, activation=name), got)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("parameters", ["both", "gamma", "none"])
def test_gradient_of_a_residual(width, parameters, dtype, about_zero):
    x, dy, residual, gamma, beta = case(19, width, dtype)
    gamma, beta = {"both": (gamma, beta), "gamma": (gamma, None), "none": (None, None)}[parameters]
    bits = new_bits(x)
    y, statistics = forward(x, gamma, beta, about_zero=about_zero, residual=residual, activation="relu", bits=bits)
    marks = np.unpackbits(bits.view(np.uint8), bitorder="little").reshape(19, -1)[:, :width]
    gated = np.where(marks, dy, dy.dtype.type(0))
    dresidual = np.empty_like(x)
    want = backward(gated, x, statistics, gamma)
    got = backward(dy, x, statistics, gamma, dresidual=dresidual, activation="relu", bits=bits)
    same_bits(dresidual, gated)
    open_gate = np.empty_like(x)
    plain = backward(dy, x, statistics, gamma, dresidual=open_gate)
    same_bits(open_gate, dy)
    for pair in ((got, want), (plain, backward(dy, x, statistics, gamma))):
        for a, b in zip(*pair, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                same_bits(a, b)
    if dtype in (np.float32, np.float64):
        assert ((y > 0) == marks).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("width", [20, 1500])
def test_gradient_of_an_activation(name, width, about_zero):
    x, dy, _, gamma, beta = case(3, width, np.float64)
    statistics = forward(x, gamma, beta, about_zero=about_zero).statistics
    got = backward(dy, x, statistics, gamma, beta=beta, activation=name)
    t = forward(x, gamma, beta, about_zero=about_zero).y
    h = 1e-6
    slope = (activated(t + h, name) - activated(t - h, name)) / (2 * h)
    smooth = np.abs(np.stack([t, t - 3, t + 3, t - 6])).min(0) > 2 * h
    dy = np.where(smooth, dy, 0)
    got = backward(dy, x, statistics, gamma, beta=beta, activation=name)
    want = backward(dy * slope, x, statistics, gamma)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("width", [20, 100, 1500])
def test_gradient_of_a_relu_has_the_bits_of_a_gated_dy(width, dtype, about_zero):
    x, dy, _, gamma, beta = case(21, width, dtype)
    t, statistics = transformed(x, gamma, beta, about_zero=about_zero)
    want = backward(np.where(t <= 0, dy.dtype.type(0), dy), x, statistics, gamma)
    for out in (None, x.copy(), dy.copy()):
        got = backward(dy, x, statistics, gamma, beta=beta, activation="relu", out=out)
        for a, b in zip(got, want, strict=True):
            same_bits(a, b)
    over_x, over_dy = x.copy(), dy.copy()
    same_bits(backward(dy, over_x, statistics, gamma, beta=beta, activation="relu", out=over_x).dx, want.dx)
    same_bits(backward(over_dy, x, statistics, gamma, beta=beta, activation="relu", out=over_dy).dx, want.dx)


@pytest.mark.parametrize("name", [None, "relu", "silu"])
@pytest.mark.parametrize("width", [17, 1500])
def test_in_place(name, width, dtype):
    x, _, residual, gamma, beta = case(9, width, dtype)
    want = forward(x, gamma, beta, residual=residual, activation=name).y
    for place in ("x", "residual"):
        given = {"x": x.copy(), "residual": residual.copy()}
        got = forward(given["x"], gamma, beta, residual=given["residual"], activation=name, out=given[place]).y
        assert got is given[place]
        same_bits(got, want)


def test_nan_passes_a_relu(about_zero):
    x, dy, residual, gamma, beta = case(3, 40, np.float32)
    residual[1, 5] = np.nan
    bits = new_bits(x)
    y, statistics = forward(x, gamma, beta, about_zero=about_zero, residual=residual, activation="relu", bits=bits)
    assert np.isnan(y[1, 5])
    assert np.isnan(y).sum() == 1
    dresidual = np.empty_like(x)
    backward(dy, x, statistics, gamma, dresidual=dresidual, activation="relu", bits=bits)
    assert dresidual[1, 5] == dy[1, 5]
