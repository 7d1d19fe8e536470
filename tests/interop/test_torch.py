"""Parity with torch.nn.BatchNorm1d, 2d and 3d over many steps of training, in both memory formats."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")

from fastbn import BatchNorm  # noqa: E402
from fastbn.functional import batch_norm_backward, batch_norm_training  # noqa: E402

SHAPES = {"1d": (16, 5), "1d length": (8, 5, 33), "2d": (6, 5, 9, 7), "3d": (4, 5, 3, 4, 5)}
TORCH = {"1d": torch.nn.BatchNorm1d, "1d length": torch.nn.BatchNorm1d, "2d": torch.nn.BatchNorm2d,
         "3d": torch.nn.BatchNorm3d}
FORMATS = {"2d": torch.channels_last, "3d": torch.channels_last_3d}
STEPS = 20
DTYPES = {"float32": torch.float32, "float64": torch.float64}

OPTIONS = {
    "default": {},
    "cumulative": {"momentum": None},
    "momentum": {"momentum": 0.01, "eps": 1e-3},
    "not affine": {"affine": False},
    "not tracking": {"track_running_stats": False},
}


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


def tolerance(dtype):
    return {"float32": {"rtol": 2e-5, "atol": 2e-5}, "float64": {"rtol": 1e-11, "atol": 1e-11}}[dtype]


def pair(kind, dtype, **options):
    """A layer of each library with the same parameters."""
    theirs = TORCH[kind](5, dtype=DTYPES[dtype], **options)
    ours = BatchNorm(5, dtype=dtype, **options)
    if theirs.affine:
        with torch.no_grad():
            theirs.weight.copy_(torch.linspace(0.5, 2, 5))
            theirs.bias.copy_(torch.linspace(-1, 1, 5))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def batch(kind, dtype, step):
    return np.random.default_rng(step).normal(step % 3, 2, SHAPES[kind]).astype(dtype)


def formats(kind):
    return (torch.contiguous_format, *([FORMATS[kind]] if kind in FORMATS else []))


def same(ours, theirs, dtype):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), **tolerance(dtype))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", SHAPES)
def test_training(kind, options, dtype):
    for memory_format in formats(kind):
        ours, theirs = pair(kind, dtype, **OPTIONS[options])
        for step in range(STEPS):
            x = torch.from_numpy(batch(kind, dtype, step)).contiguous(memory_format=memory_format).requires_grad_()
            dy = torch.from_numpy(batch(kind, dtype, step + 100)).contiguous(memory_format=memory_format)
            theirs.zero_grad()
            y = theirs(x)
            y.backward(dy)
            same(ours(x.detach().numpy()), y, dtype)
            same(ours.backward(dy.numpy()), x.grad, dtype)
            if theirs.affine:
                np.testing.assert_allclose(ours.grad_gamma, theirs.weight.grad.numpy(), rtol=1e-4, atol=2e-3)
                np.testing.assert_allclose(ours.grad_beta, theirs.bias.grad.numpy(), rtol=1e-4, atol=2e-3)
                with torch.no_grad():
                    theirs.weight -= 1e-3 * theirs.weight.grad
                    theirs.bias -= 1e-3 * theirs.bias.grad
                ours.gamma -= 1e-3 * ours.grad_gamma
                ours.beta -= 1e-3 * ours.grad_beta
        if theirs.track_running_stats:
            same(ours.running_mean, theirs.running_mean, dtype)
            same(ours.running_var, theirs.running_var, dtype)
            assert ours.num_batches_tracked == int(theirs.num_batches_tracked) == STEPS
        ours.eval()
        theirs.eval()
        x = torch.from_numpy(batch(kind, dtype, 77)).contiguous(memory_format=memory_format).requires_grad_()
        y = theirs(x)
        y.backward(dy)
        a = x.detach().numpy()      # evaluation keeps no array alive
        same(ours(a), y, dtype)
        same(ours.backward(dy.numpy()), x.grad, dtype)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", SHAPES)
def test_gradients_through_relu_and_residual(kind, training, dtype, activation, with_residual):
    for memory_format in formats(kind):
        ours, theirs = pair(kind, dtype)
        ours.train(training)
        theirs.train(training)
        x, r, dy = (torch.from_numpy(batch(kind, dtype, s)).contiguous(memory_format=memory_format) for s in (1, 2, 4))
        x.requires_grad_()
        r.requires_grad_()
        z = theirs(x) + r if with_residual else theirs(x)
        y = torch.relu(z) if activation else z
        y.backward(dy)
        a, b = x.detach().numpy(), r.detach().numpy()       # evaluation keeps no array alive
        same(ours(a, residual=b if with_residual else None, activation=activation), y, dtype)
        got = ours.backward(dy.numpy())
        dx, *dresidual = got if with_residual else (got,)
        same(dx, x.grad, dtype)
        for d in dresidual:
            np.testing.assert_array_equal(d, r.grad.numpy())
        np.testing.assert_allclose(ours.grad_gamma, theirs.weight.grad.numpy(), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(ours.grad_beta, theirs.bias.grad.numpy(), rtol=1e-4, atol=1e-3)


F = torch.nn.functional
ACTIVATIONS = {
    "relu6": F.relu6, "leaky_relu": F.leaky_relu, "hardswish": F.hardswish, "hard_sigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid, "silu": F.silu, "tanh": torch.tanh, "gelu": F.gelu, "mish": F.mish, "elu": F.elu,
    "softplus": F.softplus, "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    ("leaky_relu", 0.2): lambda z: F.leaky_relu(z, 0.2), ("elu", 0.5): lambda z: F.elu(z, 0.5),
}


@pytest.mark.parametrize("name", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", SHAPES)
def test_gradients_through_activations(kind, training, dtype, name):
    # PyTorch's hardsigmoid has the derivative of float32 in float64 too.
    limits = tolerance("float32" if name == "hard_sigmoid" else dtype)
    for memory_format in formats(kind):
        ours, theirs = pair(kind, dtype)
        ours.train(training)
        theirs.train(training)
        x, dy = (torch.from_numpy(batch(kind, dtype, s)).contiguous(memory_format=memory_format) for s in (1, 4))
        x.requires_grad_()
        y = ACTIVATIONS[name](theirs(x))
        y.backward(dy)
        a = x.detach().numpy()      # evaluation keeps no array alive
        same(ours(a, activation=name), y, dtype)
        np.testing.assert_allclose(ours.backward(dy.numpy()), x.grad.numpy(), **limits)
        np.testing.assert_allclose(ours.grad_gamma, theirs.weight.grad.numpy(), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(ours.grad_beta, theirs.bias.grad.numpy(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("axis", [1, -1])
def test_functions(axis, dtype):
    x, dy = (torch.from_numpy(batch("2d", dtype, s)).requires_grad_(s == 1) for s in (1, 2))
    weight, bias = (torch.linspace(a, 2, 5, dtype=DTYPES[dtype], requires_grad=True) for a in (0.5, -1))
    y = torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True)
    y.backward(dy)

    def ours(a):
        return a if axis == 1 else np.moveaxis(a, 1, -1)

    a = ours(x.detach().numpy())
    got, saved = batch_norm_training(a, weight.detach().numpy(), bias.detach().numpy(), axis=axis)
    np.testing.assert_allclose(got, ours(y.detach().numpy()), **tolerance(dtype))
    dx, dgamma, dbeta = batch_norm_backward(ours(dy.numpy()), a, saved, weight.detach().numpy(), axis=axis)
    np.testing.assert_allclose(dx, ours(x.grad.numpy()), **tolerance(dtype))
    np.testing.assert_allclose(dgamma, weight.grad.numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(dbeta, bias.grad.numpy(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", OPTIONS)
def test_state_goes_both_ways(options, dtype):
    ours, theirs = pair("2d", dtype, **OPTIONS[options])
    for step in range(3):
        ours(batch("2d", dtype, step))
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    theirs.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()}, strict=True)
    x = batch("2d", dtype, 9)
    same(ours.eval()(x), theirs.eval()(torch.from_numpy(x)), dtype)
    back = BatchNorm(5, dtype=dtype, **OPTIONS[options])
    back.load_state_dict(theirs.state_dict())
    for name, value in back.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


def test_degenerate_batches():
    ours, theirs = pair("2d", "float32")
    for shape, raises in (((1, 5, 1, 1), True), ((0, 5, 4, 4), False)):
        x = np.ones(shape, np.float32)
        for layer, value in ((ours, x), (theirs, torch.from_numpy(x))):
            if raises:
                with pytest.raises(ValueError, match="per channel"):
                    layer(value)
            else:
                assert tuple(layer(value).shape) == shape
    # PyTorch counts the batch that it then refuses; here an error changes nothing.
    assert ours.num_batches_tracked == 1
    assert int(theirs.num_batches_tracked) == 2
    np.testing.assert_array_equal(ours.running_var, theirs.running_var.numpy())


@pytest.mark.parametrize("kind", SHAPES)
def test_eps_zero(kind, dtype):
    # PyTorch's layer takes it in evaluation mode alone. In training its operator has the bias in a channel of zero
    # variance, where fastbn has NaN; the others agree.
    ours, theirs = pair(kind, dtype, eps=0.0)
    x = torch.from_numpy(batch(kind, dtype, 1))
    same(ours.eval()(x.numpy()), theirs.eval()(x), dtype)
    x[:, 1] = 2.5
    with pytest.raises(ValueError, match="eps must be positive during training"):
        theirs.train()(x)
    y = torch.native_batch_norm(x, theirs.weight, theirs.bias, None, None, True, 0.1, 0.0)[0]
    got = ours.train()(x.numpy())
    assert np.isnan(got[:, 1]).all()
    assert (y[:, 1] == theirs.bias[1]).all()
    others = [0, 2, 3, 4]
    same(got[:, others], y[:, others], dtype)
    # Both evaluate by zero variances as they find them; fastbn names the channel.
    with torch.no_grad():
        theirs.running_var[1] = 0
        assert not torch.isfinite(theirs.eval()(x)[:, 1]).any()
    ours.running_var[1] = 0
    with pytest.raises(ValueError, match="running_var is 0 in channel 1 and eps is 0"):
        ours.eval()(x.numpy())


def test_threads_of_torch_are_left_alone():
    before = torch.get_num_threads()
    BatchNorm(64, num_threads=3)(np.ones((4000, 64), np.float32))
    assert torch.get_num_threads() == before
