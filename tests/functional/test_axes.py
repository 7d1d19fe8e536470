"""Several channel axes: each combination of their indices is a channel."""

import numpy as np
import pytest

from fastbn.functional import (
    batch_norm_backward,
    batch_norm_backward_backward,
    batch_norm_inference,
    batch_norm_jvp,
    batch_norm_training,
)
from tests import oracle
from tests.compare import close, same_bits

# Shapes and channel axes; the last ones need a copy.
CASES = {
    "adjacent": ((4, 3, 5, 6), (1, 2)), "last": ((4, 6, 3, 5), (2, 3)), "negative": ((4, 6, 3, 5), (-2, -1)),
    "three": ((4, 2, 3, 2, 6), (1, 2, 3)), "first": ((3, 2, 40), (0, 1)), "one": ((4, 3, 6), (1,)),
    "large": ((8, 16, 4, 400), (1, 2)), "swapped": ((4, 3, 5, 6), (2, 1)), "apart": ((4, 3, 6, 5), (1, 3)),
    "apart and swapped": ((4, 3, 6, 5), (-1, 1)),
}
ADJACENT = ("adjacent", "last", "negative", "three", "first", "one")


def merged(x, axes):
    """A copy of x with the channels last."""
    axes = [axis % x.ndim for axis in axes]
    rest = [k for k in range(x.ndim) if k not in axes]
    moved = x.transpose(*rest, *axes)
    return np.ascontiguousarray(moved).reshape(*moved.shape[:len(rest)], -1)


def arrays(shape, dtype=np.float64, count=3):
    rng = np.random.default_rng(len(shape))
    return [rng.normal(1, 2, shape).astype(dtype) for _ in range(count)]


