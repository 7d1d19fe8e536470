"""Arrays with any strides, alignment, byte order and axis, as inputs and as outputs."""

import itertools

import numpy as np
import pytest

from fastbn import ChannelStats
from fastbn._core import views
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests import oracle
from tests.awkward import (
    INPUTS,
    SHAPE,
    WRITABLE,
    by_name,
    channel_slice,
    channels_first,
    channels_last,
    crop,
    fortran,
    negative_batch,
    negative_channels,
    read_only,
    spatial_transposed,
    strided,
    values,
)
from tests.compare import close


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("make", INPUTS, **by_name)
def test_inputs(make, axis, dtype, activation):
    x, residual, dy = (make(values(dtype, seed=s)) for s in range(3))
    plain, r, d = (values(dtype, seed=s) for s in range(3))
    assert np.array_equal(x, plain)
    c = SHAPE[axis]
    gamma, beta, mean = np.random.default_rng(4).normal(size=(3, c))
    common = {"axis": axis, "activation": activation}
    right = oracle.forward(plain, gamma, beta, axis=axis, residual=r, relu=activation == "relu")
    gradients = oracle.backward(d, plain, right, gamma, axis=axis, relu=activation == "relu")
    y, saved = batch_norm_training(x, gamma, beta, residual=residual, **common)
    close(y, right.y, dtype, 8, np.abs(right.z).max())
    dx, dgamma, dbeta, dresidual = batch_norm_backward(dy, x, saved, gamma, axis=axis)
    close(dx, gradients.dx, dtype, 16)
    close(dresidual, gradients.dresidual, dtype, 0)
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(dgamma, gradients.dgamma.astype(float), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(dbeta, gradients.dbeta.astype(float), rtol=rtol, atol=rtol)
    z = batch_norm_inference(x, mean, np.ones(c), gamma, beta, residual=residual, **common)
    frozen = oracle.forward(plain, gamma, beta, axis=axis, residual=r, relu=activation == "relu", mean=mean,
                            var=np.ones(c))
    close(z, frozen.y, dtype, 8, np.abs(frozen.z).max())
    stats = ChannelStats(c, axis=axis).update(x)
    np.testing.assert_allclose(stats.var(), right.var.astype(float), rtol=1e-12)
    assert all(a.dtype.isnative for a in (y, z, dx, dresidual))


def test_nested_lists():
    x = values(np.float64, (5, 3))
    y, _ = batch_norm_training(x.tolist())
    close(y, oracle.forward(x).y, np.float64, 16)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("repeated", [0, 1, 2, 3, (0, 1), (2, 3), (0, 1, 2, 3)], ids=str)
def test_broadcast(repeated, axis, dtype):
    shape = [1 if k in np.atleast_1d(repeated) else n for k, n in enumerate(SHAPE)]
    x = np.broadcast_to(values(dtype, shape), SHAPE)
    assert 0 in x.strides
    y, saved = batch_norm_training(x, axis=axis, eps=1e-3)
    right = oracle.forward(x, axis=axis, eps=1e-3)
    close(y, right.y, dtype, 16, max(np.abs(right.y).max(), 1))
    dy = values(dtype, seed=2)
    dx, *_ = batch_norm_backward(np.broadcast_to(dy[:1, :1], SHAPE), x, saved, axis=axis)
    exact = oracle.backward(np.broadcast_to(dy[:1, :1], SHAPE), x, right, axis=axis)
    close(dx, exact.dx, dtype, 64, max(np.abs(exact.dx).max(), right.rstd.max()))


@pytest.mark.parametrize("rank", range(2, 7))
def test_every_axis_of_every_rank(rank, dtype):
    shape = (3, 4, 2, 5, 2, 3)[:rank]
    x, dy = values(dtype, shape), values(dtype, shape, 1)
    for axis in range(-rank, rank):
        y, saved = batch_norm_training(x, axis=axis)
        right = oracle.forward(x, axis=axis)
        close(y, right.y, dtype, 8)
        dx, *_ = batch_norm_backward(dy, x, saved, axis=axis)
        close(dx, oracle.backward(dy, x, right, axis=axis).dx, dtype, 32)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=lambda p: "".join(map(str, p)))
def test_every_order_of_axes_in_memory(order, dtype):
    a, b, d = (np.ascontiguousarray(values(dtype, seed=s).transpose(order)).transpose(np.argsort(order))
               for s in range(3))
    for axis in range(4):
        y, saved = batch_norm_training(a, axis=axis, residual=b, activation="relu")
        right = oracle.forward(a, axis=axis, residual=b, relu=True)
        close(y, right.y, dtype, 8)
        dx, _, _, dr = batch_norm_backward(d, a, saved, axis=axis)
        exact = oracle.backward(d, a, right, axis=axis, relu=True)
        close(dx, exact.dx, dtype, 16)
        close(dr, exact.dresidual, dtype, 0)


@pytest.mark.parametrize("others", list(itertools.permutations(range(3))), ids=lambda p: "".join(map(str, p)))
def test_inputs_in_different_orders_of_memory(others, dtype):
    makes = (np.array, channels_last, strided)
    x, residual, dy = (makes[k](values(dtype, seed=s)) for s, k in enumerate(others))
    y, saved = batch_norm_training(x, residual=residual, activation="relu")
    right = oracle.forward(x, residual=residual, relu=True)
    close(y, right.y, dtype, 8)
    dx, _, _, dr = batch_norm_backward(dy, x, saved)
    exact = oracle.backward(dy, x, right, relu=True)
    close(dx, exact.dx, dtype, 16)
    close(dr, exact.dresidual, dtype, 0)


