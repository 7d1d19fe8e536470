"""Whitening against autograd of PyTorch: the formulas of the papers, and several steps of training."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")

from fastbn import Whitening  # noqa: E402
from fastbn.functional import whitening_backward, whitening_training  # noqa: E402
from tests.whitening import correlated  # noqa: E402

EPS = 1e-3


def reference(x, groups, method, iterations=5):
    """z, means and matrices by differentiable operations."""
    channels = x.shape[1]
    a = x.transpose(0, 1).reshape(groups, channels // groups, -1)
    mean = a.mean(2, keepdim=True)
    identity = torch.eye(channels // groups, dtype=x.dtype)
    cov = (a - mean) @ (a - mean).transpose(1, 2) / a.shape[2] + EPS * identity
    if method == "zca":
        values, vectors = torch.linalg.eigh(cov)
        matrix = (vectors * values.rsqrt()[:, None, :]) @ vectors.transpose(1, 2)
    else:
        trace = cov.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        p = identity.expand_as(cov)
        for _ in range(iterations):
            p = (3 * p - p @ p @ p @ (cov / trace)) / 2
        matrix = p / trace.sqrt()
    z = (matrix @ (a - mean)).reshape(channels, x.shape[0], *x.shape[2:]).transpose(0, 1)
    return z, mean.reshape(-1), matrix


@pytest.mark.parametrize("method", ["zca", "iternorm"])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", [(40, 6), (5, 6, 3, 4)], ids=str)
def test_autograd(shape, groups, method):
    rng = np.random.default_rng(1)
    x, dy = correlated(shape), rng.normal(size=shape)
    gamma, beta = rng.normal(1, 0.5, (2, 6))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    spread = (1, 6, *(1 for _ in shape[2:]))
    want = reference(leaves[0], groups, method)[0] * leaves[1].reshape(spread) + leaves[2].reshape(spread)
    want.backward(torch.tensor(dy))
    y, saved = whitening_training(x, gamma, beta, groups=groups, method=method, eps=EPS)
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=0, atol=1e-11)
    for got, leaf in zip(whitening_backward(dy, x, saved, gamma), leaves, strict=True):
        np.testing.assert_allclose(got, leaf.grad.numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["zca", "iternorm"])
def test_steps_of_training(method):
    # The averages move as in the papers: those of the matrix itself, not of the covariance.
    layer = Whitening(6, 2, method, eps=EPS, dtype=np.float64)
    mean, matrix = torch.zeros(6, dtype=torch.float64), torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    for step in range(20):
        x = torch.from_numpy(correlated((8, 6, 3, 3), seed=step))
        z, batch_mean, batch_matrix = reference(x, 2, method)
        mean, matrix = 0.9 * mean + 0.1 * batch_mean, 0.9 * matrix + 0.1 * batch_matrix
        y = layer(x)
        assert isinstance(y, torch.Tensor)
        np.testing.assert_allclose(y, z, rtol=0, atol=1e-11)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_wm, matrix, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_tensors(dtype):
    x = torch.from_numpy(correlated((16, 6, 4, 4))).to(dtype)
    y = Whitening(6)(x)
    assert y.dtype == dtype
    want = Whitening(6)(x.double())
    unit = torch.finfo(dtype).eps / 2
    assert bool((abs(y.double() - want) <= unit * abs(want) * (1 + 1e-6) + 1e-7).all())
    last = x.contiguous(memory_format=torch.channels_last)
    got = Whitening(6)(last)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert bool((abs(got.double() - want) <= unit * abs(want) * (1 + 1e-6) + 1e-7).all())
