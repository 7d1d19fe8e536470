"""The functions of second order: what they accept, refuse and return."""

import numpy as np
import pytest

from fastbn.functional import (
    Saved,
    batch_norm_backward_backward,
    batch_norm_jvp,
    batch_norm_training,
    group_norm_jvp,
    instance_norm_jvp,
    layer_norm_backward_backward,
    layer_norm_jvp,
    rms_norm_jvp,
)
from tests.compare import same_bits
from tests.second_order import MEMBERS, Reference, arguments, calls, is_rows, results, values_of

SHAPE = (4, 6, 5, 7)
members = pytest.mark.parametrize("name", MEMBERS)

X = np.random.default_rng(0).normal(0, 1, (4, 6)).astype(np.float32)
BAD = {
    "ddx shape": ({"ddx": X[:2]}, ValueError, r"ddx has shape \(2, 6\); expected the shape of x, \(4, 6\)"),
    "ddx dtype": ({"ddx": X.astype(float)}, TypeError, "ddx has dtype float64; expected that of x, float32"),
    "ddx integer": ({"ddx": X.astype(int)}, TypeError, "ddx has dtype int64; expected float32, float64"),
    "ddgamma shape": ({"ddgamma": np.ones(5)}, ValueError, r"ddgamma has shape \(5,\); expected \(6,\)"),
    "ddgamma integer": ({"ddgamma": np.ones(6, int)}, TypeError, "ddgamma has dtype int64; expected float32"),
    "ddbeta shape": ({"ddbeta": np.ones((6, 1))}, ValueError, r"ddbeta has shape \(6, 1\); expected \(6,\)"),
    "dy shape": ({"dy": X[:, :2]}, ValueError, r"dy has shape \(4, 2\); expected the shape of x, \(4, 6\)"),
    "dy None": ({"dy": None}, TypeError, "dy must be an array, got None"),
    "gamma scalar": ({"gamma": 1.0}, ValueError, r"gamma has shape \(\); expected \(6,\)"),
    "gamma masked": ({"gamma": np.ma.ones(6)}, TypeError, "gamma is a masked array"),
    "gamma float16": ({"gamma": np.ones(6, np.float16)}, TypeError, "gamma has dtype float16; expected float32"),
    "threads": ({"num_threads": 0}, ValueError, "num_threads must be between 1 and [0-9]+, got 0"),
}


@pytest.mark.parametrize(("name", "wrong"), [
    (name, wrong) for name in ("batch", "frozen", "layer", "rms", "group") for wrong in BAD
    if name != "rms" or not wrong.startswith("ddbeta")])
def test_bad_arguments(name, wrong):
    options, error, message = BAD[wrong]
    given = {"ddx": None, "ddgamma": None, "ddbeta": None, "dy": X} | options
    upstream = [given.pop(key) for key in ("ddx", "ddgamma", "ddbeta", "dy")]
    with pytest.raises(error, match=message):
        calls(Reference(name, X), X).backward_backward(*upstream, **given)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: batch_norm_jvp(X, X, None), TypeError, "saved must be a Saved, the second value of .*, got NoneType"),
    (lambda: batch_norm_jvp(X, X, batch_norm_training(X[:2])[1]), ValueError, "expected that of the forward pass"),
    (lambda: batch_norm_jvp(X, X, batch_norm_training(X)[1], axis=2), ValueError, "axis 2 is out of range"),
    (lambda: batch_norm_jvp(X, X, batch_norm_training(X, activation="relu")[1]), ValueError,
     "saved is of a forward pass with a residual or an activation; expected one with neither: compose"),
    (lambda: batch_norm_backward_backward(X, None, None, X, X, batch_norm_training(X, residual=X)[1]), ValueError,
     "saved is of a forward pass with a residual or an activation; expected one with neither: compose"),
    (lambda: batch_norm_jvp(X, X, batch_norm_training(X)[1], None, [1.0]), ValueError,
     r"gamma_tangent has shape \(1,\); expected \(6,\)"),
    (lambda: batch_norm_jvp(X[:3], X, batch_norm_training(X)[1]), ValueError, r"x_tangent has shape \(3, 6\)"),
    (lambda: layer_norm_jvp(X, X, 4), ValueError, r"x has shape \(4, 6\); expected \(4,\), the normalized"),
    (lambda: layer_norm_jvp(X, X, (2, 4, 6)), ValueError, r"x has shape \(4, 6\); expected \(2, 4, 6\)"),
    (lambda: layer_norm_jvp(X, X, ()), ValueError, r"normalized_shape must have one axis or more, got \(\)"),
    (lambda: layer_norm_jvp(X, X, 6.0), TypeError, "normalized_shape must be an integer, got 6.0"),
    (lambda: layer_norm_jvp(X, X, 6, eps=-1), ValueError, "eps must be 0, or finite and at least .*, got -1"),
    (lambda: layer_norm_jvp(X[0], X[0], 6), ValueError, r"x has shape \(6,\); expected two or more dimensions"),
    (lambda: rms_norm_jvp(X, X.astype(int), 6), TypeError, "x has dtype int64; expected float32, float64"),
    (lambda: group_norm_jvp(X, X, 4), ValueError, "num_groups is 4; expected a divisor of 6, the number of"),
    (lambda: group_norm_jvp(X, X, 0), ValueError, "num_groups must be at least 1, got 0"),
    (lambda: group_norm_jvp(X, X, 2, axis=0), ValueError, "axis 0 of x is that of the samples"),
    (lambda: instance_norm_jvp(X, X), ValueError, r"x has shape \(4, 6\), one value per channel of a sample"),
])
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_part_of_a_batch_is_refused():
    _, saved = batch_norm_training(X)
    saved._count = 8        # as of a micro-batch, whose sums run over all of them
    with pytest.raises(ValueError, match="saved is of 8 values per channel; expected all 4 of x"):
        batch_norm_jvp(X, X, saved)


