"""Virtual batches: each group of samples as a batch of its own, in one call."""

import pickle

import numpy as np
import pytest

import fastbn
from fastbn.functional import batch_norm_backward, batch_norm_training
from tests import oracle
from tests.cases import arranged, axis_of
from tests.compare import close, same_bits

SHAPES = {"small planes": (7, 5, 3, 3), "planes": (5, 3, 24, 24), "columns": (11, 70), "volumes": (5, 2, 3, 2, 4)}
SIZES = (2, 3)      # with a last group of one sample, or of more


def arrays(shape, layout, dtype):
    rng = np.random.default_rng(len(shape))
    x, residual, dy = (arranged(rng.normal(1, 2, shape).astype(dtype), layout) for _ in range(3))
    gamma, beta = (rng.normal(size=shape[1]).astype(dtype) for _ in range(2))
    return x, residual, dy, gamma, beta


def groups(n, size):
    return [slice(start, start + size) for start in range(0, n, size)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("act", "with_residual"), [
    (None, False), (None, True), ("relu", False), ("relu", True), ("silu", False)])
def test_groups_are_batches(name, size, layout, dtype, act, with_residual):
    x, residual, dy, gamma, beta = arrays(SHAPES[name], layout, dtype)
    if name == "columns" and len(x) % size == 1:
        x, residual, dy = x[:-1], residual[:-1], dy[:-1]
    axis = axis_of(layout) if x.ndim > 2 else 1
    options = {"axis": axis, "activation": act}
    y, saved = batch_norm_training(
        x, gamma, beta, residual=residual if with_residual else None, virtual_batch_size=size, **options)
    dx, dgamma, dbeta, *dresidual = batch_norm_backward(dy, x, saved, gamma, axis=axis)
    parts = groups(len(x), size)
    assert saved.mean.shape == saved.var.shape == saved.rstd.shape == (len(parts), len(gamma))
    sums = np.zeros((2, len(gamma)))
    for g, part in enumerate(parts):
        other, alone = batch_norm_training(
            x[part], gamma, beta, residual=residual[part] if with_residual else None, **options)
        same_bits(y[part], other)
        same_bits(saved.mean[g], alone.mean)
        same_bits(saved.var[g], alone.var)
        got = batch_norm_backward(dy[part], x[part], alone, gamma, axis=axis)
        same_bits(dx[part], got[0])
        for a, b in zip(dresidual, got[3:], strict=True):
            same_bits(a[part], b)
        sums += got[1:3]
    np.testing.assert_allclose([dgamma, dbeta], sums, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_the_definition(size, layout, dtype):
    x, _, dy, gamma, beta = arrays((7, 5, 3, 3), layout, dtype)
    axis = axis_of(layout)
    y, saved = batch_norm_training(x, gamma, beta, axis=axis, virtual_batch_size=size)
    dx, dgamma, dbeta = batch_norm_backward(dy, x, saved, gamma, axis=axis)
    total = np.zeros((2, 5), np.longdouble)
    for part in groups(7, size):
        of = oracle.forward(x[part], gamma, beta, axis=axis)
        close(y[part], of.y, dtype, 8)
        right = oracle.backward(dy[part], x[part], of, gamma, axis=axis)
        close(dx[part], right.dx, dtype, 16)
        total += [right.dgamma, right.dbeta]
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(np.array([dgamma, dbeta]), total.astype(float), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("size", [7, 8, 1000])
def test_one_group_is_the_batch(size):
    x, _, dy, gamma, beta = arrays((7, 5, 3, 3), "planes", np.float32)
    y, saved = batch_norm_training(x, gamma, beta, virtual_batch_size=size)
    other, alone = batch_norm_training(x, gamma, beta)
    same_bits(y, other)
    same_bits(saved.mean, alone.mean)
    same_bits(batch_norm_backward(dy, x, saved, gamma)[0], batch_norm_backward(dy, x, alone, gamma)[0])


def test_groups_of_one_sample_are_instance_norm():
    x, *_ = arrays((4, 3, 5, 5), "planes", np.float64)
    y, _ = batch_norm_training(x, virtual_batch_size=1)
    np.testing.assert_allclose(y.mean(axis=(2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=(2, 3)), 1, rtol=1e-4)


MEMORY = {
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "samples last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "Fortran": np.asfortranarray,
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "strided": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "channels first": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, 0)), 0, 1),
}


