"""The array that a caller brings for the result: what is refused, before anything is written."""

import numpy as np
import pytest

from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests import oracle
from tests.awkward import SHAPE, by_name, channels_last, fortran, read_only, strided, values
from tests.compare import close


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
    "masked": (TypeError, "out is a masked array, whose mask would be ignored"),
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
    "eps": ({"eps": -1.0}, ValueError),
    "activation": ({"activation": "swish"}, ValueError),
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
