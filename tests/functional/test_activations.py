"""Activations fused into inference: values, special values, and the refusals."""

import numpy as np
import pytest

from fastbn import BatchNorm, ChannelAffine
from fastbn.functional import batch_norm_inference, batch_norm_training
from tests.cases import LARGE_PLANES, MANY_ROWS, ODD_PLANES, SMALL_PLANES, inputs
from tests.compare import same_bits
from tests.grid import over

WIDE = np.longdouble
FORMULAS = {
    "relu": lambda t: np.where(t <= 0, 0, t),
    "relu6": lambda t: np.clip(t, 0, 6),
    "leaky_relu": lambda t: np.where(t < 0, WIDE(0.01) * t, t),
    "hardswish": lambda t: t * np.clip(t + 3, 0, 6) / 6,
    "sigmoid": lambda t: 1 / (1 + np.exp(-t)),
    "silu": lambda t: t / (1 + np.exp(-t)),
    "tanh": np.tanh,
}
IDENTITY = ChannelAffine([0.0], [1.0], [0.0])
UNITS = {np.float32: 2.0**-24, np.float64: 2.0**-53}
names = pytest.mark.parametrize("name", FORMULAS)


@names
@pytest.mark.parametrize("dtype", UNITS, ids=lambda d: d.__name__)
def test_values(name, dtype):
    # To beyond where exp underflows and overflows, and dense about zero; 4 rounding units of each value, or of the
    # smallest number that has all its digits.
    wide = 110 if dtype is np.float32 else 760
    t = np.concatenate([np.linspace(-wide, wide, 40001), np.linspace(-6, 6, 40001), np.geomspace(1e-30, 1e-3, 2001),
                        -np.geomspace(1e-30, 1e-3, 2001)]).astype(dtype)[:, None]
    y = IDENTITY(t, activation=name)
    exact = FORMULAS[name](t.astype(WIDE))
    assert y.dtype == dtype
    # hardswish loses what t + 3 does
    size = np.maximum(np.abs(exact), np.abs(t) / 6 if name == "hardswish" else np.finfo(dtype).smallest_normal)
    assert (np.abs(y - exact) <= 4 * UNITS[dtype] * size).all()


@names
def test_special_values(name):
    for dtype, big in ((np.float32, 3e38), (np.float64, 1e308)):
        y = IDENTITY(np.array([[np.nan], [np.inf], [big], [-big], [-np.inf], [0.0]], dtype), activation=name)[:, 0]
        assert np.isnan(y[0])
        top = {"relu6": 6, "sigmoid": 1, "tanh": 1}.get(name)
        np.testing.assert_array_equal(y[1:3], [top, top] if top else np.array([np.inf, big], dtype))
        low = {"tanh": [-1, -1], "leaky_relu": [dtype(-big) * dtype(0.01), -np.inf]}.get(name, [0, 0])
        np.testing.assert_array_equal(y[3:], [*low, 0.5 if name == "sigmoid" else 0])


def test_the_sign_of_zero():
    assert np.signbit(ChannelAffine([0.0], [1.0], [-0.0])(np.array([[-0.0]]), activation="tanh"))[0, 0]


@names
@over((SMALL_PLANES, ODD_PLANES, MANY_ROWS, LARGE_PLANES))
def test_after_transform_and_residual(name, case, layout, dtype, with_residual):
    i = inputs(case, layout, dtype)
    residual = i.residual if with_residual else None
    linear = batch_norm_inference(i.x, i.mean, i.var, i.gamma, i.beta, axis=i.axis, residual=residual)
    y = batch_norm_inference(
        i.x, i.mean, i.var, i.gamma, i.beta, axis=i.axis, residual=residual, activation=name)
    # The same as the activation on its own, to the bit: it follows the rounded transform.
    same_bits(y.ravel(), IDENTITY(linear.reshape(-1, 1), activation=name).ravel())
    for threads in (1, 2, 3):
        x = i.x.copy()
        batch_norm_inference(x, i.mean, i.var, i.gamma, i.beta, axis=i.axis, residual=residual, activation=name,
                             out=x, num_threads=threads)
        same_bits(x, y)


def test_slope():
    t = np.array([[-8.0], [4.0]])
    np.testing.assert_array_equal(IDENTITY(t, activation=("leaky_relu", 0.25)), [[-2.0], [4.0]])
    np.testing.assert_array_equal(IDENTITY(t, activation=("leaky_relu", 0)), [[0.0], [4.0]])


@pytest.mark.parametrize(("activation", "error", "message"), [
    ("gelu", ValueError, "activation must be None, 'relu', 'relu6'.*got 'gelu'"),
    (True, ValueError, "activation must be .*got True"),
    (("leaky_relu",), ValueError, "activation must be .*got"),
    (("relu", 0.1), ValueError, "activation must be .*got"),
    (("leaky_relu", "steep"), TypeError, "the slope of leaky_relu must be a number, got 'steep'"),
    (("leaky_relu", np.nan), ValueError, "the slope of leaky_relu must be finite, got nan"),
    (["relu"], ValueError, "activation must be .*got"),
])
def test_refused(activation, error, message):
    x = np.ones((4, 1))
    with pytest.raises(error, match=message):
        IDENTITY(x, activation=activation)
    with pytest.raises(error, match=message):
        IDENTITY.bind((4, 1), activation=activation)
    with pytest.raises(error, match=message):
        BatchNorm(1).eval()(x, activation=activation)


@pytest.mark.parametrize("name", [n for n in FORMULAS if n != "relu"])
def test_no_training_and_no_backward(name):
    x = np.random.default_rng(0).standard_normal((8, 3))
    with pytest.raises(ValueError, match=f"activation must be None or 'relu', got '{name}'"):
        batch_norm_training(x, activation=name)
    bn = BatchNorm(3)
    with pytest.raises(ValueError, match=f"None or 'relu', got '{name}'; training supports fewer activations than"):
        bn(x, activation=name)
    with pytest.raises(ValueError, match="activation must be None or 'relu', got 'rellu'"):
        bn(x, activation="rellu")
    assert bn.num_batches_tracked == 0
    bn.eval()(x, activation=name)
    with pytest.raises(RuntimeError, match=f"activation of the last forward pass was {name}; backward supports only"):
        bn.backward(x)
