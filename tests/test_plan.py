"""Plans: the same bits as a call of ChannelAffine, and errors for any other shape or dtype."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

from fastbn import ChannelAffine, Plan
from fastbn._core import dispatch
from tests.cases import LARGE_PLANES, LARGE_ROWS, SAMPLE_CASES, inputs
from tests.compare import same_bits
from tests.grid import over
from tests.process import output

KINDS = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.mark.parametrize("kind", KINDS)
@over((*SAMPLE_CASES, LARGE_PLANES, LARGE_ROWS))
def test_same_bits_as_a_call(case, layout, kind, activation, with_residual):
    i = inputs(case, layout, KINDS[kind])
    affine = ChannelAffine(i.mean, i.gamma, i.beta, axis=i.axis, num_threads=2)
    residual = i.residual if with_residual else None
    plan = affine.bind(i.x.shape, KINDS[kind], activation=activation)
    assert (plan.shape, plan.dtype) == (i.x.shape, KINDS[kind])
    y, out = affine(i.x, residual, activation), np.empty_like(i.x)
    for _ in range(2):
        assert plan(i.x, out, residual) is out
        same_bits(out, y)
    x = i.x.copy()
    assert plan(x, x, residual) is x
    same_bits(x, y)


@pytest.mark.parametrize(("shape", "layout", "channels"), [
    ((2, 3, 4, 5), "NCHW", 3), ((2, 4, 5, 3), "NHWC", 3), ((2, 3), "NC", 3), ((7, 2, 3), "NLC", 3), ((3, 7), "CN", 3),
    ((2, 3, 4, 5), None, 3), ((0, 3, 4), "NCL", 3),
])
def test_layouts(shape, layout, channels):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    axis = 1 if layout is None else layout.index("C")
    affine = ChannelAffine(np.arange(3.0), np.ones(3), np.zeros(3))
    out = np.empty_like(x)
    affine.bind(shape, np.float32, layout)(x, out)
    same_bits(out, ChannelAffine(np.arange(3.0), np.ones(3), np.zeros(3), axis=axis)(x))


def test_several_activations():
    x = np.linspace(-5, 5, 64).reshape(1, 64)
    affine = ChannelAffine(np.zeros(64), np.ones(64), np.zeros(64))
    for activation in ("relu6", "tanh", ("leaky_relu", 0.5)):
        same_bits(affine.bind((1, 64), np.float64, activation=activation)(x, np.empty_like(x)),
                  affine(x, activation=activation))


def test_it_outlives_its_transform():
    plan = ChannelAffine([1.0, 2.0], [2.0, 2.0], [0.0, 1.0]).bind((1, 2))
    np.testing.assert_array_equal(plan(np.array([[2, 2]], np.float32), np.empty((1, 2), np.float32)), [[2, 1]])
    assert repr(plan) == "Plan((1, 2), float32)"
    with pytest.raises(AttributeError):
        plan.shape = (2, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))])
def test_copies_and_pickles(again, kind):
    x = np.linspace(-3, 3, 24).reshape(2, 4, 3).astype(KINDS[kind])
    affine = ChannelAffine(np.arange(3.0), np.ones(3), np.ones(3), num_threads=3)
    plan = affine.bind(x.shape, kind, "NLC", activation=("leaky_relu", 0.5))
    other = again(plan)
    assert (other.shape, other.dtype, other.num_threads) == (x.shape, KINDS[kind], 3)
    same_bits(other(x, np.empty_like(x)), plan(x, np.empty_like(x)))


def test_a_pickle_may_go_to_another_machine():
    plan = ChannelAffine([1.0, 2.0], [2.0, 2.0], [0.0, 1.0]).bind((1, 2))
    code = (f"import pickle, numpy as np; plan = pickle.loads({pickle.dumps(plan)!r}); "
            "print(type(plan).__base__.__module__, plan(np.full((1, 2), 2, np.float32), np.empty((1, 2), np.float32)))")
    for isa in dispatch.supported():
        assert output(code, FASTBN_ISA=isa) == f"fastbn._core.kernels.{isa} [[2. 1.]]"


def test_it_has_a_public_class():
    plan = ChannelAffine([1.0, 2.0], [2.0, 2.0], [0.0, 1.0]).bind((1, 2))
    assert type(plan) is Plan
    assert (Plan.__module__, Plan.__qualname__) == ("fastbn", "Plan")
    assert b"fastbn._core" not in pickle.dumps(plan)
    with pytest.raises(AttributeError):
        plan.other = 1


X = np.arange(12, dtype=np.float32).reshape(4, 3)
BUFFER = np.zeros(40, np.float32)
READ_ONLY = np.zeros((4, 3), np.float32)
READ_ONLY.flags.writeable = False
ODD = np.zeros(4 * 12 + 1, np.uint8)[1:].view(np.float32).reshape(4, 3)


@pytest.mark.parametrize(("x", "out", "residual", "message"), [
    (X[:3], X, None, r"x must be a C-contiguous, aligned numpy.ndarray of float32\(4, 3\), as bound; got float32"),
    (X.astype(float), X, None, r"x must be .*got float64\(4, 3\)"),
    (X.T.copy().T, X, None, r"x must be a C-contiguous.*; got float32\(4, 3\), which is not C-contiguous$"),
    (X.astype(">f4"), X, None, "x must be a C-contiguous"),
    (ODD, X, None, r"x must be a C-contiguous, aligned.*; got float32\(4, 3\), which is not aligned$"),
    (X.tolist(), X, None, "x must be .*got list"),
    (None, X, None, "x must be an array, got None"),
    (X, X[:, :2], None, r"out must be .*got float32\(4, 2\)"),
    (X, None, None, "out must be an array, got None"),
    (X, READ_ONLY, None, "out is read-only"),
    (X, np.empty_like(X), X[:2], r"residual must be .*got float32\(2, 3\)"),
    (BUFFER[:12].reshape(4, 3), BUFFER[3:15].reshape(4, 3), None, "out overlaps x without being the same array"),
    (X, BUFFER[3:15].reshape(4, 3), BUFFER[:12].reshape(4, 3), "out overlaps residual without being the same array"),
])
def test_refused(x, out, residual, message):
    plan = ChannelAffine(np.zeros(3), np.ones(3), np.ones(3)).bind((4, 3))
    before = X.copy()
    with pytest.raises(TypeError if x is None or out is None else ValueError, match=message):
        plan(x, out, residual)
    same_bits(X, before)
    assert not BUFFER.any()


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (((4, 5),), ValueError, r"shape is \(4, 5\); expected .* 3 channels along axis 1"),
    (((4, 3), np.int32), TypeError, "dtype is int32; expected float32"),
    (((4, 3), np.uint8), TypeError, "dtype is uint8; expected float32"),
    (((4, 3), ">f4"), TypeError, "dtype is >f4; expected native byte order"),
    (((4, 3), "nonsense"), TypeError, "dtype is 'nonsense', which is not a dtype"),
    ((4,), TypeError, "shape must be a tuple of integers, got 4"),
    (((4, -3),), ValueError, "shape must be at least 0, got -3"),
    (((4, 3.0),), TypeError, "shape must be an integer, got 3.0"),
    (((2**40, 3, 2**40),), ValueError, r"shape is \(1099511627776, 3, .*; expected that of an array: array is too big"),
    (((2, 3) + 70 * (1,),), ValueError, r"shape is \(2, 3, 1, .*; expected that of an array: maximum supported dim"),
    (((3,),), ValueError, r"shape is \(3,\); expected two or more axes"),
    (((4, 3), np.float32, "NHWC"), ValueError, r"layout must have one letter .* 2 axes of shape \(4, 3\).*got 'NHWC'"),
    (((4, 3), np.float32, "NN"), ValueError, "layout must have one letter for each of the 2 axes.*got 'NN'"),
    (((4, 3), np.float32, 1), ValueError, "layout must have one letter for each of the 2 axes.*got 1"),
])
def test_bind_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ChannelAffine(np.zeros(3), np.ones(3), np.ones(3)).bind(*arguments)


def test_a_call_without_out_names_it():
    plan = ChannelAffine(np.zeros(3), np.ones(3), np.ones(3)).bind((4, 3))
    with pytest.raises(TypeError, match="out must be an array, got None"):
        plan(X)
