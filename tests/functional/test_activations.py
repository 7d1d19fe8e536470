"""Activations fused into inference: values, special values, and the refusals."""

import mpmath
import numpy as np
import pytest

from fastbn import BatchNorm, ChannelAffine
from fastbn.functional import batch_norm_inference, batch_norm_training
from tests.cases import LARGE_PLANES, MANY_ROWS, ODD_PLANES, SMALL_PLANES, inputs
from tests.compare import same_bits
from tests.grid import over

mp = mpmath.mp.clone()
mp.prec = 200
ROOT_2 = mp.sqrt(2)
SLOPE = mp.mpf(0.01)
FORMULAS = {
    "relu": lambda t: max(t, 0),
    "relu6": lambda t: min(max(t, 0), 6),
    "leaky_relu": lambda t: t * SLOPE if t < 0 else t,
    "hardswish": lambda t: t * min(max(t + 3, 0), 6) / 6,
    "hard_sigmoid": lambda t: min(max(t + 3, 0), 6) / 6,
    "sigmoid": lambda t: 1 / (1 + mp.exp(-t)),
    "silu": lambda t: t / (1 + mp.exp(-t)),
    "tanh": mp.tanh,
    "gelu": lambda t: t * mp.erfc(-t / ROOT_2) / 2,
    "gelu_tanh": lambda t: t / (1 + mp.exp(-2 * gelu_argument(t))),
    "mish": lambda t: t * (1 - 2 / (2 + mp.exp(t) * (2 + mp.exp(t)))) if t > -50 else t * mp.exp(t),
    "softplus": lambda t: mp.log1p(mp.exp(t)),
    "elu": lambda t: mp.expm1(t) if t < 0 else t,
}
# The error bounds of docs/guides/inference.md, in units in the last place, for float32 and float64.
ULPS = {
    "relu": (0, 0), "relu6": (0, 0), "leaky_relu": (1, 1), "hard_sigmoid": (1.5, 1.5), "sigmoid": (2.5, 3),
    "silu": (3.5, 4), "tanh": (3, 3.5), "gelu": (7.5, 12), "mish": (5.5, 6), "softplus": (3.5, 4), "elu": (1.5, 1.5),
}
# Where the largest errors are: among all float32 from 1/16 on, and among many float64.
WORST = {
    "sigmoid": (-4.157294, -4.849093821319844), "silu": (-3.2112513, -3.2196860962432936),
    "tanh": (0.030863265, 0.03096973119471534), "gelu": (-9.171381, -16.089597535582307),
    "mish": (-6.763011, -5.090212485247587), "softplus": (-3.4613564, -4.151430850304505),
}
IDENTITY = ChannelAffine([0.0], [1.0], [0.0])
DTYPES = (np.float32, np.float64)
names = pytest.mark.parametrize("name", FORMULAS)


def gelu_argument(t):
    return mp.sqrt(2 / mp.pi) * (t + mp.mpf("0.044715") * t**3)


def samples(dtype, count=1000):
    """To beyond where every activation underflows, dense about zero, and tiny."""
    rng = np.random.default_rng(0)
    wide, tiny = (110, 45) if dtype is np.float32 else (760, 323)
    return np.concatenate([
        rng.uniform(-wide, wide / 4, count), rng.uniform(-40, 10, count), rng.uniform(-9, 9, 2 * count),
        rng.uniform(-1, 1, count), rng.standard_normal(count) * 10.0 ** -rng.uniform(0, tiny, count),
    ]).astype(dtype)


def exactly(name, t):
    return [FORMULAS[name](mp.mpf(value)) for value in t.tolist()]


def ulp(value, dtype):
    """The distance of the numbers of a dtype about a value; of the subnormal ones, if it is smaller."""
    limits = np.finfo(dtype)
    least = limits.minexp - limits.nmant
    return mp.ldexp(1, least if value == 0 else max(least, int(mp.floor(mp.log(abs(value), 2))) - limits.nmant))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", ULPS)