@pytest.mark.parametrize("name", MEMORY)
def test_any_order_in_memory(name):
    x, residual, dy, gamma, beta = arrays((7, 5, 3, 4), "planes", np.float32)
    odd = MEMORY[name](x)
    for act in (None, "relu"):
        y, saved = batch_norm_training(odd, gamma, beta, residual=residual, activation=act, virtual_batch_size=3)
        right, plain = batch_norm_training(x, gamma, beta, residual=residual, activation=act, virtual_batch_size=3)
        close(y, right.astype(np.longdouble), np.float32, 4)
        for got, expected in zip(batch_norm_backward(dy, odd, saved, gamma),
                                 batch_norm_backward(dy, x, plain, gamma), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_channel_axis_in_the_middle():
    x, dy = np.random.default_rng(0).normal(size=(2, 6, 2, 3, 4))
    y, saved = batch_norm_training(x, axis=2, virtual_batch_size=4)
    dx, _, _ = batch_norm_backward(dy, x, saved, axis=2)
    for part in groups(6, 4):
        of = oracle.forward(x[part], axis=2)
        close(y[part], of.y, np.float64, 8)
        close(dx[part], oracle.backward(dy[part], x[part], of, axis=2).dx, np.float64, 16)


def test_out_threads_and_pickles():
    x, _, dy, gamma, _ = arrays((33, 40, 14, 14), "planes", np.float32)
    y, saved = batch_norm_training(x, gamma, virtual_batch_size=8, num_threads=1)
    work = x.copy()
    got, again = batch_norm_training(work, gamma, virtual_batch_size=8, num_threads=2, out=work)
    assert got is work
    same_bits(work, y)
    dx = batch_norm_backward(dy, x, saved, gamma, num_threads=1)
    for other in (again, pickle.loads(pickle.dumps(saved))):
        for a, b in zip(batch_norm_backward(dy, x, other, gamma, num_threads=2), dx, strict=True):
            same_bits(a, b)


def test_an_empty_batch():
    y, saved = batch_norm_training(np.zeros((0, 3, 4)), virtual_batch_size=2)
    assert y.shape == (0, 3, 4)
    assert batch_norm_backward(y, y, saved)[0].shape == (0, 3, 4)


X = np.zeros((9, 3))


@pytest.mark.parametrize(("x", "options", "error", "message"), [
    (X, {"virtual_batch_size": 0}, ValueError, "virtual_batch_size must be at least 1, got 0"),
    (X, {"virtual_batch_size": 2.0}, TypeError, "virtual_batch_size must be an integer, got 2.0"),
    (X, {"virtual_batch_size": True}, TypeError, "virtual_batch_size must be an integer, got True"),
    (X, {"virtual_batch_size": 3, "axis": 0}, ValueError, "axis is 0; expected another one than axis 0"),
    (X, {"virtual_batch_size": 1}, ValueError, "virtual_batch_size 1 makes a group of one sample of x, whose shape is"),
    (X, {"virtual_batch_size": 4}, ValueError, r"shape is \(9, 3\), and one value per channel.*of the 9 samples"),
], ids=str)
def test_errors(x, options, error, message):
    out = np.ones_like(x)
    with pytest.raises(error, match=message):
        batch_norm_training(x, out=out, **options)
    assert out.all()


def test_a_wrong_number_of_samples_in_saved_is_refused():
    x, _, dy, gamma, _ = arrays((7, 5, 3, 3), "planes", np.float32)
    _, saved = batch_norm_training(x, gamma, virtual_batch_size=2)
    for wrong in (0, -1, 3, 2.0, None):
        saved._samples = wrong
        with pytest.raises(ValueError, match=r"saved must be|mask|mean"):
            fastbn.functional.batch_norm_backward(dy, x, saved, gamma)