def vectors(shape, axes, dtype=np.float64):
    rng = np.random.default_rng(1)
    size = int(np.prod([shape[k] for k in axes]))
    return [rng.normal(size=size).astype(dtype) for _ in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_training_and_its_gradients(name, dtype, activation, with_residual):
    shape, axes = CASES[name]
    x, residual, dy = arrays(shape, dtype)
    gamma, beta = vectors(shape, axes, dtype)
    r = residual if with_residual else None
    y, saved = batch_norm_training(x, gamma, beta, axis=axes, residual=r, activation=activation)
    dx, dgamma, dbeta, *dresidual = batch_norm_backward(dy, x, saved, gamma, axis=axes)
    flat = merged(x, axes)
    of = oracle.forward(flat, gamma, beta, axis=-1, relu=activation == "relu",
                        residual=merged(residual, axes) if with_residual else None)
    right = oracle.backward(merged(dy, axes), flat, of, gamma, axis=-1, relu=activation == "relu")
    assert y.shape == dx.shape == shape
    close(merged(y, axes), of.y, dtype, 8)
    close(merged(dx, axes), right.dx, dtype, 32)
    close(dgamma, right.dgamma, np.float64, 4e9 if dtype == np.float32 else 64)
    close(dbeta, right.dbeta, np.float64, 4e9 if dtype == np.float32 else 64)
    for array in dresidual:
        close(merged(array, axes), right.dresidual, dtype)
    close(saved.mean, of.mean, np.float64, 4e9 if dtype == np.float32 else 16)


@pytest.mark.parametrize("name", CASES)
def test_inference(name, dtype, activation, with_residual):
    shape, axes = CASES[name]
    x, residual, _ = arrays(shape, dtype)
    gamma, beta = vectors(shape, axes, dtype)
    r = residual if with_residual else None
    y = batch_norm_inference(x, beta, gamma ** 2, gamma, beta, axis=axes, residual=r, activation=activation)
    of = oracle.forward(merged(x, axes), gamma, beta, axis=-1, relu=activation == "relu", mean=beta, var=gamma ** 2,
                        residual=merged(residual, axes) if with_residual else None)
    close(merged(y, axes), of.y, dtype, 8)


@pytest.mark.parametrize("name", ADJACENT)
def test_adjacent_axes_have_the_bits_of_a_reshaped_array(name, dtype):
    shape, axes = CASES[name]
    x, _, dy = arrays(shape, dtype)
    gamma, beta = vectors(shape, axes, dtype)
    first = min(axis % x.ndim for axis in axes)
    flat = x.reshape(*shape[:first], -1, *shape[first + len(axes):])
    y, saved = batch_norm_training(x, gamma, beta, axis=axes)
    other, alone = batch_norm_training(flat, gamma, beta, axis=first)
    same_bits(y.reshape(flat.shape), other)
    dx, *sums = batch_norm_backward(dy, x, saved, gamma, axis=axes)
    right, *totals = batch_norm_backward(dy.reshape(flat.shape), flat, alone, gamma, axis=first)
    same_bits(dx.reshape(flat.shape), right)
    for a, b in zip(sums, totals, strict=True):
        same_bits(a, b)


@pytest.mark.parametrize("name", CASES)
def test_out_and_in_place(name):
    shape, axes = CASES[name]
    x, residual, dy = arrays(shape)
    y, saved = batch_norm_training(x, axis=axes, residual=residual)
    dx = batch_norm_backward(dy, x, saved, axis=axes)[0]
    for out in (np.empty(shape), np.empty(shape[::-1]).T, np.empty((*shape, 2))[..., 0]):
        got, again = batch_norm_training(x, axis=axes, residual=residual, out=out)
        assert got is out
        close(out, y.astype(np.longdouble), np.float64, 4)
        assert batch_norm_backward(dy, x, again, axis=axes, out=out)[0] is out
        close(out, dx.astype(np.longdouble), np.float64, 4)
    work = x.copy()
    batch_norm_training(work, axis=axes, residual=residual, out=work)
    same_bits(work, np.ascontiguousarray(y))
    for name_of_input, other in (("x", x), ("residual", residual)):
        window = np.lib.stride_tricks.as_strided(other[..., 1:], shape, other.strides) if other.shape[-1] > 1 else None
        if window is not None:
            with pytest.raises(ValueError, match=f"out overlaps {name_of_input}"):
                batch_norm_training(x, axis=axes, residual=residual, out=window)


def test_adjacent_axes_are_not_copied():
    import tracemalloc

    x = np.zeros((16, 8, 8, 64, 64), np.float32)
    out = np.empty_like(x)
    for axes, most in (((1, 2), 0.02), ((2, 1), 3)):
        tracemalloc.start()
        batch_norm_inference(x, np.zeros(64), np.ones(64), axis=axes, out=out)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= most * x.nbytes, axes
    assert peak >= 0.9 * x.nbytes


@pytest.mark.parametrize("order", ["F", "last", "swapped", "readonly", "float16"])
def test_memory_of_any_kind(order):
    x, _, dy = arrays((4, 3, 5, 6), np.float32)
    kinds = {
        "F": np.asfortranarray, "last": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 3, 1)), 1, 3),
        "swapped": lambda a: a.astype(">f4"),
        "readonly": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
        "float16": lambda a: a.astype(np.float16)}
    odd, odd_dy = kinds[order](x), kinds[order](dy)
    y, saved = batch_norm_training(odd, axis=(1, 2))
    dx = batch_norm_backward(odd_dy, odd, saved, axis=(1, 2))[0]
    dtype = odd.dtype.newbyteorder("=")
    flat = merged(odd.astype(dtype), (1, 2))
    of = oracle.forward(flat, axis=-1)
    close(merged(y, (1, 2)), of.y, dtype, 8)
    close(merged(dx, (1, 2)), oracle.backward(merged(odd_dy.astype(dtype), (1, 2)), flat, of, axis=-1).dx, dtype, 32)


