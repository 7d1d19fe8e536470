"""Bad calls: the type of the error, and that its message names the argument, what was expected and what came."""

import numpy as np
import pytest

from fastbn._core.checks import LEAST_EPS
from fastbn.functional import Saved, batch_norm_backward, batch_norm_inference, batch_norm_training

X = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
ONE, ZERO = np.ones(3), np.zeros(3)

SUPPORTED = "expected float32, float64, float16 or bfloat16"

BAD_X = {
    "integers": (X.astype(np.int64), TypeError, f"x has dtype int64; {SUPPORTED}"),
    "bytes": (X.astype(np.uint8), TypeError, f"x has dtype uint8; {SUPPORTED}"),
    "booleans": (X > 0, TypeError, f"x has dtype bool; {SUPPORTED}"),
    "longdouble": (X.astype(np.longdouble), TypeError, f"x has dtype .*; {SUPPORTED}"),
    "complex": (X.astype(np.complex64), TypeError, f"x has dtype complex64; {SUPPORTED}"),
    "objects": (X.astype(object), TypeError, f"x has dtype object; {SUPPORTED}"),
    "text": ("x", TypeError, f"x has dtype <U1; {SUPPORTED}"),
    "None": (None, TypeError, "x must be an array, got None"),
    "masked": (np.ma.array(X), TypeError, "x is a masked array.*expected a plain array"),
    "0-d": (np.float32(1), ValueError, r"x has shape \(\); expected two or more dimensions"),
    "1-d": (X[0, 0], ValueError, r"x has shape \(5,\); expected two or more dimensions"),
}

BAD_OPTIONS = {
    "axis too large": ({"axis": 3}, ValueError, "axis 3 is out of range for an array of 3 dimensions"),
    "axis too small": ({"axis": -4}, ValueError, "axis -4 is out of range for an array of 3 dimensions"),
    "axis bool": ({"axis": True}, TypeError, "axis must be an integer, got True"),
    "axis float": ({"axis": 1.0}, TypeError, "axis must be an integer, got 1.0"),
    "axis None": ({"axis": None}, TypeError, "axis must be an integer, got None"),
    "axis list": ({"axis": [1]}, TypeError, r"axis must be an integer, got \[1\]"),
    "axis huge": ({"axis": 10**30}, ValueError, "axis 1000.* is out of range"),
    "gamma length": ({"gamma": np.ones(4)}, ValueError, r"gamma has shape \(4,\); expected \(3,\)"),
    "gamma 2-d": ({"gamma": np.ones((3, 1))}, ValueError, r"gamma has shape \(3, 1\); expected \(3,\)"),
    "gamma masked": ({"gamma": np.ma.array(ONE, mask=[1, 0, 0])}, TypeError, "gamma is a masked array"),
    "gamma jagged": ({"gamma": [[1.0], [1.0, 2.0]]}, ValueError, "gamma cannot be converted to an array"),
    "activation array": ({"activation": ONE}, ValueError, r"activation must be None.*, got array\("),
    "gamma scalar": ({"gamma": 1.0}, ValueError, r"gamma has shape \(\); expected \(3,\)"),
    "gamma integer": ({"gamma": np.ones(3, int)}, TypeError, "gamma has dtype int64; expected float32 or float64"),
    "gamma float16": ({"gamma": np.ones(3, np.float16)}, TypeError, "gamma has dtype float16; expected float32"),
    "gamma complex": ({"gamma": np.ones(3, complex)}, TypeError, "gamma has dtype complex128; expected float32"),
    "beta length": ({"beta": np.ones(2)}, ValueError, r"beta has shape \(2,\); expected \(3,\)"),
    "beta integer": ({"beta": np.ones(3, int)}, TypeError, "beta has dtype int64; expected float32 or float64"),
    "eps negative": ({"eps": -1e-5}, ValueError, "eps must be 0, or finite and at least .*, got -1e-05"),
    "eps tiny": ({"eps": LEAST_EPS / 2}, ValueError, "eps must be 0, or finite and at least"),
    "eps NaN": ({"eps": float("nan")}, ValueError, "eps must be 0, or finite and at least .*, got nan"),
    "eps inf": ({"eps": float("inf")}, ValueError, "eps must be 0, or finite and at least .*, got inf"),
    "eps text": ({"eps": "small"}, TypeError, "eps must be a number, got 'small'"),
    "eps None": ({"eps": None}, TypeError, "eps must be a number, got None"),
    "activation": ({"activation": "swish"}, ValueError, "activation must be None.* 'relu'.*, got 'swish'"),
    "activation True": ({"activation": True}, ValueError, "activation must be None.* 'relu'.*, got True"),
    "residual shape": ({"residual": X[:, :2]}, ValueError, r"residual has shape \(4, 2, 5\); expected the shape of x"),
    "residual broadcast": ({"residual": X[:1]}, ValueError, r"residual has shape \(1, 3, 5\); expected the shape of x"),
    "residual dtype": ({"residual": X.astype(float)}, TypeError, "residual has dtype float64; expected that of x"),
    "residual integer": ({"residual": X.astype(int)}, TypeError, "residual has dtype int64"),
    "an activation as the residual": ({"residual": "relu"}, TypeError, "; pass an activation by name"),
    "residual masked": ({"residual": np.ma.array(X)}, TypeError, "residual is a masked array"),
}

BAD_THREADS = {
    "zero": (0, ValueError, "num_threads must be between 1 and [0-9]+, got 0"),
    "negative": (-1, ValueError, "num_threads must be between 1 and [0-9]+, got -1"),
    "huge": (10**9, ValueError, "num_threads must be between 1 and [0-9]+, got 1000000000"),
    "astronomic": (10**30, ValueError, "num_threads must be between 1 and [0-9]+, got 1000"),
    "bool": (True, TypeError, "num_threads must be an integer, got True"),
    "float": (2.0, TypeError, "num_threads must be an integer, got 2.0"),
    "text": ("2", TypeError, "num_threads must be an integer, got '2'"),
}