@pytest.mark.parametrize("make", WRITABLE, **by_name)
def test_outputs(make, dtype):
    x, dy = values(dtype), values(dtype, seed=1)
    right = oracle.forward(x)
    out = make(np.zeros(SHAPE, dtype))
    y, saved = batch_norm_training(x, out=out)
    assert y is out
    close(y.astype(dtype), right.y, dtype, 8)
    base = out
    while isinstance(base.base, np.ndarray):
        base = base.base
    if make in (strided, crop, channel_slice):
        assert np.isnan(base).sum() == base.size - out.size, "written beyond out"
    out = make(np.zeros(SHAPE, dtype))
    assert batch_norm_inference(x, saved.mean, saved.var, out=out) is out
    close(out.astype(dtype), right.y, dtype, 8)
    out = make(np.zeros(SHAPE, dtype))
    assert batch_norm_backward(dy, x, saved, out=out)[0] is out
    close(out.astype(dtype), oracle.backward(dy, x, right).dx, dtype, 16)


@pytest.mark.parametrize("make", WRITABLE, **by_name)
def test_in_place(make, dtype):
    plain, d = values(dtype), values(dtype, seed=1)
    right = oracle.forward(plain)
    x = make(plain)
    y, saved = batch_norm_training(x, out=x)
    assert y is x
    close(y.astype(dtype), right.y, dtype, 8)
    exact = oracle.backward(d, plain, right).dx
    x, dy = make(plain), make(d)
    assert batch_norm_backward(dy, x, saved, out=dy)[0] is dy
    close(dy.astype(dtype), exact, dtype, 16)
    x, dy = make(plain), make(d)
    assert batch_norm_backward(dy, x, saved, out=x)[0] is x
    close(x.astype(dtype), exact, dtype, 16)
    x, r = make(plain), make(d)
    batch_norm_training(x, residual=r, out=r)
    close(r.astype(dtype), oracle.forward(plain, residual=d).y, dtype, 8)


@pytest.mark.parametrize("make", [channels_last, channels_first, fortran, spatial_transposed], **by_name)
def test_a_new_result_lies_in_memory_as_x_does(make, dtype):
    x = make(values(dtype))
    assert batch_norm_training(x)[0].strides == x.strides
    assert batch_norm_inference(x, np.zeros(6), np.ones(6)).strides == x.strides


def gaps_between_images(a):
    room = np.zeros((2 * a.shape[0], *a.shape[1:]), a.dtype)
    room[::2] = a
    return room[::2]


def repeated_image(a):
    return np.broadcast_to(a[:1], a.shape)


WALKED = (np.array, read_only, channel_slice, channels_last, channels_first, negative_channels, negative_batch,
          gaps_between_images, repeated_image)


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("make", WALKED, **by_name)
def test_no_copy_of_what_the_kernels_can_walk(make, channels, dtype):
    x = make(values(dtype, (4, channels, 5, 7)))
    assert np.shares_memory(views.view(x, 1).array, x)


A = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: views.is_walkable(None, 1), "'a' must not be None|incorrect type"),
    (lambda: views.check_plain(None, "gamma"), "'a' must not be None|incorrect type"),
    (lambda: views.like(None, A, "dy"), "x must not be None"),
    (lambda: views.output(None), "x must not be None"),
    (lambda: views.choose(None, np.arange(2)), "x must not be None"),
    (lambda: views.choose(views.view(A, 1), None), "index must not be None"),
    (lambda: views.channel_axis(None, 1, None, "x"), "x must not be None"),
    (lambda: views.check_writable(None), "out must not be None"),
])
def test_none_is_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("step", [1, 2, -1])
def test_move(step, dtype):
    mean, var = (np.arange(2.0, 14.0).astype(dtype)[::step][:6] for _ in range(2))
    before = mean.astype(np.float64), var.astype(np.float64)
    new = np.linspace(-3, 3, 6), np.linspace(1, 2, 6)
    views.move(mean, var, *new, 0.3, 1.25)
    np.testing.assert_array_equal(mean, (before[0] * (1 - 0.3) + 0.3 * new[0]).astype(dtype))
    np.testing.assert_array_equal(var, (before[1] * (1 - 0.3) + 0.3 * (new[1] * 1.25)).astype(dtype))


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((np.zeros(3), np.zeros(2), np.zeros(3), np.zeros(3)), ValueError, r"var has shape \(2,\)"),
    (([0.0] * 3, np.zeros(3), np.zeros(3), np.zeros(3)), TypeError, "mean must be a numpy.ndarray, got list"),
    ((np.zeros(3, np.int64), np.zeros(3), np.zeros(3), np.zeros(3)), TypeError, "mean has dtype int64"),
    ((np.zeros(3, ">f8"), np.zeros(3), np.zeros(3), np.zeros(3)), ValueError, "mean is byte-swapped"),
    ((np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(4)), ValueError, r"new_var has shape \(4,\)"),
    ((np.zeros(3), np.broadcast_to(0.0, 3), np.zeros(3), np.zeros(3)), ValueError, "var is read-only")])
def test_move_of_arrays_that_do_not_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        views.move(*arguments, 0.5, 1.0)
    assert not any(np.any(a) for a in arguments)


@pytest.mark.parametrize(("mean", "var", "message"), [
    (np.zeros(2), np.zeros(3), r"running_mean has shape \(2,\); expected \(3,\)"),
    (np.zeros(3), np.zeros(4), r"running_var has shape \(4,\); expected \(3,\)"),
    (np.broadcast_to(0.0, 3), np.broadcast_to(0.0, 3), "running_mean is read-only, and training updates it"),
    (np.zeros(3), np.broadcast_to(0.0, 3), "running_var is read-only, and training updates it")])
def test_averages_that_training_cannot_update(mean, var, message):
    with pytest.raises(ValueError, match=message):
        views.check_averages(mean, var, 3)
