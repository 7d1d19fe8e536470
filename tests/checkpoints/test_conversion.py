"""The conventions of the frameworks, and the conversion of states and momenta."""

import dataclasses
import decimal
import itertools

import numpy as np
import pytest

from fastbn.checkpoints import CONVENTIONS, convert, convert_momentum
from tests.checkpoints.conventions import COUNT, DEFAULTS, NAMES, VALUES, fixed, state_of
from tests.compare import same_bits

PAIRS = list(itertools.product(NAMES, NAMES))


def test_table():
    assert list(CONVENTIONS) == list(DEFAULTS)
    for name, convention in CONVENTIONS.items():
        c = convention
        assert c.name == name
        assert (c.eps, c.momentum, c.momentum_weighs, c.axis, c.unbiased) == DEFAULTS[name]
        assert tuple(c.names.values()) == NAMES[name]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_names_values_and_variance(source, target):
    state = state_of(source)
    before = {name: array.copy() for name, array in state.items()}
    got = convert(state, source, target, count=COUNT, **fixed(source))
    assert tuple(got) == NAMES[target]
    change = DEFAULTS[target][4] - DEFAULTS[source][4]      # 1: to unbiased, -1: to biased
    factor = (COUNT / (COUNT - 1)) ** change
    expected = VALUES | {"var": np.multiply(VALUES["var"], factor).astype(np.float32)}
    for name, value in zip(NAMES[target], expected.values(), strict=False):
        assert got[name].dtype == np.float32
        np.testing.assert_array_equal(got[name], np.array(value, np.float32))
    if "num_batches_tracked" in NAMES[target]:
        assert got["num_batches_tracked"] == (7 if "num_batches_tracked" in NAMES[source] else 0)
        assert got["num_batches_tracked"].dtype == np.int64
    for name, array in state.items():
        np.testing.assert_array_equal(array, before[name])
        assert not any(np.shares_memory(array, new) for new in got.values())


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_round_trip(source, target, dtype):
    rng = np.random.default_rng(3)
    state = state_of(source, dtype, var=rng.random(2), mean=rng.normal(size=2))
    there = convert(state, source, target, count=33, **fixed(source))
    back = convert(there, target, source, count=33, **fixed(target))
    for name in NAMES[source][:4]:
        assert back[name].dtype == dtype
        np.testing.assert_allclose(back[name], state[name], rtol=2 * np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_variance_may_be_kept(source, target):
    got = convert(state_of(source), source, target, keep_variance=True, **fixed(source))
    same_bits(got[NAMES[target][3]], np.array(VALUES["var"], np.float32))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_count_is_required_if_the_variances_differ(source, target):
    if DEFAULTS[source][4] == DEFAULTS[target][4]:
        got = convert(state_of(source), source, target, **fixed(source))
        same_bits(got[NAMES[target][3]], np.array(VALUES["var"], np.float32))
    else:
        kinds = {True: "unbiased", False: "biased"}
        message = f"count is needed: {source} has the {kinds[DEFAULTS[source][4]]} running variance and {target} the"
        with pytest.raises(ValueError, match=message):
            convert(state_of(source), source, target, **fixed(source))


@pytest.mark.parametrize(("source", "target", "momentum", "expected"), [
    ("torch", "keras", 0.1, 0.9), ("torch", "flax", 0.01, 0.99), ("keras", "torch", 0.99, 0.01),
    ("paddle", "fastbn", 0.9, 0.1), ("mxnet", "torch", 0.9, 0.1), ("onnx", "fastbn", 0.7, 0.3),
    ("fastbn", "torch", 0.3, 0.3), ("keras", "onnx", 0.99, 0.99), ("torch", "keras", 0.0, 1.0),
    ("keras", "torch", 1, 0.0), ("torch", "fastbn", None, None), ("torch", "keras", 1e-30, 1.0),
])
def test_momentum(source, target, momentum, expected):
    assert convert_momentum(momentum, source, target) == expected


def test_momentum_does_not_depend_on_the_decimal_context():
    with decimal.localcontext(decimal.Context(prec=1, traps=[decimal.Inexact])):
        assert convert_momentum(0.9997, "keras", "torch") == 0.0003


@pytest.mark.parametrize("momentum", [0.1, 0.01, 0.001, 0.003, 0.9, 0.99, 0.999, 0.9997, 0.5, 1 / 3])
def test_momentum_round_trip(momentum):
    there = convert_momentum(momentum, "torch", "keras")
    assert convert_momentum(there, "keras", "torch") == momentum
    assert there == pytest.approx(1 - momentum, abs=1e-15)


# States without some vectors: the vectors missing in the source, and the expected result.
@pytest.mark.parametrize(("source", "without", "target", "expected"), [
    ("keras", ["gamma"], "torch", {"weight": [1, 1], "bias": [0.5, -1]}),
    ("keras", ["beta"], "torch", {"weight": [1.5, 2], "bias": None}),      # bias=False
    ("keras", ["gamma"], "fastbn", {"weight": None, "bias": [0.5, -1]}),
    ("keras", ["beta"], "fastbn", {"weight": [1.5, 2], "bias": None}),
    ("torch", ["bias"], "keras", {"gamma": [1.5, 2], "beta": None}),
    ("torch", ["bias"], "torch", {"weight": [1.5, 2], "bias": None}),
    ("torch", ["bias"], "mxnet", {"gamma": [1.5, 2], "beta": [0, 0]}),
    ("fastbn", ["weight"], "torch", {"weight": [1, 1], "bias": [0.5, -1]}),
    ("keras", ["gamma", "beta"], "torch", {"weight": None, "bias": None}),
    ("flax", ["scale"], "keras", {"gamma": None, "beta": [0.5, -1]}),
    ("flax", ["bias"], "onnx", {"scale": [1.5, 2], "B": [0, 0]}),
    ("flax", ["scale", "bias"], "onnx", {"scale": [1, 1], "B": [0, 0]}),
    ("paddle", ["bias"], "mxnet", {"gamma": [1.5, 2], "beta": [0, 0]}),
    ("torch", ["weight", "bias"], "flax", {"scale": None, "bias": None}),
    ("torch", ["weight", "bias"], "mxnet", {"gamma": [1, 1], "beta": [0, 0]}),
    ("torch", ["running_mean", "running_var", "num_batches_tracked"], "fastbn",
     {"running_mean": None, "num_batches_tracked": None, "weight": [1.5, 2]}),
    ("torch", ["num_batches_tracked"], "torch", {"num_batches_tracked": 0}),
])
def test_missing_vectors(source, without, target, expected):
    state = {name: array for name, array in state_of(source).items() if name not in without}
    got = convert(state, source, target, keep_variance=True)
    for name, value in expected.items():
        if value is None:
            assert name not in got
        else:
            np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize(("fix_gamma", "expected"), [(True, [1, 1]), (False, [1.5, 2])])
def test_gamma_of_mxnet(fix_gamma, expected):
    got = convert(state_of("mxnet"), "mxnet", "keras", fix_gamma=fix_gamma)
    np.testing.assert_array_equal(got["gamma"], expected)


def test_gamma_of_mxnet_that_is_one_requires_no_option():
    got = convert(state_of("mxnet", gamma=[1, 1]), "mxnet", "keras")
    np.testing.assert_array_equal(got["gamma"], [1, 1])


def test_a_prefix_selects_and_is_kept():
    state = {f"a.{name}": value for name, value in state_of("torch").items()} | {"b.weight": np.ones(9), "fc": "text"}
    got = convert(state, "torch", "keras", count=COUNT, prefix="a.")
    assert list(got) == ["a.gamma", "a.beta", "a.moving_mean", "a.moving_variance"]


def test_a_custom_convention():
    fused = dataclasses.replace(CONVENTIONS["keras"], name="fused", running_var="variance", unbiased=True)
    got = convert(state_of("keras"), "keras", fused, count=COUNT)
    np.testing.assert_array_equal(got["variance"], np.array([2.5, 0], np.float32))


@pytest.mark.parametrize("dtype", ["float16", ">f4", "float64", "longdouble"])
def test_dtypes(dtype):
    got = convert(state_of("flax", dtype), "flax", "keras")
    assert {array.dtype for array in got.values()} == {np.dtype({"float16": "f4", ">f4": "f4"}.get(dtype, dtype))}


T = state_of("torch")
BAD_CALLS = {
    "source unknown": ((T, "pytorch", "keras"), {}, ValueError, "source must be one of fastbn, .*, got 'pytorch'"),
    "target unknown": ((T, "torch", ""), {}, ValueError, "target must be one of .*, got ''"),
    "source a type": ((T, 3, "keras"), {}, TypeError, "source must be a name or a Convention, got int"),
    "state a list": (([], "torch", "keras"), {}, TypeError, "state must be a mapping .*, got list"),
    "a name is a number": ((T | {3: T["bias"]}, "torch", "keras"), {}, TypeError, r"as names, got \['int', 'str'\]"),
    "state empty": (({}, "torch", "keras"), {}, ValueError, "state is empty"),
    "prefix of nothing": ((T, "torch", "keras"), {"prefix": "x."}, ValueError, "no name that begins with 'x.'"),
    "prefix a number": ((T, "torch", "keras"), {"prefix": 1}, TypeError, "prefix must be a string, got 1"),
    "other names": ((T, "keras", "torch"), {}, ValueError, "is missing moving_mean, moving_variance and also has"),
    "bias alone": (({k: v for k, v in T.items() if k != "weight"}, "torch", "fastbn"), {}, ValueError,
                   "is missing weight;"),       # PyTorch has no such module
    "half an average": (({k: v for k, v in T.items() if k != "running_var"}, "fastbn", "torch"), {}, ValueError,
                        "is missing running_var;"),
    "no averages": (({"weight": T["weight"], "bias": T["bias"]}, "torch", "keras"), {}, ValueError,
                    "state has no running averages, which keras requires"),
    "many unknown": ((T | {f"x{k}": 1 for k in range(9)}, "torch", "fastbn"), {}, ValueError, "'x3' and 5 more;"),
    "shape": ((T | {"bias": np.ones(3)}, "torch", "fastbn"), {}, ValueError, r"bias has shape \(3,\); expected \(2,\)"),
    "integers": ((T | {"bias": [1, 2]}, "torch", "fastbn"), {}, TypeError, "bias has dtype int64; expected a floating"),
    "NaN": ((T | {"bias": [1, np.nan]}, "torch", "fastbn"), {}, ValueError, "bias has values that are not finite"),
    "variance": ((T | {"running_var": [1, -2.0]}, "torch", "fastbn"), {}, ValueError, "running_var has neg.*-2.0"),
    "counter": ((T | {"num_batches_tracked": 0.5}, "torch", "fastbn"), {}, ValueError, "num_batches_tracked must"),
    "counter text": ((T | {"num_batches_tracked": "7"}, "torch", "fastbn"), {}, TypeError, "num_batches_tracked must"),
    "count 1": ((T, "torch", "keras"), {"count": 1}, ValueError, "count must be at least 2, got 1"),
    "count 2.5": ((T, "torch", "keras"), {"count": 2.5}, TypeError, "count must be an integer, got 2.5"),
    "count and keep": ((T, "torch", "keras"), {"count": 2, "keep_variance": True}, ValueError, "count must be None"),
    "keep a number": ((T, "torch", "keras"), {"keep_variance": 1}, TypeError, "keep_variance must be True or False"),
    "overflow": ((state_of("keras", var=[3e38, 0]), "keras", "torch"), {"count": 2}, ValueError,
                 "the unbiased running_var is not finite in float32"),
    "fix_gamma needed": ((state_of("mxnet"), "mxnet", "onnx"), {}, ValueError, "fix_gamma must be True .* or False"),
    "fix_gamma a number": ((state_of("mxnet"), "mxnet", "onnx"), {"fix_gamma": 1}, TypeError, "fix_gamma must be True"),
    "fix_gamma of torch": ((T, "torch", "fastbn"), {"fix_gamma": True}, ValueError, "fix_gamma must be None"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name):
    arguments, options, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        convert(*arguments, **options)


@pytest.mark.parametrize(("momentum", "target", "message"), [
    (None, "keras", "momentum is None, .* keras lacks"), (1.5, "keras", "momentum must be between 0 and 1"),
    (float("nan"), "torch", "momentum must be between 0 and 1"),
])
def test_bad_momentum(momentum, target, message):
    with pytest.raises(ValueError, match=message):
        convert_momentum(momentum, "torch", target)
