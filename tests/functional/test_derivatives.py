"""The derivatives of activations in the backward pass: errors, kinks, special values."""

import numpy as np
import pytest

from fastbn import BatchNorm
from tests.functional.test_activations import FORMULAS, ROOT_2, SLOPE, gelu_argument, mp, samples, ulp

DTYPES = (np.float32, np.float64)
NAMES = [name for name in FORMULAS if name != "relu"]
# An error is relative to the derivative, or to this where the derivative is smaller: it has zeros.
LEAST = 0.25
ULPS = {
    "relu6": 0, "leaky_relu": 0.5, "hardswish": 2, "hard_sigmoid": 0.5, "sigmoid": 2, "silu": 3, "tanh": 4, "gelu": 5,
    "gelu_tanh": 4, "mish": 5, "softplus": 2, "elu": 1,
}
# Where the largest errors were among 4,000,000 float32 and 2,000,000 float64.
WORST = {
    "silu": (-0.04580242, -0.04897400587167189), "tanh": (0.89032984, 0.9427855322042014),
    "gelu": (-0.029887488,), "gelu_tanh": (-0.15828526, -0.15289827556264868),
    "mish": (-0.20799716, -0.2146879005961415), "sigmoid": (0.86807436, 0.6552524195347877),
}


def sigmoid(t):
    return 1 / (1 + mp.exp(-t))


def mish_derivative(t):
    e = mp.exp(t)
    n = e * (e + 2)
    return (n * (n + 2) + 4 * t * e * (e + 1)) / (n + 2) ** 2


def gelu_tanh_derivative(t):
    s = sigmoid(gelu_argument(t) * 2)
    return s + t * s * (1 - s) * 2 * mp.sqrt(2 / mp.pi) * (1 + 3 * mp.mpf("0.044715") * t * t)


DERIVATIVES = {
    "relu6": lambda t: mp.mpf(0 < t < 6),
    "leaky_relu": lambda t: mp.mpf(1) if t > 0 else SLOPE,
    "hardswish": lambda t: mp.mpf(0) if t <= -3 else (mp.mpf(1) if t >= 3 else (2 * t + 3) / 6),
    "hard_sigmoid": lambda t: mp.mpf(-3 < t < 3) / 6,
    "sigmoid": lambda t: sigmoid(t) * sigmoid(-t),
    "silu": lambda t: sigmoid(t) * (1 + t * sigmoid(-t)),
    "tanh": lambda t: 4 * sigmoid(2 * t) * sigmoid(-2 * t),
    "gelu": lambda t: mp.erfc(-t / ROOT_2) / 2 + t * mp.exp(-t * t / 2) / mp.sqrt(2 * mp.pi),
    "gelu_tanh": gelu_tanh_derivative,
    "mish": mish_derivative,
    "softplus": sigmoid,
    "elu": lambda t: mp.exp(t) if t <= 0 else mp.mpf(1),
}


def derivative(t, activation, dy=1.0):
    """dy times the derivative at t, from a layer that changes nothing but by its activation."""
    identity = BatchNorm(1, eps=0, dtype=np.float64).eval()
    column = t[:, None]
    identity(column, activation=activation)
    return identity.backward(np.full_like(column, dy))[:, 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_errors(name, dtype):
    t = np.concatenate([samples(dtype, 300), -samples(dtype, 100), np.array(WORST.get(name, ()), dtype)])
    got = derivative(t, name)
    assert got.dtype == dtype
    exact = [DERIVATIVES[name](mp.mpf(value)) for value in t.tolist()]
    errors = [abs(a - e) / ulp(max(abs(e), LEAST), dtype) for a, e in zip(got.tolist(), exact, strict=True)]
    assert max(errors) <= ULPS[name], t[errors.index(max(errors))]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "elu"])
def test_relative_errors_of_derivatives_without_zeros(name, dtype):
    # Down to where they underflow.
    t = samples(dtype, 300)
    exact = [DERIVATIVES[name](mp.mpf(value)) for value in t.tolist()]
    errors = [abs(a - e) / ulp(e, dtype) for a, e in zip(derivative(t, name).tolist(), exact, strict=True)]
    assert max(errors) <= 4, t[errors.index(max(errors))]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize(("activation", "at", "right"), [
    ("relu6", [-0.0, 0, 1e-30, 6], [0, 0, 1, 0]),
    ("leaky_relu", [-1, -0.0, 0, 1e-30], [0.01, 0.01, 0.01, 1]),
    (("leaky_relu", -2.0), [-1, 0, 1], [-2, -2, 1]),
    ("hardswish", [-3, -1.5, 0, 3], [0, 0, 0.5, 1]),
    ("hard_sigmoid", [-3, 0, 3], [0, 1 / 6, 0]),
    ("elu", [0, 1e-30], [1, 1]),
    (("elu", 0.5), [-np.inf, 0, 1e-30], [0, 0.5, 1]),
    ("sigmoid", [0], [0.25]), ("tanh", [0], [1]), ("silu", [0], [0.5]), ("gelu", [0], [0.5]),
    ("gelu_tanh", [0], [0.5]), ("mish", [0], [0.6]), ("softplus", [0], [0.5]),
], ids=str)
def test_kinks_as_in_pytorch_and_zero(activation, at, right, dtype):
    np.testing.assert_array_equal(derivative(np.array(at, dtype), activation), np.array(right, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_limits_and_nan(name, dtype):
    big = np.finfo(dtype).max
    t = np.array([np.inf, big, -big, -np.inf], dtype)
    high = 0 if name in ("relu6", "hard_sigmoid", "sigmoid", "tanh") else 1
    low = 0.01 if name == "leaky_relu" else 0
    np.testing.assert_array_equal(derivative(t, name, 2.0), np.array([high, high, low, low], dtype) * 2)
    assert np.isnan(derivative(np.array([np.nan], dtype), name)).all()
    assert np.isnan(derivative(np.array([0.5, -0.5], dtype), name, np.nan)).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_position_of_a_piece(name):
    # Whole steps, a partial one, and several pieces, with and without gaps between rows.
    t = np.random.default_rng(0).standard_normal(5000) * 4
    right = derivative(t, name)
    for count in (1, 63, 64, 65, 1023, 1024, 1025, 2111):
        for shape in ((1, 1, count), (3, count)):
            bn = BatchNorm(shape[-1], axis=-1, eps=0, dtype=np.float64).eval()
            wide = np.empty((*shape[:-1], count + 5))[..., :-5]
            x = np.broadcast_to(t[:count], shape).copy()
            wide[...] = x
            for array in (x, wide):
                bn(array, activation=name)
                dx = bn.backward(np.ones(shape), np.empty_like(wide.base)[..., :-5] if array is wide else None)
                np.testing.assert_array_equal(dx, np.broadcast_to(right[:count], shape))
