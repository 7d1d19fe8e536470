"""Conditional batch normalization against the same formula in PyTorch: gradients, running averages, tensors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")

from fastbn import ConditionalBatchNorm  # noqa: E402
from fastbn.functional import conditional_batch_norm_backward, conditional_batch_norm_training  # noqa: E402
from tests.conditional import arrays  # noqa: E402

ACTIVATIONS = {
    None: lambda z: z, "relu": torch.relu, "relu6": torch.nn.functional.relu6, "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "mish": torch.nn.functional.mish,
    "elu": torch.nn.functional.elu, ("leaky_relu", 0.2): lambda z: torch.nn.functional.leaky_relu(z, 0.2),
}


def conditional(x, gamma, beta, module, activation=None):
    """A batch normalization of PyTorch without parameters, then those of every sample."""
    shape = (*gamma.shape, *(1 for _ in x.shape[2:]))
    return ACTIVATIONS[activation](module(x) * gamma.reshape(shape) + beta.reshape(shape))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_gradients_are_those_of_autograd(activation, memory):
    x, gamma, beta, dy = arrays((6, 5, 8, 8), 1, np.float64)
    leaves = [torch.tensor(array, requires_grad=True) for array in (x, gamma, beta)]
    out = conditional(*leaves, torch.nn.BatchNorm2d(5, affine=False, dtype=torch.float64), activation)
    out.backward(torch.tensor(dy))
    given, scales, shifts = (leaf.detach() for leaf in leaves)
    given = given.contiguous(memory_format=memory)
    y, saved = conditional_batch_norm_training(given, scales, shifts, activation=activation)
    assert isinstance(y, torch.Tensor)
    assert y.is_contiguous(memory_format=memory)
    np.testing.assert_allclose(y.numpy(), out.detach().numpy(), rtol=1e-11, atol=1e-12)
    gradients = conditional_batch_norm_backward(torch.tensor(dy), given, saved, scales)
    for got, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(np.asarray(got), leaf.grad.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["gamma", "beta"])
@pytest.mark.parametrize("training", [True, False])
def test_a_tensor_that_requires_a_gradient_is_refused(training, name):
    bn, x = ConditionalBatchNorm(3).train(training), np.ones((4, 3), np.float32)
    vectors = {other: torch.ones(4, 3, requires_grad=other == name) for other in ("gamma", "beta")}
    with pytest.raises(TypeError, match=rf"^{name} requires a gradient, .*; expected {name}\.detach\(\)$"):
        bn(x, **vectors)
    assert bn.num_batches_tracked == 0


@pytest.mark.parametrize("momentum", [0.1, None])
def test_training_steps(momentum):
    """Scale and shift by class, learned by gradient descent, and running averages."""
    rng = np.random.default_rng(0)
    classes, channels, rate = 4, 3, 0.05
    bn = ConditionalBatchNorm(channels, momentum=momentum, dtype=np.float64)
    scales, shifts = np.ones((classes, channels)), np.zeros((classes, channels))
    module = torch.nn.BatchNorm2d(channels, affine=False, momentum=momentum, dtype=torch.float64)
    tables = [torch.tensor(table, requires_grad=True) for table in (scales, shifts)]
    for _ in range(20):
        x, labels = rng.normal(2, 3, (8, channels, 4, 4)), rng.integers(classes, size=8)
        goal = rng.normal(0, 1, x.shape)
        y = bn(x, scales[labels], shifts[labels], "relu")
        bn.backward(y - goal)
        np.subtract.at(scales, labels, rate * bn.grad_gamma)
        np.subtract.at(shifts, labels, rate * bn.grad_beta)
        out = conditional(torch.tensor(x), *(table[labels] for table in tables), module, "relu")
        loss = ((out - torch.tensor(goal)) ** 2).sum() / 2
        for table, gradient in zip(tables, torch.autograd.grad(loss, tables), strict=True):
            table.data -= rate * gradient
    np.testing.assert_allclose(scales, tables[0].detach().numpy(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(shifts, tables[1].detach().numpy(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(bn.running_mean, module.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(bn.running_var, module.running_var.numpy(), rtol=1e-12)
    module.eval()
    bn.eval()
    x = rng.normal(2, 3, (2, channels, 4, 4))
    np.testing.assert_allclose(
        bn(x, scales[:2], shifts[:2]), conditional(torch.tensor(x), tables[0][:2], tables[1][:2], module).detach(),
        rtol=1e-9, atol=1e-11)
