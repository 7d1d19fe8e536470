"""Parity with torch.nn.GroupNorm and InstanceNorm1d, 2d and 3d over many steps of training, in both memory formats."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")

from fastbn import GroupNorm, InstanceNorm  # noqa: E402
from fastbn.functional import group_norm_backward, group_norm_training  # noqa: E402

SHAPES = {"1d": (8, 6, 33), "2d": (6, 6, 9, 7), "3d": (4, 6, 3, 4, 5)}
INSTANCE = {"1d": torch.nn.InstanceNorm1d, "2d": torch.nn.InstanceNorm2d, "3d": torch.nn.InstanceNorm3d}
FORMATS = {"2d": torch.channels_last, "3d": torch.channels_last_3d}
STEPS = 20
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # The threads of PyTorch would wait for each other longer than they compute.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def formats(kind):
    return (torch.contiguous_format, *([FORMATS[kind]] if kind in FORMATS else []))


def batch(kind, dtype, step, memory_format):
    x = np.random.default_rng(step).normal(step % 3, 2, SHAPES[kind]).astype(dtype)
    return torch.from_numpy(x).contiguous(memory_format=memory_format)


def same(ours, theirs, dtype, wider=1):
    tolerance = {"float32": 2e-5, "float64": 1e-11}[dtype] * wider
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)


def alike(ours, theirs):
    """The same parameters in both, other than 1 and 0."""
    if theirs.affine:
        with torch.no_grad():
            theirs.weight.copy_(torch.linspace(0.5, 2, 6))
            if theirs.bias is not None:
                theirs.bias.copy_(torch.linspace(-1, 1, 6))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def train(ours, theirs, kind, dtype):
    """Many steps of gradient descent, compared one by one."""
    for memory_format in formats(kind):
        for step in range(STEPS):
            x = batch(kind, dtype, step, memory_format).requires_grad_()
            dy = batch(kind, dtype, step + 100, memory_format)
            theirs.zero_grad()
            y = theirs(x)
            y.backward(dy)
            same(ours(x.detach()), y, dtype)
            same(ours.backward(dy), x.grad, dtype)
            for name, gradient in (("gamma", "weight"), ("beta", "bias")):
                parameter = getattr(theirs, gradient)
                if parameter is not None:
                    same(getattr(ours, f"grad_{name}"), parameter.grad, dtype, 50)
                    with torch.no_grad():
                        parameter -= 1e-3 * parameter.grad
                    getattr(ours, name)[...] -= 1e-3 * getattr(ours, f"grad_{name}")


@pytest.mark.parametrize("options", [{}, {"eps": 1e-3}, {"affine": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("kind", SHAPES)
def test_group_norm(kind, groups, options, dtype):
    theirs = torch.nn.GroupNorm(groups, 6, dtype=DTYPES[dtype], **options)
    own = {"center" if name == "bias" else name: value for name, value in options.items()}
    ours, theirs = alike(GroupNorm(groups, 6, dtype=dtype, **own), theirs)
    train(ours, theirs, kind, dtype)
    x = batch(kind, dtype, 7, torch.contiguous_format)
    same(ours.eval()(x), theirs.eval()(x), dtype)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("options", [
    {}, {"affine": True}, {"track_running_stats": True}, {"affine": True, "bias": False, "momentum": 0.3},
    {"affine": True, "track_running_stats": True, "momentum": 0.01, "eps": 1e-3}], ids=str)
@pytest.mark.parametrize("kind", SHAPES)
def test_instance_norm(kind, options, dtype):
    theirs = INSTANCE[kind](6, dtype=DTYPES[dtype], **options)
    own = {"center" if name == "bias" else name: value for name, value in options.items()}
    ours, theirs = alike(InstanceNorm(6, dtype=dtype, **own), theirs)
    train(ours, theirs, kind, dtype)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    if theirs.track_running_stats:
        same(ours.running_mean, theirs.running_mean, dtype)
        same(ours.running_var, theirs.running_var, dtype)
    ours.eval(), theirs.eval()
    for memory_format in formats(kind):
        x = batch(kind, dtype, 7, memory_format).requires_grad_()
        dy = batch(kind, dtype, 107, memory_format)
        theirs.zero_grad()
        y = theirs(x)
        y.backward(dy)
        given = x.detach()      # evaluation mode keeps a weak reference
        same(ours(given), y, dtype)
        same(ours.backward(dy), x.grad, dtype)
        if theirs.affine:
            same(ours.grad_gamma, theirs.weight.grad, dtype, 50)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_autograd_with_a_residual_and_a_relu(kind, groups):
    for memory_format in formats(kind):
        x, residual = (batch(kind, "float64", step, memory_format).requires_grad_() for step in (0, 1))
        gamma, beta = (torch.linspace(low, 2, 6, dtype=torch.float64, requires_grad=True) for low in (-1, 1))
        dy = batch(kind, "float64", 2, memory_format)
        y = torch.relu(torch.nn.functional.group_norm(x, groups, gamma, beta) + residual)
        y.backward(dy)
        got, saved = group_norm_training(
            x.detach(), groups, gamma, beta, residual=residual.detach(), activation="relu")
        same(got, y, "float64")
        gradients = group_norm_backward(dy, x.detach(), saved, gamma)
        for ours, theirs in zip(gradients, (x, gamma, beta, residual), strict=True):
            same(ours, theirs.grad, "float64", 10)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_halves(kind):
    x = torch.randn(4, 6, 9, 7, generator=torch.Generator().manual_seed(0)).to(kind)
    for ours, theirs in ((GroupNorm(2, 6), torch.nn.GroupNorm(2, 6)), (InstanceNorm(6), torch.nn.InstanceNorm2d(6))):
        y = ours(x)
        assert (type(y), y.dtype) == (torch.Tensor, kind)
        unit = torch.finfo(kind).eps / 2
        torch.testing.assert_close(y.float(), theirs(x.float()), rtol=1.01 * unit, atol=1e-5)
        assert ours.backward(y).dtype == kind


@pytest.mark.parametrize(("groups", "shape", "accepted"), [
    (3, (1, 3), False), (3, (2, 3), True), (1, (1, 3), True), (3, (0, 3, 2), True)])
@pytest.mark.parametrize("training", [True, False])
def test_one_value_per_group(groups, shape, accepted, training):
    x = torch.ones(shape)
    for kind in (GroupNorm, torch.nn.GroupNorm):
        layer = kind(groups, 3).train(training)
        if accepted:
            np.testing.assert_allclose(np.asarray(layer(x).detach()), np.zeros(shape), atol=1e-4)
        else:
            with pytest.raises(ValueError, match=r"one value in each of 3 groups|more than 1 value"):
                layer(x)


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_one_value_per_instance(training, track):
    x = torch.ones(2, 3, 1)
    for layer in (InstanceNorm(3, track_running_stats=track), torch.nn.InstanceNorm1d(3, track_running_stats=track)):
        layer.train(training)
        if training or not track:
            with pytest.raises(ValueError, match=r"one value per channel of each sample|more than 1 spatial element"):
                layer(x)
        else:
            np.testing.assert_allclose(np.asarray(layer(x)), np.ones((2, 3, 1)), rtol=1e-5)
