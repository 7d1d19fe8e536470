"""The kernels refuse views that do not fit each other, which would lead them outside of the arrays."""

import numpy as np
import pytest

from fastbn import ChannelAffine, Plan
from fastbn._core import views
from fastbn._core.dispatch import kernels
from fastbn.functional import batch_norm_training

X = np.random.default_rng(0).normal(size=(4, 3, 20)).astype(np.float32)
VIEW, LONGER = views.view(X, 1), views.view(np.repeat(X, 2, axis=2), 1)
DOUBLE = views.view(X.astype(np.float64), 1)
BYTES = views.view(np.ones(X.shape, np.uint8), 1, statistics=True)
EMPTY = [views.view(np.zeros(shape, np.float32), 1) for shape in ((0, 3, 20), (4, 0, 20), (4, 3, 0))]
KEPT = batch_norm_training(X)[1]._kept
SUMS = np.zeros(3), np.zeros(3)
CONSTANTS = kernels.Constants(3, None, None, None, None, 1e-5)


def read_only():
    array = X.copy()
    array.flags.writeable = False
    return views.view(array, 1)


def forward(x, y, residual=None):
    return kernels.forward(x, y, residual, None, None, 1e-5, activation=(0, 0.0), bits=None, fill=False, num_threads=1)


def backward(dy, x, dx, dresidual=None):
    return kernels.backward(dy, x, dx, dresidual, KEPT, None, fill=False, num_threads=1)


def apply_gradient(dy, x, dx, dresidual=None):
    return kernels.apply_gradient(
        dy, x, dx, dresidual, KEPT, None, sums=SUMS, count=80, fill=False, num_threads=1)


def reduce_gradient(dy, x):
    return kernels.reduce_gradient(dy, x, KEPT, num_threads=1)


def reduce(x):
    return kernels.reduce(x, whole=False, num_threads=1)


@pytest.mark.parametrize("other", [LONGER, DOUBLE, BYTES, *EMPTY])
@pytest.mark.parametrize(("call", "name"), [
    (lambda v: forward(VIEW, v), "y"),
    (lambda v: forward(VIEW, views.output(VIEW), v), "residual"),
    (lambda v: backward(v, VIEW, views.output(VIEW)), "dy"),
    (lambda v: backward(VIEW, VIEW, v), "dx"),
    (lambda v: backward(VIEW, VIEW, views.output(VIEW), v), "dresidual"),
    (lambda v: reduce_gradient(v, VIEW), "dy"),
    (lambda v: apply_gradient(v, VIEW, views.output(VIEW)), "dy"),
    (lambda v: apply_gradient(VIEW, VIEW, v), "dx"),
], ids=["y", "residual", "dy", "dx", "dresidual", "reduce", "apply dy", "apply dx"])
def test_an_array_that_is_not_like_x(call, name, other):
    with pytest.raises(ValueError, match=rf"^{name} does not have the shape, the dtype"):
        call(other)


@pytest.mark.parametrize("call", [
    lambda v: forward(v, v), lambda v: backward(v, v, v), lambda v: reduce_gradient(v, v),
    lambda v: apply_gradient(v, v, v), reduce])
@pytest.mark.parametrize("empty", [*EMPTY, views.View()])
def test_an_empty_view(call, empty):
    with pytest.raises(ValueError, match=r"^x is empty"):
        call(empty)


@pytest.mark.parametrize("call", [
    lambda v: forward(v, v), lambda v: backward(v, v, v), lambda v: reduce_gradient(v, v),
    lambda v: apply_gradient(v, v, v)])
def test_bytes_have_statistics_only(call):
    with pytest.raises(TypeError, match=r"^x has dtype uint8"):
        call(BYTES)


@pytest.mark.parametrize("call", [
    lambda: forward(VIEW, read_only()), lambda: backward(VIEW, VIEW, read_only()),
    lambda: backward(VIEW, VIEW, views.output(VIEW), read_only()), lambda: apply_gradient(VIEW, VIEW, read_only())])
def test_a_read_only_output(call):
    with pytest.raises(ValueError, match="is read-only"):
        call()