def test_errors(name, dtype):
    t = np.append(samples(dtype), np.array(WORST.get(name, ()), dtype))
    y = IDENTITY(t[:, None], activation=name)[:, 0]
    assert y.dtype == dtype
    errors = [abs(got - exact) / ulp(exact, dtype) for got, exact in zip(y.tolist(), exactly(name, t), strict=True)]
    assert max(errors) <= ULPS[name][DTYPES.index(dtype)], t[errors.index(max(errors))]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_exp(dtype):
    # Where 1 + exp rounds to 1, a sigmoid is exp. From there down to 0, with the subnormal results.
    t = np.random.default_rng(0).uniform(*((-104, -20) if dtype is np.float32 else (-746, -40)), 5000).astype(dtype)
    y = IDENTITY(t[:, None], activation="sigmoid")[:, 0]
    exact = [mp.exp(value) for value in t.tolist()]
    assert max(abs(got - e) / ulp(e, dtype) for got, e in zip(y.tolist(), exact, strict=True)) <= 1.5
    assert (y < np.finfo(dtype).smallest_normal).sum() > 100


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_errors_of_gelu_tanh(dtype):
    # The argument of exp is rounded, so the relative error grows with it.
    t = samples(dtype)
    y = IDENTITY(t[:, None], activation="gelu_tanh")[:, 0]
    for value, got, exact in zip(t.tolist(), y.tolist(), exactly("gelu_tanh", t), strict=True):
        growth = 6 * max(0, -gelu_argument(mp.mpf(value)))
        assert abs(got - exact) <= (3 + growth) * ulp(exact, dtype), value


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_errors_of_hardswish(dtype):
    # It loses what t + 3 does.
    t = samples(dtype)
    y = IDENTITY(t[:, None], activation="hardswish")[:, 0]
    for value, got, exact in zip(t.tolist(), y.tolist(), exactly("hardswish", t), strict=True):
        assert abs(got - exact) <= 2.5 * max(ulp(exact, dtype), ulp(value / 6, dtype)), value


@names
def test_special_values(name):
    for dtype, big in ((np.float32, 3e38), (np.float64, 1e308)):
        y = IDENTITY(np.array([[np.nan], [np.inf], [big], [-big], [-np.inf], [0.0]], dtype), activation=name)[:, 0]
        assert np.isnan(y[0])
        top = {"relu6": 6, "hard_sigmoid": 1, "sigmoid": 1, "tanh": 1}.get(name)
        np.testing.assert_array_equal(y[1:3], [top, top] if top else np.array([np.inf, big], dtype))
        low = {"tanh": [-1, -1], "elu": [-1, -1], "leaky_relu": [dtype(-big) * dtype(0.01), -np.inf]}.get(name, [0, 0])
        zero = {"sigmoid": 0.5, "hard_sigmoid": 0.5, "softplus": dtype(np.log(2))}.get(name, 0)
        np.testing.assert_array_equal(y[3:], [*low, zero])


