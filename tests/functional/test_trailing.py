"""Layer norm and RMS norm without state, against the definition in extended precision."""

import numpy as np
import pytest

from fastbn.functional import RowSaved, rms_norm_inference, rms_norm_training
from tests.compare import same_bits
from tests.oracle import WIDE
from tests.trailing import DTYPES, MEMBERS, SHAPES, close, exact, exact_gradients, inputs, unit

MOST = 4            # rounding units of the largest value that y may be off
PARAMETERS = {"both": (True, True), "gamma": (True, False), "beta": (False, True), "none": (False, False)}

shapes = pytest.mark.parametrize(("shape", "normalized"), SHAPES, ids=str)


@pytest.fixture(params=DTYPES, ids=lambda d: np.dtype(d).name)
def dtype(request):
    return request.param


@pytest.fixture(params=MEMBERS)
def member(request):
    return MEMBERS[request.param]


def size_of(of, gamma):
    """The largest value before beta is added, which bounds the error of y."""
    return np.abs(of.x_hat).max(initial=0) * (1 if gamma is None else np.abs(gamma).max(initial=0))


@shapes
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_forward(shape, normalized, parameters, dtype, member):
    i = inputs(shape, normalized, dtype)
    gamma, beta = (a if given else None for a, given in zip((i.gamma, i.beta), PARAMETERS[parameters], strict=True))
    y, saved = member.train(i.x, normalized, gamma, beta)
    of, want = exact(member, i, gamma, beta)
    close(y, want, i.x.dtype, MOST, size_of(of, gamma))
    same_bits(member.infer(i.x, normalized, gamma, beta), y)
    leading = shape[:len(shape) - len(normalized)]
    assert saved.rstd.shape == leading
    np.testing.assert_allclose(saved.rstd.reshape(-1), of.rstd[:, 0].astype(float), rtol=1e-6)
    assert saved.count == np.prod(normalized)
    if member.about_zero:
        assert saved.mean is None
    else:
        np.testing.assert_allclose(
            saved.mean, i.x.astype(float).mean(tuple(range(len(leading), len(shape)))), rtol=1e-6)


@shapes
@pytest.mark.parametrize("parameters", ["both", "none"])
def test_backward(shape, normalized, parameters, dtype, member):
    i = inputs(shape, normalized, dtype)
    gamma = i.gamma if parameters == "both" else None
    _, saved = member.train(i.x, normalized, gamma, i.beta)
    dx, dgamma, dbeta = member.gradients(i.dy, i.x, saved, gamma)
    of, _ = exact(member, i, gamma, None)
    want = exact_gradients(member, i.dy, of, i, gamma)
    size = np.abs(i.dy).max(initial=0).astype(float) * 2 * of.rstd.max(initial=0)
    close(dx, want[0], i.x.dtype, 8, size)
    assert dgamma.dtype == np.float64
    # The products are rounded to float32 for float16 too.
    largest = np.abs(i.dy).max().astype(float) * max(1, np.abs(of.x_hat).max()) * i.x.size / dgamma.size
    assert np.abs(dgamma - want[1]).max() <= 8 * unit(np.float32) * largest
    if not member.about_zero:
        assert np.abs(dbeta - want[2]).max() <= 8 * unit(np.float32) * largest


@shapes
@pytest.mark.parametrize("activation", [None, "relu"])
def test_residual(shape, normalized, activation, dtype, member):
    i = inputs(shape, normalized, dtype)
    y, saved = member.train(i.x, normalized, i.gamma, i.beta, residual=i.residual, activation=activation)
    of, plain = exact(member, i, i.gamma, i.beta)
    z = plain + i.residual.astype(WIDE)
    close(y, np.where(z <= 0, 0, z) if activation else z, i.x.dtype, MOST, size_of(of, i.gamma))
    same_bits(member.infer(i.x, normalized, i.gamma, i.beta, residual=i.residual, activation=activation), y)
    dx, dgamma, _, dresidual = member.gradients(i.dy, i.x, saved, i.gamma)
    dz = np.where(y > 0, i.dy, np.zeros_like(i.dy)) if activation else i.dy
    same_bits(dresidual, dz)
    want = member.gradients(dz, i.x, member.train(i.x, normalized, i.gamma, i.beta)[1], i.gamma)
    same_bits(dx, want[0])
    same_bits(dgamma, want[1])


