"""BatchRenorm beside the batch renormalization of Keras 3, over many steps."""

import os

import numpy as np
import pytest

from fastbn import BatchRenorm, adapt

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
C = 6


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("momenta", [(0.9, 0.9), (0.99, 0.8)], ids=["one pair", "two pairs"])
def test_steps_are_those_of_keras(momenta):
    momentum, renorm_momentum = momenta
    clipping = {"rmin": 1 / 1.2, "rmax": 1.2, "dmax": 0.3}
    try:
        layer = keras.layers.BatchNormalization(
            momentum=momentum, renorm=True, renorm_clipping=clipping, renorm_momentum=renorm_momentum)
    except TypeError:
        pytest.skip("this Keras has no renormalization")
    rng = np.random.default_rng(0)
    layer.build((None, C))
    bn = BatchRenorm(
        C, eps=layer.epsilon, momentum=1 - momentum, r_max=1.2, d_max=0.3,
        renorm_momentum=None if renorm_momentum == momentum else 1 - renorm_momentum)
    # Keras begins with a deviation of 1, here the variance is 1.
    bn.running_var -= np.float32(layer.epsilon)
    if bn.renorm_var is not None:
        bn.renorm_var -= np.float32(layer.epsilon)
    bn.gamma[:], bn.beta[:] = rng.normal(1, 0.2, (2, C))
    layer.gamma.assign(bn.gamma)
    layer.beta.assign(bn.beta)
    for step in range(30):
        x = rng.normal(0.1 * step, 1 + 0.05 * step, (8, C)).astype(np.float32)
        want = keras.ops.convert_to_numpy(layer(x, training=True))
        np.testing.assert_allclose(bn(x), want, rtol=0, atol=2e-5)
        for name, other in (("running_mean", "moving_mean"), ("running_var", "moving_variance"),
                            ("running_std", "moving_stddev"), ("renorm_mean", "renorm_mean")):
            if getattr(bn, name) is not None:
                np.testing.assert_allclose(
                    getattr(bn, name), keras.ops.convert_to_numpy(getattr(layer, other)), rtol=2e-5, atol=1e-6)
    want = keras.ops.convert_to_numpy(layer(x, training=False))
    np.testing.assert_allclose(bn.eval()(x), want, rtol=0, atol=2e-5)


def test_gradients_are_those_of_autograd():
    rng = np.random.default_rng(1)
    bn = BatchRenorm(C, dtype=np.float64, r_max=1.1, d_max=0.2)
    bn.gamma[:], bn.beta[:], bn.running_mean[:] = rng.normal(1, 0.5, (3, C))
    x, dy = rng.normal(1, 2, (2, 7, C, 3))
    mean, std = (torch.tensor(v)[:, None] for v in (bn.running_mean.copy(), bn.running_std))
    values, gamma, beta = (torch.tensor(v, requires_grad=True) for v in (x, bn.gamma[:, None], bn.beta[:, None]))
    var, average = torch.var_mean(values, (0, 2), correction=0, keepdim=True)
    own = torch.sqrt(var + bn.eps)
    r = torch.clamp(own / std, 1 / 1.1, 1.1).detach()
    d = torch.clamp((average - mean) / std, -0.2, 0.2).detach()
    y = ((values - average) / own * r + d) * gamma + beta
    y.backward(torch.tensor(dy))
    np.testing.assert_allclose(bn(x), y.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(bn.backward(dy), values.grad.numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(bn.grad_gamma, gamma.grad.numpy()[:, 0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(bn.grad_beta, beta.grad.numpy()[:, 0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["training", "evaluation", "adapted"])
def test_tensors(mode, kind):
    bn = BatchRenorm(C, r_max=1.1, d_max=0.2)
    x, dy = torch.randn(7, C, 4).to(kind), torch.randn(7, C, 4).to(kind)
    with adapt(bn.train(mode == "training"), n0=3 if mode == "adapted" else np.inf):
        y = bn(x)
        dx = bn.backward(dy)
        again = BatchRenorm(C, r_max=1.1, d_max=0.2).train(bn.training)
        out = torch.empty_like(x)
        with adapt(again, n0=3 if mode == "adapted" else np.inf):
            assert again(x, out=out) is out
            assert torch.equal(again.backward(dy), dx)
    assert torch.equal(out, y)
    assert y.dtype == dx.dtype == kind
    assert abs(y.float().std() - x.float().std()) < 0.2


def test_outputs_that_kernels_cannot_write():
    x = np.random.default_rng(0).normal(1, 2, (7, C, 4)).astype(np.float32)
    room = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)       # misaligned
    for out in (room, np.zeros_like(x).astype(">f4"), np.zeros((7, C, 8), np.float32)[:, :, ::2]):
        for training in (True, False):
            for n0 in (np.inf, 3):
                layers = [BatchRenorm(C, r_max=1.1).train(training) for _ in range(2)]
                with adapt(layers, n0=n0):
                    assert layers[0](x, out=out) is out
                    np.testing.assert_array_equal(out, layers[1](x))