def test_virtual_batches():
    x, _, dy = arrays((7, 3, 5, 6))
    for axes in ((1, 2), (1, 3)):
        y, saved = batch_norm_training(x, axis=axes, virtual_batch_size=3, activation="relu")
        dx = batch_norm_backward(dy, x, saved, axis=axes)[0]
        for part in (slice(0, 3), slice(3, 6), slice(6, 7)):
            flat = merged(x[part], axes)
            of = oracle.forward(flat, axis=-1, relu=True)
            close(merged(y[part], axes), of.y, np.float64, 8)
            right = oracle.backward(merged(dy[part], axes), flat, of, axis=-1, relu=True)
            close(merged(dx[part], axes), right.dx, np.float64, 32)
    with pytest.raises(ValueError, match=r"axis is \(0, 1\); expected another one than axis 0"):
        batch_norm_training(x, axis=(0, 1), virtual_batch_size=3)


X = np.ones((4, 3, 5, 6))


@pytest.mark.parametrize("name", CASES)
def test_second_order(name):
    shape, axes = CASES[name]
    x, dy, direction = arrays(shape)
    gamma, ddgamma = vectors(shape, axes)
    _, saved = batch_norm_training(x, gamma, axis=axes)
    got = batch_norm_backward_backward(direction, ddgamma, None, dy, x, saved, gamma=gamma, axis=axes)
    out = np.empty_like(x)
    tangent = batch_norm_jvp(direction, x, saved, gamma, ddgamma, axis=axes, out=out)
    flat = merged(x, axes)
    _, of_flat = batch_norm_training(flat, gamma, axis=-1)
    right = batch_norm_backward_backward(
        merged(direction, axes), ddgamma, None, merged(dy, axes), flat, of_flat, gamma=gamma, axis=-1)
    for value, other in zip(got[:2], right[:2], strict=True):
        assert value.shape == shape
        np.testing.assert_allclose(merged(value, axes), other, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(got[2], right[2], rtol=1e-11, atol=1e-11)
    assert tangent is out
    other = batch_norm_jvp(merged(direction, axes), flat, of_flat, gamma, ddgamma, axis=-1)
    np.testing.assert_allclose(merged(tangent, axes), other, rtol=1e-11, atol=1e-11)
    same_bits(batch_norm_jvp(direction, x, saved, gamma, ddgamma, axis=axes), tangent)


@pytest.mark.parametrize(("axis", "error", "message"), [
    ((), ValueError, r"axis is \(\); expected one or more axes, each once"),
    ((1, -3), ValueError, r"axis is \(1, -3\); expected one or more axes, each once"),
    ((0, 1, 2, 3), ValueError, r"x has shape \(4, 3, 5, 6\), with all axes in axis \(0, 1, 2, 3\)"),
    ((1, 4), ValueError, "axis 4 is out of range for an array of 4 dimensions"),
    ((1, 2.0), TypeError, "axis must be an integer, got 2.0"),
    ((1, True), TypeError, "axis must be an integer, got True"),
    ([1, 2], TypeError, r"axis must be an integer, got \[1, 2\]"),
])
def test_errors(axis, error, message):
    with pytest.raises(error, match=message):
        batch_norm_training(X, axis=axis)


def test_errors_of_the_other_arrays_have_the_shape_of_the_caller():
    with pytest.raises(ValueError, match=r"residual has shape \(4, 15, 6\); expected the shape of x, \(4, 3, 5, 6\)"):
        batch_norm_training(X, axis=(1, 2), residual=X.reshape(4, 15, 6))
    with pytest.raises(ValueError, match=r"out has shape \(4, 15, 6\); expected the shape of x, \(4, 3, 5, 6\)"):
        batch_norm_training(X, axis=(1, 2), out=X.reshape(4, 15, 6).copy())
    with pytest.raises(ValueError, match=r"gamma has shape \(3, 5\); expected \(15,\)"):
        batch_norm_training(X, np.ones((3, 5)), axis=(1, 2))
    _, saved = batch_norm_training(X, axis=(1, 2))
    with pytest.raises(ValueError, match="x has shape"):
        batch_norm_backward(X, X, saved, axis=(1, 3))
