"""Options of a layer beside PyTorch: frozen statistics, virtual batches and several channel axes."""

import numpy as np
import pytest

from fastbn import BatchNorm

torch = pytest.importorskip("torch")


def pair(channels, **options):
    """A layer, and the PyTorch module of the same parameters and running averages, in double precision."""
    rng = np.random.default_rng(channels)
    module = torch.nn.BatchNorm1d(channels, dtype=torch.float64)
    bn = BatchNorm(channels, dtype=np.float64, **options)
    state = {"weight": rng.normal(size=channels), "bias": rng.normal(size=channels),
             "running_mean": rng.normal(size=channels), "running_var": rng.uniform(0.5, 2, channels)}
    bn.load_state_dict(state)
    module.load_state_dict({name: torch.from_numpy(v) for name, v in state.items()}, strict=False)
    return bn, module


def arrays(shape):
    return np.random.default_rng(1).normal(1, 2, (2, *shape))


def close(got, tensor):
    np.testing.assert_allclose(got, tensor.detach().numpy(), rtol=1e-11, atol=1e-12)


def gradients(y, x, dy):
    y.backward(torch.from_numpy(dy))
    return x.grad


def test_frozen_statistics_over_steps():
    bn, module = pair(3)
    module.eval()
    bn.freeze(learn_affine=True)
    for _ in range(5):
        x, dy = arrays((6, 3, 7))
        tensor = torch.from_numpy(x).requires_grad_()
        y = module(tensor)
        close(bn(x), y)
        close(bn.backward(dy), gradients(y, tensor, dy))
        close(bn.grad_gamma, module.weight.grad)
        close(bn.grad_beta, module.bias.grad)
        bn.gamma -= 0.1 * bn.grad_gamma
        bn.beta -= 0.1 * bn.grad_beta
        torch.optim.SGD(module.parameters(), lr=0.1).step()
        module.zero_grad()
    close(bn.gamma, module.weight)
    close(bn.running_var, module.running_var)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_virtual_batches_are_chunks(size):
    bn, module = pair(3, virtual_batch_size=size)
    x, dy = arrays((10, 3, 7))
    tensor = torch.from_numpy(x).requires_grad_()
    module.momentum = 0.0
    y = torch.cat([module(part) for part in tensor.split(size)])
    close(bn(x), y)
    close(bn.backward(dy), gradients(y, tensor, dy))
    close(bn.grad_gamma, module.weight.grad)
    close(bn.grad_beta, module.bias.grad)


@pytest.mark.parametrize("axis", [(1, 2), (2, 1), (1, 3)])
def test_several_axes_are_a_reshaped_array(axis):
    x, dy = arrays((6, 2, 3, 4))
    sizes = tuple(x.shape[k] for k in axis)
    bn, module = pair(int(np.prod(sizes)), axis=axis)
    rest = [k for k in range(4) if k not in axis]

    def flat(a):
        return a.transpose(rest[0], *axis, rest[1]).reshape(6, -1, a.shape[rest[1]])

    tensor = torch.from_numpy(np.ascontiguousarray(flat(x))).requires_grad_()
    y = module(tensor)
    close(flat(bn(x)), y)
    close(flat(bn.backward(dy)), gradients(y, tensor, flat(dy).copy()))
    close(bn.grad_gamma, module.weight.grad)
    close(bn.running_mean, module.running_mean)
    close(bn.running_var, module.running_var)
