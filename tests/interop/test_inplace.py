"""Training in place against autograd: layers in a chain, each of which keeps y alone."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")

from fastbn import BatchNorm  # noqa: E402

ACTIVATIONS = {
    "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.01),
    "elu": torch.nn.functional.elu,
    None: lambda z: z,
}


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_steps_of_a_chain(activation):
    """Three layers that share one buffer, with scalings between them in place of convolutions."""
    rng = np.random.default_rng(0)
    layers = [BatchNorm(5, keep="output", dtype=np.float64) for _ in range(3)]
    modules = [torch.nn.BatchNorm2d(5, dtype=torch.float64) for _ in layers]
    for _ in range(5):
        x, dy = rng.normal(1, 2, (6, 5, 7, 7)), rng.normal(0, 1, (6, 5, 7, 7))
        leaf = torch.tensor(x, requires_grad=True)
        out = leaf
        kept = []
        for module in modules:
            out = ACTIVATIONS[activation](module(out)) * 1.5
        out.backward(torch.tensor(dy))
        y = x
        for bn in layers:
            kept.append(bn(y, activation=activation, out=y))
            y = kept[-1] * 1.5
        np.testing.assert_allclose(y, out.detach().numpy(), rtol=1e-10, atol=1e-11)
        gradient = dy
        for bn in reversed(layers):
            gradient = bn.backward(gradient * 1.5, out=kept.pop())      # over y, which nothing reads any more
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-9, atol=1e-10)
        for bn, module in zip(layers, modules, strict=True):
            np.testing.assert_allclose(bn.grad_gamma, module.weight.grad.numpy(), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(bn.grad_beta, module.bias.grad.numpy(), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(bn.running_var, module.running_var.numpy(), rtol=1e-11)
            bn.gamma -= 0.001 * bn.grad_gamma
            bn.beta -= 0.001 * bn.grad_beta
            with torch.no_grad():
                module.weight -= 0.001 * module.weight.grad
                module.bias -= 0.001 * module.bias.grad
            module.zero_grad()


def test_tensors():
    x, dy = torch.randn(6, 5, 7, 7), torch.randn(6, 5, 7, 7)
    bn, other = BatchNorm(5, keep="output"), BatchNorm(5)
    want = other(x.clone(), activation="elu")
    given = x.clone()
    y = bn(given, activation="elu", out=given)
    assert y is given
    assert torch.equal(y, want)
    dx = bn.backward(dy)
    assert isinstance(dx, torch.Tensor)
    assert torch.allclose(dx, other.backward(dy), atol=1e-5)
