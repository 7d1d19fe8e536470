"""Awkward arrays by name: any strides, any alignment, any byte order, any axis, as input and as output."""

import itertools

import numpy as np
import pytest

from fastbn import ChannelStats, _layout
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests import oracle
from tests.compare import close

SHAPE = (4, 6, 5, 7)


def values(dtype, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(1, 2, shape).astype(dtype)


def strided(a):
    room = np.full([2 * n for n in a.shape], np.nan, a.dtype)
    view = room[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def negative(a):
    flip = tuple(slice(None, None, -1) for _ in a.shape)
    return np.ascontiguousarray(a[flip])[flip]


def negative_channels(a):
    return np.ascontiguousarray(a[:, ::-1])[:, ::-1]


def negative_batch(a):
    return np.ascontiguousarray(a[::-1])[::-1]


def misaligned(a):
    room = bytearray(a.nbytes + 1)
    view = np.frombuffer(room, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned
    return view


def swapped(a):
    return a.astype(a.dtype.newbyteorder())


def fortran(a):
    return np.asfortranarray(a)


def crop(a):
    room = np.full((*a.shape[:-2], a.shape[-2] + 4, a.shape[-1] + 4), np.nan, a.dtype)
    view = room[..., 2:-2, 2:-2]
    view[...] = a
    return view


def channel_slice(a):
    room = np.full((a.shape[0], 2 * a.shape[1], *a.shape[2:]), np.nan, a.dtype)
    view = room[:, 1 : 1 + a.shape[1]]
    view[...] = a
    return view


def channels_last(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def channels_first(a):
    return np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1)


def spatial_transposed(a):
    return np.ascontiguousarray(a.swapaxes(2, 3)).swapaxes(2, 3)


def odd_bytes(a):
    # Aligned to the item, with a step that is no multiple of it.
    record = np.zeros(a.shape, np.dtype([("v", a.dtype), ("pad", "u1")]))
    record["v"] = a
    return record["v"]


WRITABLE = (strided, negative, negative_channels, negative_batch, misaligned, swapped, fortran, crop, channel_slice,
            channels_last, channels_first, spatial_transposed, odd_bytes)


def read_only(a):
    b = a.copy()
    b.flags.writeable = False
    return b


class Subclass(np.ndarray):
    pass


def subclass(a):
    return a.view(Subclass)


INPUTS = (*WRITABLE, read_only, subclass)

by_name = {"ids": lambda f: f.__name__}


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
    assert np.shares_memory(_layout.view(x, 1).array, x)


# ---- what is refused, before anything is written ----

def shifted(room):
    return room[:4], room[1:5]


def reversed_view(room):
    return room[:4], room[:4][::-1]


def transposed(room):
    square = room[:, :5]
    return square, square.swapaxes(0, 1)


def by_one_byte(room):
    raw = room.reshape(-1).view(np.uint8)
    n = room[:4].nbytes
    return room[:4], raw[1 : 1 + n].view(room.dtype).reshape(room[:4].shape)


def same_start(room):
    return room[:4, :, :3], room[:4].reshape(-1)[: 4 * 5 * 3].reshape(4, 5, 3)


OVERLAPS = (shifted, reversed_view, transposed, by_one_byte, same_start)


@pytest.mark.parametrize("make", OVERLAPS, **by_name)
@pytest.mark.parametrize("role", ["x", "residual", "dy"])
def test_out_that_overlaps_an_input(make, role, dtype):
    room = values(dtype, (5, 5, 6))
    before = room.copy()
    view, out = make(room)
    other = values(dtype, view.shape, 1)
    channels = view.shape[1]
    zero, one = np.zeros(channels), np.ones(channels)
    saved = batch_norm_training(other)[1]
    calls = {
        "x": (lambda: batch_norm_training(view, out=out), lambda: batch_norm_inference(view, zero, one, out=out),
              lambda: batch_norm_backward(other, view, saved, out=out)),
        "residual": (lambda: batch_norm_training(other, residual=view, out=out),
                     lambda: batch_norm_inference(other, zero, one, residual=view, out=out)),
        "dy": (lambda: batch_norm_backward(view, other, saved, out=out),),
    }[role]
    for call in calls:
        with pytest.raises(ValueError, match=f"out overlaps {role} without being the same array"):
            call()
    np.testing.assert_array_equal(room, before)


def test_out_that_overlaps_what_a_buffer_exports(dtype):
    room = values(dtype, (5, 5, 6))
    before = room.copy()
    with pytest.raises(ValueError, match="out overlaps x"):
        batch_norm_training(memoryview(room[:4]), out=room[1:5])
    np.testing.assert_array_equal(room, before)


@pytest.mark.parametrize("make", [lambda room: (room[:2], room[2:4]), lambda room: (room[:, :, ::2], room[:, :, 1::2]),
                                  lambda room: (room[:, :, :3], room[:, :, 3:])])
def test_neighbours_do_not_overlap(make, dtype):
    x, out = make(values(dtype, (5, 5, 6)))
    right = oracle.forward(x)
    batch_norm_training(x, out=out)
    close(out, right.y, dtype, 8)


@pytest.mark.parametrize("make", [np.array, strided, fortran, channels_last], **by_name)
def test_an_equal_view_is_in_place(make, dtype):
    x = make(values(dtype))
    right = oracle.forward(x)
    y, _ = batch_norm_training(x, out=x[...])
    close(y, right.y, dtype, 8)
    close(x, right.y, dtype, 8)


def out_of(kind, dtype):
    other = np.float32 if dtype == np.float64 else np.float64
    return {
        "read-only": lambda: read_only(np.zeros(SHAPE, dtype)),
        "shape": lambda: np.zeros((*SHAPE[:-1], 6), dtype),
        "rank": lambda: np.zeros(SHAPE[:-1], dtype),
        "dtype": lambda: np.zeros(SHAPE, other),
        "integer": lambda: np.zeros(SHAPE, np.int32),
        "itself": lambda: np.lib.stride_tricks.as_strided(np.zeros(2000, dtype), SHAPE, np.array([9, 3, 2, 1])
                                                          * dtype.itemsize),
        "broadcast": lambda: np.lib.stride_tricks.as_strided(np.zeros(5000, dtype), SHAPE,
                                                             np.array([0, 35, 7, 1]) * dtype.itemsize),
        "list": lambda: [[0.0]],
        "masked": lambda: np.ma.zeros(SHAPE, dtype),
    }[kind]()


REFUSED = {
    "read-only": (ValueError, "out is read-only"),
    "shape": (ValueError, r"out has shape \(4, 6, 5, 6\); expected the shape of x, \(4, 6, 5, 7\)"),
    "rank": (ValueError, "out has shape .*; expected the shape of x"),
    "dtype": (TypeError, "out has dtype float.*; expected that of x, float"),
    "integer": (TypeError, "out has dtype int32"),
    "itself": (ValueError, "out has elements that share memory"),
    "broadcast": (ValueError, "out has elements that share memory"),
    "list": (TypeError, "out must be a numpy.ndarray, got list"),
    "masked": (TypeError, "out must be a numpy.ndarray, got MaskedArray"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_out_that_is_refused(kind, dtype):
    x, dy = values(dtype), values(dtype, seed=1)
    _, saved = batch_norm_training(x)
    error, message = REFUSED[kind]
    calls = (lambda out: batch_norm_training(x, out=out),
             lambda out: batch_norm_inference(x, saved.mean, saved.var, out=out),
             lambda out: batch_norm_backward(dy, x, saved, out=out))
    for call in calls:
        out = out_of(kind, dtype)
        with pytest.raises(error, match=message):
            call(out)
        assert not np.any(out)


BAD_BESIDE_A_GOOD_OUT = {
    "gamma": ({"gamma": np.ones(5)}, ValueError),
    "beta": ({"beta": np.ones(6, int)}, TypeError),
    "eps": ({"eps": 0.0}, ValueError),
    "activation": ({"activation": "gelu"}, ValueError),
    "residual": ({"residual": np.ones((4, 6, 5, 6))}, ValueError),
    "num_threads": ({"num_threads": 0}, ValueError),
    "axis": ({"axis": 4}, ValueError),
}


@pytest.mark.parametrize("name", BAD_BESIDE_A_GOOD_OUT)
def test_nothing_is_written_when_another_argument_is_wrong(name):
    arguments, error = BAD_BESIDE_A_GOOD_OUT[name]
    x, out = values(np.float64), np.full(SHAPE, 7.0)
    with pytest.raises(error, match=name):
        batch_norm_training(x, out=out, **arguments)
    with pytest.raises(error, match=name):
        batch_norm_inference(x, np.zeros(6), np.ones(6), out=out, **arguments)
    assert (out == 7).all()