def call_training(x, **options):
    return batch_norm_training(x, **options)


def call_inference(x, **options):
    return batch_norm_inference(x, ZERO, ONE, **options)


def call_backward(x, **options):
    return batch_norm_backward(X, x, Saved.from_statistics(ZERO, ONE), **options)


forwards = pytest.mark.parametrize("call", [call_training, call_inference], ids=["training", "inference"])
calls = pytest.mark.parametrize("call", [call_training, call_inference, call_backward],
                                ids=["training", "inference", "backward"])


@calls
@pytest.mark.parametrize("name", BAD_X)
def test_x(call, name):
    x, error, message = BAD_X[name]
    with pytest.raises(error, match=message):
        call(x)


@forwards
@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options(call, name):
    options, error, message = BAD_OPTIONS[name]
    with pytest.raises(error, match=message):
        call(X, **options)


@pytest.mark.parametrize("name", [n for n in BAD_OPTIONS if n.startswith(("axis", "gamma"))])
def test_options_of_backward(name):
    options, error, message = BAD_OPTIONS[name]
    with pytest.raises(error, match=message):
        call_backward(X, **options)


@calls
@pytest.mark.parametrize("name", BAD_THREADS)
def test_num_threads(call, name):
    threads, error, message = BAD_THREADS[name]
    with pytest.raises(error, match=message):
        call(X, num_threads=threads)


@pytest.mark.parametrize(("mean", "var", "error", "message"), [
    (np.zeros(4), ONE, ValueError, r"mean has shape \(4,\); expected \(3,\)"),
    (ZERO, np.ones((1, 3)), ValueError, r"var has shape \(1, 3\); expected \(3,\)"),
    (np.zeros(3, int), ONE, TypeError, "mean has dtype int64; expected float32 or float64"),
    (ZERO, np.ones(3, np.float16), TypeError, "var has dtype float16; expected float32 or float64"),
    (None, ONE, TypeError, "mean and var must be arrays, got None"),
    (ZERO, None, TypeError, "mean and var must be arrays, got None"),
], ids=["mean length", "var 2-d", "mean integer", "var float16", "no mean", "no var"])
def test_statistics(mean, var, error, message):
    with pytest.raises(error, match=message):
        batch_norm_inference(X, mean, var)


SAVED = batch_norm_training(X)[1]


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((X[:2], X, SAVED), ValueError, r"dy has shape \(2, 3, 5\); expected the shape of x, \(4, 3, 5\)"),
    ((X[:1], X, SAVED), ValueError, r"dy has shape \(1, 3, 5\); expected the shape of x"),
    ((X.astype(float), X, SAVED), TypeError, "dy has dtype float64; expected that of x, float32"),
    ((X.astype(int), X, SAVED), TypeError, "dy has dtype int64"),
    ((X, X, None), TypeError, "saved must be a Saved, the second value of batch_norm_training, got NoneType"),
    ((X, X, (1, 2)), TypeError, "saved must be a Saved, the second value of batch_norm_training, got tuple"),
    ((X[:2], X[:2], SAVED), ValueError, "x has shape .2, 3, 5.; expected that of the forward pass, .4, 3, 5."),
    ((X[:, :2], X[:, :2], SAVED), ValueError, "x has shape .* 2 channels along axis 1; expected 3"),
], ids=["dy shape", "dy broadcast", "dy dtype", "dy integer", "no saved", "saved tuple", "x count", "x channels"])
def test_backward(arguments, error, message):
    with pytest.raises(error, match=message):
        batch_norm_backward(*arguments)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_value_per_channel(shape, dtype):
    out = np.full(shape, 7, dtype)
    with pytest.raises(ValueError, match=r"x has shape .*one value per channel.*larger batch.*eval\(\)"):
        batch_norm_training(np.ones(shape, dtype), out=out)
    assert (out == 7).all()
    # Given statistics make it well defined.
    np.testing.assert_allclose(batch_norm_inference(np.ones(shape, dtype), ZERO, 4 * ONE), 0.5, rtol=1e-5)


@pytest.mark.parametrize("gamma", [None, [1, 2], (1.0, 2.0)], ids=str)
def test_python_numbers_are_welcome(gamma):
    x = [[1.0, 2.0], [3.0, 5.0]]
    y = batch_norm_inference(x, [1, 2], [4, 9], gamma, gamma)
    scale = np.array(gamma or [1, 1], float)
    expected = (np.array(x) - [1, 2]) / np.sqrt(np.array([4, 9]) + 1e-5) * scale + (scale if gamma else 0)
    np.testing.assert_allclose(y, expected, rtol=1e-14)
    z, saved = batch_norm_training(x, gamma, gamma)
    np.testing.assert_allclose(saved.var, [1, 2.25], rtol=1e-14)
    np.testing.assert_allclose(z.mean(axis=0), scale if gamma else 0, atol=1e-14)


@pytest.mark.parametrize("var", [-1.0, -1e-9])
def test_a_negative_variance_is_refused_before_anything_is_written(var):
    out = np.full_like(X, 7)
    with pytest.raises(ValueError, match="var has negative values, down to -"):
        batch_norm_inference(X, ZERO, np.array([1, var, 1]), out=out)
    assert (out == 7).all()


def test_a_variance_that_is_not_a_number_spoils_its_channel_alone():
    y = batch_norm_inference(X, ZERO, np.array([1, np.nan, 1]))
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(y[:, ::2]).all()