@pytest.mark.parametrize("name", [n for n in FORMULAS if "sigmoid" not in n and n not in ("softplus", "relu")])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_increases_near_its_ends(name, dtype):
    # No jump at the bounds, beyond which the formulas are not evaluated.
    edges = (-760, -120, -39, -24, -20, -14.6, 14.6, 20, 39, 40)
    t = np.concatenate([e + np.arange(-64, 65) * np.spacing(dtype(abs(e))) for e in edges]).astype(dtype)
    y = IDENTITY(t[:, None], activation=name)[:, 0]
    np.testing.assert_allclose(y, [float(e) for e in exactly(name, t)], rtol=1e-4 if dtype is np.float32 else 1e-12,
                               atol=np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("name", ["tanh", "silu", "gelu", "gelu_tanh", "mish", "elu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_the_sign_of_zero(name, dtype):
    y = ChannelAffine([0.0], [1.0], [-0.0])(np.array([[-0.0], [0.0]], dtype), activation=name)
    np.testing.assert_array_equal(np.signbit(y), [[True], [False]])


@names
def test_every_position_of_a_piece(name):
    # Whole steps, a partial one, and several pieces, with and without gaps between the rows of y.
    t = np.random.default_rng(0).standard_normal(5000) * 4
    y = IDENTITY(t[:, None], activation=name)[:, 0]
    for count in (1, 63, 64, 65, 1023, 1024, 1025, 2111):
        same_bits(IDENTITY(t[None, None, :count], activation=name)[0, 0], y[:count])
        rows = np.array([t[:count]] * 3)
        columns = ChannelAffine(np.zeros(count), np.ones(count), np.zeros(count))
        out = np.empty((3, count + 5))[:, :count]
        same_bits(columns(rows, activation=name, out=out), np.array([y[:count]] * 3))


@names
@over((SMALL_PLANES, ODD_PLANES, MANY_ROWS, LARGE_PLANES))
def test_after_transform_and_residual(name, case, layout, dtype, with_residual):
    i = inputs(case, layout, dtype)
    residual = i.residual if with_residual else None
    linear = batch_norm_inference(i.x, i.mean, i.var, i.gamma, i.beta, axis=i.axis, residual=residual)
    y = batch_norm_inference(
        i.x, i.mean, i.var, i.gamma, i.beta, axis=i.axis, residual=residual, activation=name)
    # The same as the activation on its own, to the bit: it follows the rounded transform.
    same_bits(y.ravel(), IDENTITY(linear.reshape(-1, 1), activation=name).ravel())
    for threads in (1, 2, 3):
        x = i.x.copy()
        batch_norm_inference(x, i.mean, i.var, i.gamma, i.beta, axis=i.axis, residual=residual, activation=name,
                             out=x, num_threads=threads)
        same_bits(x, y)


def test_slope():
    t = np.array([[-8.0], [4.0]])
    np.testing.assert_array_equal(IDENTITY(t, activation=("leaky_relu", 0.25)), [[-2.0], [4.0]])
    np.testing.assert_array_equal(IDENTITY(t, activation=("leaky_relu", 0)), [[0.0], [4.0]])


def test_alpha():
    t = np.array([[-1.0], [-np.inf], [4.0]])
    for alpha in (0.5, 2, -3.0):
        np.testing.assert_allclose(IDENTITY(t, activation=("elu", alpha)), [[alpha * np.expm1(-1)], [-alpha], [4.0]],
                                   rtol=3e-16)


@pytest.mark.parametrize(("activation", "error", "message"), [
    ("swish", ValueError, "activation must be None, 'relu', 'relu6'.*got 'swish'"),
    (True, ValueError, "activation must be .*got True"),
    (("leaky_relu",), ValueError, "activation must be .*got"),
    (("relu", 0.1), ValueError, "activation must be .*got"),
    (("leaky_relu", "steep"), TypeError, "the slope of leaky_relu must be a number, got 'steep'"),
    (("leaky_relu", np.nan), ValueError, "the slope of leaky_relu must be finite, got nan"),
    (("elu", np.inf), ValueError, "the alpha of elu must be finite, got inf"),
    (("gelu", 1.0), ValueError, r"\('leaky_relu', slope\) or \('elu', alpha\), got \('gelu', 1.0\)"),
    (["relu"], ValueError, "activation must be .*got"),
])
def test_refused(activation, error, message):
    x = np.ones((4, 1))
    with pytest.raises(error, match=message):
        IDENTITY(x, activation=activation)
    with pytest.raises(error, match=message):
        IDENTITY.bind((4, 1), activation=activation)
    with pytest.raises(error, match=message):
        BatchNorm(1).eval()(x, activation=activation)


def test_refused_in_training():
    x = np.random.default_rng(0).standard_normal((8, 3))
    bn = BatchNorm(3)
    for call in (batch_norm_training, bn):
        with pytest.raises(ValueError, match=r"activation must be None, 'relu', 'relu6'.*got 'rellu'"):
            call(x, activation="rellu")
    assert bn.num_batches_tracked == 0
