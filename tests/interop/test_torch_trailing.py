"""Parity with torch.nn.LayerNorm and RMSNorm over many steps of training, and with autograd."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")

from fastbn import LayerNorm, RMSNorm  # noqa: E402
from fastbn.functional import rms_norm_inference  # noqa: E402
from tests.trailing import MEMBERS, inputs  # noqa: E402

STEPS = 20
CASES = (((16, 5), (5,)), ((8, 3, 33), (33,)), ((6, 5, 9, 7), (9, 7)), ((6, 5, 9, 7), (5, 9, 7)),
         ((4, 6, 1024), (1024,)))
KINDS = {
    "layer norm": (LayerNorm, torch.nn.LayerNorm, {}),
    "layer norm without bias": (LayerNorm, torch.nn.LayerNorm, {"bias": False}),
    "layer norm without parameters": (LayerNorm, torch.nn.LayerNorm, {"elementwise_affine": False, "eps": 1e-3}),
    "RMS norm": (RMSNorm, torch.nn.RMSNorm, {}),
    "RMS norm without parameters": (RMSNorm, torch.nn.RMSNorm, {"elementwise_affine": False, "eps": 1e-3}),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
TOLERANCES = {"float32": {"rtol": 2e-5, "atol": 2e-5}, "float64": {"rtol": 1e-11, "atol": 1e-11}}

cases = pytest.mark.parametrize(("shape", "normalized"), CASES, ids=str)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@cases
def test_training(shape, normalized, kind, dtype):
    ours, theirs, options = KINDS[kind]
    ours, theirs = ours(normalized, dtype=dtype, **options), theirs(normalized, dtype=DTYPES[dtype], **options)
    same = TOLERANCES[dtype]
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.linspace(0.5, 2, parameter.numel()).reshape(parameter.shape))
    ours.load_state_dict(theirs.state_dict())
    for step in range(STEPS):
        i = inputs(shape, normalized, dtype, mean=step % 3, seed=step)
        x = torch.from_numpy(i.x).requires_grad_()
        theirs.zero_grad()
        y = theirs(x)
        y.backward(torch.from_numpy(i.dy))
        np.testing.assert_allclose(ours(i.x), y.detach().numpy(), **same)
        np.testing.assert_allclose(ours.backward(i.dy), x.grad.numpy(), **same)
        gradients = {"weight": ours.grad_gamma, "bias": ours.grad_beta}
        for name, parameter in theirs.named_parameters():
            np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), rtol=1e-4, atol=2e-4)
            with torch.no_grad():
                parameter -= 1e-2 * parameter.grad
        for parameter, gradient in ((ours.gamma, ours.grad_gamma), (ours.beta, ours.grad_beta)):
            assert (parameter is None) == (gradient is None)
            if parameter is not None:
                parameter -= ours.dtype.type(1e-2) * gradient
    state = ours.state_dict()
    assert sorted(state) == sorted(theirs.state_dict())
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(state[name], parameter.detach().numpy(), rtol=1e-4, atol=2e-4)
    ours.eval()
    np.testing.assert_allclose(ours(i.x), theirs.eval()(torch.from_numpy(i.x)).detach().numpy(), **same)


ACTIVATIONS = {None: lambda z: z, "relu": torch.relu, "silu": torch.nn.functional.silu,
               "gelu": torch.nn.functional.gelu, "tanh": torch.tanh}


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", MEMBERS)
@cases
def test_gradients_are_those_of_autograd(shape, normalized, name, activation, with_residual):
    if with_residual and activation not in (None, "relu"):
        return      # has no backward pass
    member = MEMBERS[name]
    i = inputs(shape, normalized, np.float64)
    x, residual, gamma, beta = (torch.from_numpy(a).requires_grad_() for a in (i.x, i.residual, i.gamma, i.beta))
    z = (torch.nn.functional.rms_norm(x, normalized, gamma, eps=1e-5) if member.about_zero
         else torch.nn.functional.layer_norm(x, normalized, gamma, beta))
    y = ACTIVATIONS[activation](z + residual if with_residual else z)
    y.backward(torch.from_numpy(i.dy))
    got, saved = member.train(i.x, normalized, i.gamma, i.beta, activation=activation,
                              residual=i.residual if with_residual else None)
    np.testing.assert_allclose(got, y.detach().numpy(), rtol=1e-12, atol=1e-12)
    dx, dgamma, dbeta, *dresidual = member.gradients(i.dy, i.x, saved, i.gamma)
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(dgamma, gamma.grad.numpy(), rtol=1e-10, atol=1e-10)
    if not member.about_zero:
        np.testing.assert_allclose(dbeta, beta.grad.numpy(), rtol=1e-10, atol=1e-10)
    for array in dresidual:
        np.testing.assert_allclose(array, residual.grad.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_rms_eps_of_the_dtype(dtype):
    # Where the square of x is about eps; PyTorch takes that of float32 for float16 and bfloat16.
    x = torch.full((2, 4), 1e-8 if dtype == "float64" else 3e-4, dtype=getattr(torch, dtype))
    want = torch.nn.functional.rms_norm(x, (4,)).double()
    got = rms_norm_inference(x, 4).double()
    assert 0.5 < want[0, 0] < 0.9
    np.testing.assert_allclose(got, want, rtol={"float64": 1e-14, "float32": 1e-6, "float16": 1e-3}.get(dtype, 8e-3))
