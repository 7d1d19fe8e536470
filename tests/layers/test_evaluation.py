"""Evaluation keeps no array alive, and its backward pass goes by those that the caller still has."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

from fastbn import BatchNorm
from tests.cases import axis_of
from tests.compare import same_bits
from tests.layers.trained import batches, trained

MASK = np.arange(3) < 2
WAYS = {
    "running averages": ({}, {}),
    "batch statistics": ({"track_running_stats": False}, {}),
    "mask": ({}, {"mask": MASK}),
    "mask, batch statistics": ({"track_running_stats": False}, {"mask": MASK}),
    "debias": ({"debias": True}, {}),
}
ways = pytest.mark.parametrize("way", WAYS)


@ways
def test_x_and_residual_do_not_outlive_the_call(way, layout, activation, with_residual):
    options, arguments = WAYS[way]
    bn = trained(layout, **options).eval()
    x, residual = batches(layout)[2:]
    bn(x, residual if with_residual else None, activation, **arguments)
    watched = weakref.ref(x), weakref.ref(residual)
    del x, residual
    gc.collect()
    assert [watch() for watch in watched] == [None, None]
    with pytest.raises(RuntimeError, match=r"^x of the last forward pass no longer exists, .* keep it alive until"):
        bn.backward(batches(layout)[0])
    assert bn.grad_gamma is None


@ways
def test_backward_while_the_caller_has_x(way, layout, activation, with_residual):
    # The gradients of constants, by the formula; with batch statistics, those of training mode.
    options, arguments = WAYS[way]
    bn = trained(layout, **options).eval()
    x, residual, dy = batches(layout)[1:]
    residual = residual if with_residual else None
    y = bn(x, residual, activation, **arguments)
    got = bn.backward(dy)
    dx, *dresidual = got if with_residual else (got,)
    gradient = dy * (y > 0) if activation else dy
    if arguments:
        chosen = np.moveaxis(np.broadcast_to(MASK, (16, 3, 3))[..., None], -1, axis_of(layout))
        gradient = np.where(chosen, gradient, 0)
    for d in dresidual:
        np.testing.assert_array_equal(d, gradient)
    if bn.track_running_stats:
        mean, var = (v.reshape(-1, 1, 1) if layout == "planes" else v for v in bn._running.evaluation())
        gamma = bn.gamma.reshape(mean.shape)
        np.testing.assert_allclose(dx, gamma * gradient / np.sqrt(var + 1e-5), rtol=1e-5, atol=1e-7)
        x_hat = (x - mean) / np.sqrt(var + 1e-5)
        axes = tuple(k for k in range(4) if k != axis_of(layout) % 4)
        np.testing.assert_allclose(bn.grad_gamma, (gradient * x_hat).sum(axes), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(bn.grad_beta, gradient.sum(axes), rtol=1e-4, atol=1e-4)
    else:
        bn.train()(x, residual, activation, **arguments)
        right = bn.backward(dy)
        same_bits(dx, right[0] if with_residual else right)
    again = bn.backward(dy)
    same_bits(again[0] if with_residual else again, dx)


def test_a_residual_matters_to_a_relu_alone():
    bn = trained().eval()
    x, dy = batches()[1:3]
    bn(x, batches()[3])
    same_bits(bn.backward(dy)[1], dy)
    bn(x, batches()[3], "relu")
    with pytest.raises(RuntimeError, match=r"^residual of the last forward pass no longer exists"):
        bn.backward(dy)
    bn([[1.0] * 5], np.ones((1, 5)), "relu")
    with pytest.raises(RuntimeError, match=r"^residual of the last forward pass no longer exists"):
        bn.backward(np.ones((1, 5)))


def test_a_list_is_kept_as_it_has_no_weak_reference():
    bn = BatchNorm(2, dtype=np.float64, eps=1.0).eval()
    bn([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_allclose(bn.backward(np.ones((2, 2))), 1 / np.sqrt(2))
    np.testing.assert_allclose(bn.grad_gamma, np.array([4, 6]) / np.sqrt(2))


def test_training_keeps_x():
    bn = trained()
    bn(batches()[2])
    gc.collect()
    assert np.isfinite(bn.backward(batches()[0])).all()


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
def test_in_place_leaves_nothing(mask):
    bn = trained().eval()
    x = batches()[2]
    bn(x, out=x, mask=mask)
    with pytest.raises(RuntimeError, match="a result was written over the x or the residual"):
        bn.backward(batches()[0])
    r = batches()[1]
    x = batches()[2]
    bn(x, r, "relu", out=r, mask=mask)
    with pytest.raises(RuntimeError, match="a result was written over the x or the residual"):
        bn.backward(batches()[0])


@pytest.mark.parametrize("activation", [None, "relu"])
def test_masked_evaluation_prepares_no_backward(activation):
    # y, and the rows that count, twice with a residual; no mask of bits and no y of a backward pass.
    x = np.random.default_rng(0).standard_normal((64, 100, 96)).astype(np.float32)
    mask = np.arange(100) < 50
    bn = BatchNorm(96, axis=-1).eval()
    bn(x, x, activation, mask=mask)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    y = bn(x, x, activation, mask=mask)
    held, peak = (size - before for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    assert y.nbytes == x.nbytes
    assert peak < 2.2 * x.nbytes
    assert held < 1.1 * x.nbytes