@pytest.mark.parametrize("call", [
    lambda: forward(None, VIEW), lambda: forward(VIEW, None), lambda: backward(None, VIEW, VIEW),
    lambda: backward(VIEW, VIEW, None), lambda: reduce(None), lambda: reduce_gradient(VIEW, None),
    lambda: kernels.apply(X, 1, None, None, None, (0, 0.0), 1),
    lambda: kernels.apply_bits(VIEW, X, None, num_threads=1),
    lambda: Plan(X, 1, None, activation=(0, 0.0), num_threads=None, origin=())])
def test_none(call):
    with pytest.raises(TypeError, match=r"must not be None|got NoneType"):
        call()


def test_constants_of_other_channels():
    x = views.view(np.ones((2, 5), np.float32), 1)
    with pytest.raises(ValueError, match=r"^x has 5 channels; expected 3"):
        kernels.apply_bits(x, x.array, CONSTANTS, num_threads=1)


@pytest.mark.parametrize("example", [X[::2], X[:, :, ::2], np.asfortranarray(X), np.broadcast_to(X[:1], X.shape)])
def test_a_plan_of_an_array_with_gaps(example):
    with pytest.raises(ValueError, match=r"^example must be a C-contiguous"):
        Plan(example, 1, CONSTANTS, activation=(0, 0.0), num_threads=None, origin=())
    assert Plan(X, 1, CONSTANTS, activation=(0, 0.0), num_threads=None, origin=()).shape == X.shape
    assert ChannelAffine([0.0] * 3, [1.0] * 3, [0.0] * 3).bind(X.shape).shape == X.shape


@pytest.mark.parametrize("index", [
    [0, 100], [-1, 3], [3, 3], [4, 3], [[0, 1], [2, 3]], np.arange(3, dtype=np.int8), np.arange(10)[::2]], ids=str)
def test_rows_that_cannot_be_chosen(index):
    view = views.view(np.ones((100, 64), np.float32), 1)
    with pytest.raises(ValueError, match=r"^index must"):
        views.choose(view, np.asarray(index))
    assert views.choose(view, np.array([0, 99]))


def lookup(shape=X.shape, kind=np.uint8, axis=1, table=(3, 256), of=np.float32, out=X.shape, out_axis=1):
    return kernels.lookup(
        np.ones(shape, kind), axis, np.ones(table, of), np.empty(out, np.float32), out_axis, 1)


@pytest.mark.parametrize("wrong", [
    {"shape": (4, 3, 21)}, {"shape": (4, 3)}, {"shape": (4, 4, 20)}, {"kind": np.uint16}, {"axis": 3}, {"axis": -1},
    {"table": (2, 256)}, {"table": (3, 255)}, {"table": (768,)}, {"of": np.float16}, {"out": (4, 3, 19)},
    {"out": (4, 3, 20, 1)}, {"out_axis": 2}, {"out_axis": -1}], ids=str)
def test_a_lookup_of_arrays_that_do_not_fit(wrong):
    assert lookup()
    with pytest.raises(ValueError, match="do not fit each other"):
        lookup(**wrong)


def test_bits_that_forward_cannot_write():
    read_only_bits = np.zeros(kernels.bits_words(VIEW), np.uint16)
    read_only_bits.flags.writeable = False
    for residual, code, message in (
            (VIEW, 1, "^bits is read-only"), (None, 1, "^bits requires a residual"), (VIEW, 7, "^bits .* and a ReLU")):
        with pytest.raises(ValueError, match=message):
            kernels.forward(VIEW, views.output(VIEW), residual, None, None, 1e-5, activation=(code, 0.0),
                            bits=read_only_bits, fill=False, num_threads=1)


@pytest.mark.parametrize("code", [-1, 15, 99])
def test_an_activation_that_does_not_exist(code):
    with pytest.raises(ValueError, match=f"^activation has the code {code}; expected 0 to 14"):
        kernels.apply(X, 1, CONSTANTS, None, None, (code, 0.0), 1)


@pytest.mark.parametrize("channels", [-1, 2**57, 2**62])
def test_a_number_of_channels_without_an_address(channels):
    with pytest.raises(ValueError, match=f"^channels must be between 0 and [0-9]+, got {channels}"):
        kernels.Constants(channels, None, None, None, None, 1e-5)
