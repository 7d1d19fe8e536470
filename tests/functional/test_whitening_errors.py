"""Bad calls of whitening: errors name the argument, and come before anything is written."""

import numpy as np
import pytest

from fastbn.functional import (
    Saved,
    WhiteningSaved,
    whitening_backward,
    whitening_inference,
    whitening_training,
)
from tests.functional.test_errors import BAD_OPTIONS, BAD_THREADS, BAD_X

X = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
SAVED = whitening_training(X)[1]
OPTIONS = [name for name, (options, *_) in BAD_OPTIONS.items() if not options.keys() & {"activation", "residual"}]


def inference(x, **options):
    return whitening_inference(x, np.zeros(3), np.eye(3)[None], **options)


def backward(x, **options):
    return whitening_backward(X, x, SAVED, **options)


@pytest.mark.parametrize("name", BAD_X)
@pytest.mark.parametrize("call", [whitening_training, inference, backward])
def test_x(call, name):
    x, error, message = BAD_X[name]
    with pytest.raises(error, match=message):
        call(x)


@pytest.mark.parametrize(("call", "name"), [
    *((whitening_training, name) for name in OPTIONS),
    *((inference, name) for name in OPTIONS if not name.startswith("eps"))])
def test_options(call, name):
    options, error, message = BAD_OPTIONS[name]
    out = np.full_like(X, 7)
    with pytest.raises(error, match=message):
        call(X, **{"out": out} | options)
    assert (out == 7).all()


@pytest.mark.parametrize("name", [name for name in OPTIONS if name.startswith(("axis", "gamma"))])
def test_options_of_backward(name):
    options, error, message = BAD_OPTIONS[name]
    with pytest.raises(error, match=message):
        backward(X, **options)


@pytest.mark.parametrize("name", BAD_THREADS)
@pytest.mark.parametrize("call", [whitening_training, backward])
def test_num_threads(call, name):
    threads, error, message = BAD_THREADS[name]
    with pytest.raises(error, match=message):
        call(X, num_threads=threads)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"groups": 2}, ValueError, "groups must divide the number of channels, got 2 and 3"),
    ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
    ({"groups": 1.0}, TypeError, "groups must be an integer, got 1.0"),
    ({"groups": None}, TypeError, "groups must be an integer, got None"),
    ({"method": "pca"}, ValueError, "method must be one of 'zca', 'iternorm', got 'pca'"),
    ({"method": 1}, TypeError, "method must be one of 'zca', 'iternorm', got 1"),
    ({"iterations": 0}, ValueError, "iterations must be between 1 and 100, got 0"),
    ({"iterations": 5.0}, TypeError, "iterations must be an integer, got 5.0"),
], ids=str)
def test_settings(options, error, message):
    with pytest.raises(error, match=message):
        whitening_training(X, **options)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)], ids=str)
def test_one_value_per_channel(shape):
    with pytest.raises(ValueError, match="one value per channel along axis 1, so there is no covariance"):
        whitening_training(np.ones(shape))


@pytest.mark.parametrize(("mean", "matrix", "error", "message"), [
    (np.zeros(4), np.eye(3)[None], ValueError, r"mean has shape \(4,\); expected \(3,\)"),
    (None, np.eye(3)[None], TypeError, "mean must be an array, got None"),
    (np.zeros(3, int), np.eye(3)[None], TypeError, "mean has dtype int64; expected float32 or float64"),
    (np.zeros(3), np.eye(3), ValueError, r"matrix has shape \(3, 3\); expected \(G, D, D\)"),
    (np.zeros(3), np.ones((1, 3, 2)), ValueError, r"matrix has shape \(1, 3, 2\); expected \(G, D, D\)"),
    (np.zeros(3), np.eye(4)[None], ValueError, r"matrix has shape \(1, 4, 4\), for 4 channels; x has 3"),
    (np.zeros(3), np.eye(3, dtype=complex)[None], TypeError, "matrix has dtype complex128"),
    (np.zeros(3), None, TypeError, "matrix must be an array, got None"),
], ids=["length", "no mean", "integers", "2-d", "not square", "channels", "complex", "no matrix"])
def test_statistics(mean, matrix, error, message):
    with pytest.raises(error, match=message):
        whitening_inference(X, mean, matrix)
    if "x has 3" not in message:
        with pytest.raises(error, match=message):
            WhiteningSaved.from_statistics(mean, matrix)


@pytest.mark.parametrize(("arguments", "options", "error", "message"), [
    ((X[:2], X, SAVED), {}, ValueError, r"dy has shape \(2, 3, 5\); expected the shape of x, \(4, 3, 5\)"),
    ((X.astype(float), X, SAVED), {}, TypeError, "dy has dtype float64; expected that of x, float32"),
    ((X[:2], X[:2], SAVED), {}, ValueError, r"x has shape \(2, 3, 5\); expected that of the forward pass, \(4, 3, 5\)"),
    ((X.swapaxes(1, 2), X.swapaxes(1, 2), SAVED), {"axis": 2}, ValueError, "x has shape"),
    ((X, X, Saved.from_statistics([0.0], [1.0])), {}, TypeError, "saved must be a WhiteningSaved, .* got Saved"),
    ((X, X, None), {}, TypeError, "saved must be a WhiteningSaved, .* got NoneType"),
], ids=["shape", "dtype", "x", "axis", "Saved", "None"])
def test_backward(arguments, options, error, message):
    out = np.full_like(X, 7)
    with pytest.raises(error, match=message):
        whitening_backward(*arguments, **options, out=out)
    assert (out == 7).all()


def test_other_axis():
    x = np.random.default_rng(0).normal(size=(4, 4, 4))
    _, saved = whitening_training(x)
    with pytest.raises(ValueError, match="axis 2 is not that of the forward pass, 1"):
        whitening_backward(x, x, saved, axis=2)


@pytest.mark.parametrize("call", [whitening_training, inference, backward])
def test_out_overlaps(call):
    room = np.zeros((5, 3, 5), np.float32)
    x = room[:4]
    x[...] = X
    with pytest.raises(ValueError, match="out overlaps x without being the same array"):
        call(x, out=room[1:])
    np.testing.assert_array_equal(x, X)