@members
def test_out(name, dtype):
    a = arguments(name, SHAPE, dtype)
    of = Reference(name, a.x)
    y = calls(of, a.x).jvp(a.ddx, gamma=a.gamma)
    room = np.full((4, 6, 5, 14), 7, dtype)
    for out in (np.empty(SHAPE, dtype), room[..., ::2], np.empty(SHAPE, dtype, "F")):
        assert calls(of, a.x).jvp(a.ddx, gamma=a.gamma, out=out) is out
        same_bits(np.array(out), y)
    assert (room[..., 1::2] == 7).all()
    for field in ("x", "ddx"):      # in place
        b = values_of(a, np.copy)
        assert calls(of, b.x).jvp(b.ddx, gamma=a.gamma, out=getattr(b, field)) is getattr(b, field)
        same_bits(getattr(b, field), y)
    with pytest.raises(ValueError, match="out has shape"):
        calls(of, a.x).jvp(a.ddx, out=y[:2])
    with pytest.raises(TypeError, match="out has dtype float16"):
        calls(of, a.x).jvp(a.ddx, out=y.astype(np.float16))


@members
@pytest.mark.parametrize("field", ["x", "x_tangent"])
def test_out_that_overlaps_an_input(name, field):
    memory = np.random.default_rng(1).normal(0, 1, (5, 6, 3))
    before, view, other = memory.copy(), memory[:4], np.ones((4, 6, 3))
    x, tangent = (view, other) if field == "x" else (other, view)
    with pytest.raises(ValueError, match=f"out overlaps {field} without being the same array"):
        calls(Reference(name, x), x).jvp(tangent, out=memory[1:])
    np.testing.assert_array_equal(memory, before)


@members
@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 4, 0)], ids=str)
def test_empty(name, shape, dtype):
    a = arguments(name, shape, dtype)
    of = Reference(name, a.x)
    if is_rows(name) and not of.shape[-1]:
        with pytest.raises(ValueError, match="normalized_shape must be at least 1, got 0"):
            results(of, a)
        return
    grad_dy, grad_x, grad_gamma, y = results(of, a)
    for value in (grad_dy, grad_x, y):
        assert (value.shape, value.dtype) == (shape, dtype)
    np.testing.assert_array_equal(grad_gamma, np.zeros(of.shape))


def test_lists_and_several_axes():
    x = [[1.0, 2.0], [3.0, 5.0]]
    y = layer_norm_jvp([x], [x], [2, 2], [[1, 2], [3, 4]])
    same_bits(y, layer_norm_jvp(np.array([x]), np.array([x]), (2, 2), np.array([[1.0, 2.0], [3.0, 4.0]])))
    grads = layer_norm_backward_backward([x], None, None, [x], [x], (2, 2))
    assert [g.shape for g in grads] == [(1, 2, 2), (1, 2, 2), (2, 2)]


def test_a_saved_of_given_statistics_needs_no_variance_of_x():
    one = X[:1]
    saved = Saved.from_statistics(np.zeros(6), 3 * np.ones(6), eps=1.0)
    same_bits(batch_norm_jvp(one, one, saved), one / np.float32(2))


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@members
def test_tensors(name, kind):
    torch = pytest.importorskip("torch")
    a = arguments(name, SHAPE, np.float32)
    of = Reference(name, a.x)
    tensors = values_of(a, lambda v: torch.from_numpy(v).to(getattr(torch, kind)))
    grad_dy, grad_x, grad_gamma, y = results(of, tensors)
    arrays = results(of, values_of(tensors, lambda v: v.float().numpy()))
    for value, right in zip((grad_dy, grad_x, y), (*arrays[:2], arrays[3]), strict=True):
        assert value.dtype is getattr(torch, kind)
        limits = 1e-6 if kind == "float32" else 2.0**-8
        np.testing.assert_allclose(value.float().numpy(), right, rtol=limits, atol=limits)
    assert type(grad_gamma) is np.ndarray