@pytest.mark.parametrize("activation", ["relu", "silu", ("leaky_relu", 0.2)], ids=str)
@shapes
def test_activation(shape, normalized, activation, member):
    i = inputs(shape, normalized, np.float64)
    y, saved = member.train(i.x, normalized, i.gamma, i.beta, activation=activation)
    z = member.infer(i.x, normalized, i.gamma, i.beta)
    derivative = {"relu": lambda: np.where(z > 0, 1, 0), "leaky_relu": lambda: np.where(z > 0, 1, 0.2),
                  "silu": lambda: (1 + z * (1 - 1 / (1 + np.exp(-z)))) / (1 + np.exp(-z))}
    function = {"relu": lambda: np.maximum(z, 0), "leaky_relu": lambda: np.where(z > 0, z, 0.2 * z),
                "silu": lambda: z / (1 + np.exp(-z))}
    name = activation if isinstance(activation, str) else activation[0]
    np.testing.assert_allclose(y, function[name](), rtol=1e-13, atol=1e-14)
    plain = member.train(i.x, normalized, i.gamma, i.beta)[1]
    want = member.gradients(i.dy * derivative[name](), i.x, plain, i.gamma)
    for got, expected in zip(member.gradients(i.dy, i.x, saved, i.gamma), want, strict=True):
        if expected is not None:
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("shape", "normalized"), [((3, 5), (5,)), ((2, 3, 4), (3, 4))], ids=str)
@pytest.mark.parametrize("activation", [None, "silu"])
def test_finite_differences(shape, normalized, activation, member):
    i = inputs(shape, normalized, np.float64)
    _, saved = member.train(i.x, normalized, i.gamma, i.beta, activation=activation)
    gradients = member.gradients(i.dy, i.x, saved, i.gamma)
    step = 1e-5

    def loss(**changed):
        arguments = i._replace(**changed)
        return (i.dy * member.infer(
            arguments.x, normalized, arguments.gamma, arguments.beta, activation=activation)).sum()

    for name, gradient in zip(("x", "gamma", "beta"), gradients, strict=True):
        if gradient is None:
            continue
        values = getattr(i, name)
        for k in np.ndindex(values.shape):
            up, down = values.copy(), values.copy()
            up[k] += step
            down[k] -= step
            slope = (loss(**{name: up}) - loss(**{name: down})) / (2 * step)
            assert abs(slope - gradient[k]) <= 1e-8 * max(1, abs(slope)), (name, k)


@pytest.mark.parametrize(("shape", "normalized"), [((0, 3), (3,)), ((3, 0), (0,)), ((2, 0, 4), (0, 4)),
                                                   ((0, 2, 3), (2, 3))], ids=str)
def test_no_elements(shape, normalized, dtype, member):
    i = inputs(shape, normalized, dtype)
    y, saved = member.train(i.x, normalized, i.gamma, i.beta, activation="relu")
    assert y.shape == shape
    assert y.dtype == dtype
    assert member.infer(i.x, normalized, i.gamma, i.beta).shape == shape
    dx, dgamma, dbeta = member.gradients(i.dy, i.x, saved, i.gamma)
    assert dx.shape == shape
    np.testing.assert_array_equal(dgamma, np.zeros(normalized))
    if dbeta is not None:
        np.testing.assert_array_equal(dbeta, np.zeros(normalized))
        assert not np.shares_memory(dgamma, dbeta) or not dgamma.size


def test_one_element_per_row(dtype):
    i = inputs((9, 1), (1,), dtype)
    y, saved = MEMBERS["layer norm"].train(i.x, 1, i.gamma, i.beta)
    same_bits(y, np.broadcast_to(i.beta.astype(dtype), (9, 1)))
    assert (MEMBERS["layer norm"].gradients(i.dy, i.x, saved, i.gamma)[0] == 0).all()


@pytest.mark.parametrize("value", [0.0, -3.3, 1e4])
@pytest.mark.parametrize(("shape", "normalized"), SHAPES, ids=str)
def test_a_constant_row_is_beta(shape, normalized, value, dtype):
    i = inputs(shape, normalized, dtype)
    x = np.full(shape, value, dtype)
    y, _ = MEMBERS["layer norm"].train(x, normalized, i.gamma, i.beta)
    same_bits(y, np.broadcast_to(i.beta.astype(dtype), shape))


@pytest.mark.parametrize(("kind", "eps"), [(np.float32, 2.0**-23), (np.float64, 2.0**-52), (DTYPES[2], 2.0**-23),
                                           (DTYPES[3], 2.0**-23)], ids=str)
def test_rms_eps_of_the_dtype(kind, eps):
    x = np.full((2, 4), np.sqrt(eps), kind)
    y, saved = rms_norm_training(x, 4)
    np.testing.assert_allclose(saved.rstd, 1 / np.sqrt(x[:, 0].astype(float) ** 2 + eps), rtol=1e-6)
    same_bits(rms_norm_inference(x, 4), y)
    same_bits(rms_norm_inference(x, 4, eps=eps), y)


def test_saved_text():
    assert repr(MEMBERS["layer norm"].train(np.ones((2, 3, 4)), 4)[1]) == "RowSaved((2, 3), count=4)"
    assert isinstance(MEMBERS["RMS norm"].train(np.ones((2, 3, 4)), 4)[1], RowSaved)
