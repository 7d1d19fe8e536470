"""Masks of x's full shape beside flax.linen.BatchNorm, of positions beside Keras's BatchNormalization."""

import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")

from fastbn import BatchNorm

SHAPES = [(12, 3), (6, 7, 4), (4, 5, 6, 3)]


def data(shape, mask_shape):
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(2, 3, shape).astype(np.float32) for _ in range(2))
    mask = rng.random(mask_shape) < 0.6
    mask.reshape(len(mask), -1)[:2] = True     # two values or more in each channel
    return x, dy, mask


@pytest.mark.parametrize("by", ["values", "samples", "channels"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flax(shape, by):
    linen = pytest.importorskip("flax.linen", reason="the interop extra is not installed: no flax")
    import jax

    thin = [1] * (len(shape) - 1)
    x, dy, mask = data(shape, {"values": shape, "samples": (shape[0], *thin), "channels": shape}[by])
    if by == "channels":    # of one channel nothing
        mask[..., 1] = False
    module = linen.BatchNorm(use_running_average=False, momentum=0.9)
    variables = module.init(jax.random.key(0), x)
    every = np.broadcast_to(mask, shape)
    bn = BatchNorm(shape[-1], axis=-1, unbiased=False)
    y = bn(x, mask=mask)
    dx = bn.backward(dy)

    def loss(x):
        y, update = module.apply(variables, x, mask=mask, mutable=["batch_stats"])
        return (y * dy * every).sum(), (y, update)

    some = every.any(axis=tuple(range(len(shape) - 1)))     # Flax has NaN in the others
    gradient, (theirs, update) = jax.grad(loss, has_aux=True)(x)
    np.testing.assert_allclose(y[..., some], np.asarray(theirs * every)[..., some], atol=1e-5)
    np.testing.assert_allclose(dx[..., some], np.asarray(gradient * every)[..., some], atol=1e-5)
    for ours, name in ((bn.running_mean, "mean"), (bn.running_var, "var")):
        np.testing.assert_allclose(ours[some], np.asarray(update["batch_stats"][name])[some], rtol=1e-5, atol=1e-6)
    assert (bn.running_mean[~some] == 0).all()
    assert (bn.running_var[~some] == 1).all()
    assert np.isfinite(y).all()


# Of Keras' own way to bring a tensor of torch to NumPy.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_keras(shape):
    pytest.importorskip("torch", reason="the interop extra is not installed: no torch")
    keras = pytest.importorskip("keras", reason="the interop extra is not installed: no keras")
    to_numpy = keras.ops.convert_to_numpy
    x, _, mask = data(shape, shape[:-1])
    module = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    theirs = to_numpy(module(x, training=True, mask=mask))
    bn = BatchNorm(shape[-1], axis=-1, unbiased=False)
    full = np.broadcast_to(mask[..., None], shape)
    np.testing.assert_allclose(bn(x, mask=full), theirs * full, atol=1e-4)
    np.testing.assert_allclose(bn.running_mean, to_numpy(module.moving_mean), atol=1e-5)
    np.testing.assert_allclose(bn.running_var, to_numpy(module.moving_variance), rtol=1e-4)
