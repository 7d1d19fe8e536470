"""The functions of second order against PyTorch: its numerical checks, and its own double backward and forward mode."""

import numpy as np
import pytest

from tests.second_order import EPS, GROUPS, MEMBERS, Reference, arguments, backward, calls, forward

torch = pytest.importorskip("torch")
F = torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")      # of PyTorch's forward mode

SHAPES = ((6, 4), (3, 4, 2, 3))

members = pytest.mark.parametrize("name", MEMBERS)


class Backward(torch.autograd.Function):
    """The backward pass of fastbn, with its gradients."""

    @staticmethod
    def forward(ctx, of, saved, dy, x, gamma):
        ctx.of, ctx.saved = of, saved
        ctx.save_for_backward(dy, x, gamma)
        grads = backward(of, dy.detach(), x.detach(), saved, gamma)
        return tuple(torch.as_tensor(grad) for grad in grads)

    @staticmethod
    def backward(ctx, *upstream):
        dy, x, gamma = (tensor.detach() for tensor in ctx.saved_tensors)
        ddbeta = [None] * (3 - len(upstream))
        grads = calls(ctx.of, x, ctx.saved).backward_backward(*upstream, *ddbeta, dy, gamma=gamma)
        return None, None, *(torch.as_tensor(grad) for grad in grads)


class Forward(torch.autograd.Function):
    """The forward pass of fastbn, with its backward pass and its forward mode; RMS norm takes gamma alone."""

    @staticmethod
    def forward(ctx, of, x, *parameters):
        y, ctx.saved = forward(of, *(a.detach() for a in (x, *parameters)))
        ctx.of = of
        ctx.save_for_backward(x, parameters[0])
        ctx.save_for_forward(x, parameters[0])
        return y

    @staticmethod
    def backward(ctx, dy):
        x, gamma = ctx.saved_tensors
        return None, *Backward.apply(ctx.of, ctx.saved, dy, x, gamma)

    @staticmethod
    def jvp(ctx, _, x_tangent, gamma_tangent, beta_tangent=None):
        x, gamma = (tensor.detach() for tensor in ctx.saved_tensors)
        return calls(ctx.of, x, ctx.saved).jvp(
            x_tangent, gamma=gamma, gamma_tangent=gamma_tangent, beta_tangent=beta_tangent)


def leaves(*arrays):
    return tuple(torch.from_numpy(np.array(a)).requires_grad_() for a in arrays)


@pytest.mark.parametrize(("name", "shape"), [
    (name, shape) for name in MEMBERS for shape in SHAPES if name != "instance" or len(shape) > 2], ids=str)
def test_numerical_checks(name, shape):
    a = arguments(name, shape)
    of = Reference(name, a.x)
    operands = leaves(a.x, a.gamma) if name == "rms" else leaves(a.x, a.gamma, a.ddbeta)
    assert torch.autograd.gradcheck(lambda *args: Forward.apply(of, *args), operands, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda *args: Forward.apply(of, *args), operands, leaves(a.dy))


def torch_forward(of, x, gamma, beta):
    """The member as PyTorch has it."""
    eps = EPS[of.name]
    if of.name == "layer":
        return F.layer_norm(x, of.shape, gamma, beta, eps)
    if of.name == "rms":
        return F.rms_norm(x, of.shape, gamma, eps)
    if of.name == "group":
        return F.group_norm(x, GROUPS, gamma, beta, eps)
    if of.name == "instance":
        return F.instance_norm(x, weight=gamma, bias=beta, eps=eps)
    frozen = of.name == "frozen"
    mean, var = (torch.from_numpy(v).to(x.dtype) for v in (of.mean, of.var))
    return F.batch_norm(x, mean if frozen else None, var if frozen else None, gamma, beta, not frozen, eps=eps)


@members
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_torch(name, dtype):
    kind = np.dtype(dtype)
    a = arguments(name, (5, 6, 7, 3), kind)
    of = Reference(name, a.x)
    got = calls(of, a.x)
    x, dy, gamma, beta = leaves(a.x, a.dy, a.gamma.astype(kind), a.ddbeta.astype(kind))
    upstream = [torch.from_numpy(np.array(v.astype(kind))) for v in (a.ddx, a.ddgamma, a.ddbeta)]
    parameters = (x, gamma) if name == "rms" else (x, gamma, beta)
    grads = torch.autograd.grad(torch_forward(of, *leaves_of(parameters, beta)), parameters, dy, create_graph=True)
    wanted = torch.autograd.grad(grads, (dy, x, gamma), upstream[:len(grads)])
    tolerance = {"rtol": 1e-3, "atol": 2e-4} if dtype == "float32" else {"rtol": 1e-9, "atol": 1e-11}
    grads = got.backward_backward(a.ddx, a.ddgamma, a.ddbeta, a.dy, gamma=a.gamma)
    for ours, theirs in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), **tolerance)
    _, theirs = torch.func.jvp(
        lambda *args: torch_forward(of, *leaves_of(args, beta)), parameters, tuple(upstream[:len(parameters)]))
    ours = got.jvp(a.ddx, gamma=a.gamma, gamma_tangent=a.ddgamma, beta_tangent=a.ddbeta)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), **tolerance)


def leaves_of(parameters, beta):
    """x, gamma and beta; RMS norm has no beta."""
    return (*parameters, beta) if len(parameters) == 2 else parameters
