"""The functions of second order: what they accept, refuse and return."""

import numpy as np
import pytest

from fastbn.functional import (
    Saved,
    batch_norm_backward_backward,
    batch_norm_jvp,
    batch_norm_training,
    group_norm_backward_backward,
    group_norm_jvp,
    group_norm_training,
    layer_norm_backward_backward,
    layer_norm_jvp,
    layer_norm_training,
    rms_norm_jvp,
    rms_norm_training,
)
from tests.compare import same_bits
from tests.second_order import MEMBERS, Reference, arguments, calls, results, values_of

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


BATCH, LAYER, RMS, GROUP = (
    batch_norm_training(X)[1], layer_norm_training(X, 6)[1], rms_norm_training(X, 6)[1], group_norm_training(X, 2)[1])
COMPOSED = "saved is of a forward pass with a residual or an activation; expected one with neither: compose"


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: batch_norm_jvp(X, X, None), TypeError, "saved must be a Saved, the second value of batch_norm_training"),
    (lambda: batch_norm_jvp(X, X, GROUP), TypeError, "saved must be a Saved, .* got GroupSaved"),
    (lambda: layer_norm_jvp(X, X, BATCH), TypeError, "saved must be a RowSaved, .* of layer_norm_training, got Saved"),
    (lambda: rms_norm_jvp(X, X, BATCH), TypeError, "saved must be a RowSaved, .* of rms_norm_training, got Saved"),
    (lambda: group_norm_jvp(X, X, LAYER), TypeError, "saved must be a GroupSaved, .* of group_norm_training or"),
    (lambda: rms_norm_jvp(X, X, LAYER), ValueError, "saved is of a layer norm; expected that of an RMS norm"),
    (lambda: layer_norm_jvp(X, X, RMS), ValueError, "saved is of an RMS norm; expected that of a layer norm"),
    (lambda: batch_norm_jvp(X[:2], X[:2], BATCH), ValueError, "expected that of the forward pass"),
    (lambda: layer_norm_jvp(X[:2], X[:2], LAYER), ValueError, "expected that of the forward pass"),
    (lambda: group_norm_jvp(X[:2], X[:2], GROUP), ValueError, "expected that of the forward pass"),
    (lambda: batch_norm_jvp(X, X, BATCH, axis=2), ValueError, "axis 2 is out of range"),
    (lambda: group_norm_jvp(X, X, GROUP, axis=0), ValueError, "axis 0 of x is the axis of the samples"),
    (lambda: batch_norm_jvp(X, X.astype(int), BATCH), TypeError, "x has dtype int64; expected float32, float64"),
    (lambda: batch_norm_jvp(X, X, BATCH, None, [1.0]), ValueError, r"gamma_tangent has shape \(1,\); expected \(6,\)"),
    (lambda: batch_norm_jvp(X[:3], X, BATCH), ValueError, r"x_tangent has shape \(3, 6\)"),
])
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"activation": "silu"}, {"residual": X}], ids=str)
def test_a_forward_pass_with_more_is_refused(options):
    for training, sizes, jvp, backward in (
            (batch_norm_training, (), batch_norm_jvp, batch_norm_backward_backward),
            (layer_norm_training, (6,), layer_norm_jvp, layer_norm_backward_backward),
            (group_norm_training, (2,), group_norm_jvp, group_norm_backward_backward)):
        _, saved = training(X, *sizes, **options)
        with pytest.raises(ValueError, match=COMPOSED):
            jvp(X, X, saved)
        with pytest.raises(ValueError, match=COMPOSED):
            backward(X, None, None, X, X, saved)


def test_part_of_a_batch_is_refused():
    _, saved = batch_norm_training(X)
    saved._count = 8        # as of a micro-batch, whose sums run over all of them
    with pytest.raises(ValueError, match="saved is of 8 values per channel; expected all 4 of x"):
        batch_norm_jvp(X, X, saved)


def test_parameters_of_groups():
    # gamma of each group and beta of each channel, and the reverse.
    x, dy, ddx = np.random.default_rng(3).normal(0, 1, (3, 4, 6, 2))
    by_group, by_channel = np.array([2.0, -1.0]), np.linspace(1, 2, 6)
    for gamma, beta in ((by_group, by_channel), (by_channel, by_group)):
        _, saved = group_norm_training(x, 2, gamma, beta)
        wide_gamma, wide_beta = (v if len(v) == 6 else v.repeat(3) for v in (gamma, beta))
        _, other = group_norm_training(x, 2, wide_gamma, wide_beta)
        *got, grad_gamma = group_norm_backward_backward(ddx, 2 * gamma, beta, dy, x, saved, gamma=gamma)
        *right, wide = group_norm_backward_backward(ddx, 2 * wide_gamma, wide_beta, dy, x, other, gamma=wide_gamma)
        for value, wanted in zip(got, right, strict=True):
            same_bits(value, wanted)
        np.testing.assert_allclose(grad_gamma, wide.reshape(len(gamma), -1).sum(axis=1), rtol=1e-14)
        same_bits(group_norm_jvp(ddx, x, saved, gamma, gamma, beta),
                  group_norm_jvp(ddx, x, other, wide_gamma, wide_gamma, wide_beta))
        with pytest.raises(ValueError, match="gamma_tangent has shape"):
            group_norm_jvp(ddx, x, saved, gamma, beta)


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
    grad_dy, grad_x, grad_gamma, y = results(of, a)
    for value in (grad_dy, grad_x, y):
        assert (value.shape, value.dtype) == (shape, dtype)
    np.testing.assert_array_equal(grad_gamma, np.zeros(of.shape))


def test_lists_and_several_axes():
    x, gamma = [[1.0, 2.0], [3.0, 5.0]], [[1, 2], [3, 4]]
    _, saved = layer_norm_training([x], (2, 2))
    y = layer_norm_jvp([x], [x], saved, gamma)
    same_bits(y, layer_norm_jvp(np.array([x]), np.array([x]), saved, np.array(gamma, float)))
    grads = layer_norm_backward_backward([x], None, None, [x], [x], saved)
    assert [g.shape for g in grads] == [(1, 2, 2), (1, 2, 2), (2, 2)]
    one = np.array(x)[0]        # a single axis
    _, saved = layer_norm_training(one, 2)
    grads = layer_norm_backward_backward(one, None, None, one, one, saved)
    assert [g.shape for g in grads] == [(2,), (2,), (2,)]


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


def test_virtual_batches_are_refused():
    x = np.arange(24.0).reshape(4, 3, 2)
    _, saved = batch_norm_training(x, virtual_batch_size=2)
    with pytest.raises(ValueError, match="saved is of a forward pass with a virtual batch size; expected one without"):
        batch_norm_jvp(x, x, saved)
    with pytest.raises(ValueError, match="saved is of a forward pass with a virtual batch size; expected one without"):
        batch_norm_backward_backward(x, None, None, x, x, saved)
    _, whole = batch_norm_training(x, virtual_batch_size=4)
    assert batch_norm_jvp(x, x, whole).shape == x.shape
