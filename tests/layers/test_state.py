"""The state of a layer: saved, loaded, refused, copied."""

import copy
import pickle

import numpy as np
import pytest

from fastbn import BatchNorm
from tests.compare import same_bits
from tests.layers.trained import STATE, assert_same, batches, snapshot, trained


def test_state_dict_names():
    full = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert set(trained().state_dict()) == full
    assert set(trained(affine=False).state_dict()) == full - {"weight", "bias"}
    assert set(BatchNorm(5, track_running_stats=False).state_dict()) == {"weight", "bias"}
    assert BatchNorm(5, affine=False, track_running_stats=False).state_dict() == {}


def test_state_dict_is_a_copy():
    bn = trained()
    before = snapshot(bn)
    for value in bn.state_dict().values():
        value[...] = 99
    assert_same(bn, before)
    state = bn.state_dict()
    other = BatchNorm(5)
    other.load_state_dict(state)
    other(batches()[0])
    other.gamma[...] = 7
    for name, value in bn.state_dict().items():
        np.testing.assert_array_equal(state[name], value)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}], ids=str)
def test_round_trip(options, dtype):
    bn, other = trained(dtype=dtype, **options), BatchNorm(5, dtype=dtype, **options)
    other.load_state_dict(bn.state_dict())
    for name in STATE:
        np.testing.assert_array_equal(getattr(bn, name), getattr(other, name))
    assert bn.state_dict().get("num_batches_tracked", 0) == other.num_batches_tracked
    x = batches(dtype=dtype)[0]
    same_bits(bn.eval()(x), other.eval()(x))


def test_load_converts_and_takes_lists():
    bn = BatchNorm(2)
    bn.load_state_dict({"weight": [1.5, 2.0], "bias": np.zeros(2, np.float16), "running_mean": np.ones(2),
                        "running_var": (0.0, 2.0)})
    assert all(getattr(bn, name).dtype == np.float32 for name in STATE)
    np.testing.assert_array_equal(bn.running_var, [0, 2])
    assert bn.num_batches_tracked == 0


def changed(**values):
    return lambda state: state | values


def without(name):
    return lambda state: {k: v for k, v in state.items() if k != name}


V = np.ones(5, np.float32)
BAD_STATES = {
    "missing weight": (without("weight"), ValueError, "state is missing weight; expected weight"),
    "missing running_var": (without("running_var"), ValueError, "state is missing running_var; expected"),
    "unknown name": (changed(scale=V), ValueError, "state also has scale; expected"),
    "empty": (lambda state: {}, ValueError, "state is missing bias, running_mean, running_var, weight; expected"),
    "weight length": (changed(weight=np.ones(4)), ValueError, r"weight has shape \(4,\); expected \(5,\)"),
    "bias scalar": (changed(bias=np.float32(1)), ValueError, r"bias has shape \(\); expected \(5,\)"),
    "mean 2-d": (changed(running_mean=np.ones((5, 1))), ValueError, r"running_mean has shape \(5, 1\); expected"),
    "integers": (changed(weight=np.ones(5, int)), TypeError, "weight has dtype int64; expected a floating-point"),
    "complex": (changed(bias=np.ones(5, complex)), TypeError, "bias has dtype complex128; expected a floating-point"),
    "text": (changed(bias="bias"), TypeError, "bias has dtype"),
    "None": (changed(bias=None), TypeError, "bias has dtype object"),
    "NaN weight": (changed(weight=V * np.nan), ValueError,
                   "weight has values that are not finite in float32, in channels 0, 1, 2, 3, 4$"),
    "inf mean": (changed(running_mean=V * np.inf), ValueError, "running_mean has values that are not finite"),
    "NaN variance": (changed(running_var=V * np.nan), ValueError, "running_var has values that are not finite"),
    "inf variance": (changed(running_var=V * np.inf), ValueError, "running_var has values that are not finite"),
    "negative variance": (changed(running_var=V * -1e-3), ValueError,
                          r"running_var has negative values, down to -0\.001.*, in channels 0, 1, 2, 3, 4$"),
    "beyond float32": (changed(running_mean=np.full(5, 1e300)), ValueError, "running_mean has values .*in float32"),
    "counter float": (changed(num_batches_tracked=1.5), TypeError, "num_batches_tracked must be one integer"),
    "counter array": (changed(num_batches_tracked=np.ones(2, int)), TypeError, "num_batches_tracked must be one"),
    "counter negative": (changed(num_batches_tracked=-1), ValueError, "num_batches_tracked must be between 0 and"),
    "counter beyond int64": (changed(num_batches_tracked=np.uint64(2**63)), ValueError,
                             "num_batches_tracked must be between 0 and 9223372036854775807, got 9223372036854775808"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_bad_state_changes_nothing(name):
    change, error, message = BAD_STATES[name]
    bn = trained()
    before = snapshot(bn)
    good = BatchNorm(5).state_dict()
    with pytest.raises(error, match=message):
        bn.load_state_dict(change(good))
    assert_same(bn, before)
    bn.backward(batches()[0])


def test_a_state_has_to_fit_the_dtype_of_assigned_arrays():
    bn = BatchNorm(2, dtype=np.float64)
    bn.running_var = np.ones(2, np.float32)
    with pytest.raises(ValueError, match="running_var has values that are not finite in float32"):
        bn.load_state_dict(bn.state_dict() | {"running_var": np.full(2, 1e300)})
    assert bn.running_var.tolist() == [1, 1]


def test_the_counter_may_be_missing_or_extra():
    bn = trained()
    state = bn.state_dict()
    del state["num_batches_tracked"]
    other = BatchNorm(5)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.running_var, bn.running_var)
    plain = BatchNorm(5, track_running_stats=False)
    plain.load_state_dict({"weight": V, "bias": V, "num_batches_tracked": np.array(3)})
    np.testing.assert_array_equal(plain.beta, V)


def test_running_averages_may_not_be_extra():
    with pytest.raises(ValueError, match="state also has running_mean, running_var; expected"):
        BatchNorm(5, track_running_stats=False).load_state_dict(trained().state_dict())


def test_loading_forgets_the_last_forward():
    bn = trained()
    bn.load_state_dict(bn.state_dict())
    with pytest.raises(RuntimeError, match="backward needs a forward pass"):
        bn.backward(batches()[0])


duplicates = pytest.mark.parametrize("duplicate", [
    copy.copy, copy.deepcopy, lambda bn: pickle.loads(pickle.dumps(bn))], ids=["copy", "deepcopy", "pickle"])


@duplicates
def test_copies(duplicate):
    bn = trained().eval()
    other = duplicate(bn)
    x = batches()[3]
    same_bits(other(x), bn(x))
    other.gamma[...] = 0
    assert bn.gamma.all()
    assert repr(other) == repr(bn)
    with pytest.raises(RuntimeError, match="backward needs a forward pass first"):
        duplicate(bn).backward(x)


@duplicates
@pytest.mark.parametrize("options", [{}, {"averaging": "exact"}, {"debias": True}, {"momentum": None}], ids=str)
def test_a_copy_is_independent(duplicate, options):
    bn = trained(**options)
    bn.backward(batches()[1])
    other, state, gradient = duplicate(bn), bn.state_dict(), bn.grad_gamma.copy()
    for x in batches()[2:]:
        other(x)
        other.backward(x)
    other.grad_gamma[...] = 7
    other.eps, other.training = 0.5, False
    assert (bn.num_batches_tracked, other.num_batches_tracked, bn.eps, bn.training) == (2, 4, 1e-5, True)
    for name, value in bn.state_dict().items():
        same_bits(value, state[name])
    same_bits(bn.grad_gamma, gradient)
    # And it goes on as the original would.
    for x in batches()[2:]:
        bn(x)
    for name, value in bn.state_dict().items():
        same_bits(other.state_dict()[name], value)


def spoil_read_only(bn):
    bn.running_var.flags.writeable = False


def spoil_missing(bn):
    bn.beta = None


def spoil_length(bn):
    object.__setattr__(bn, "gamma", np.ones(7, np.float32))    # an assignment would refuse it


@pytest.mark.parametrize(("spoil", "error", "message"), [
    (spoil_read_only, ValueError, "running_var is read-only"),
    (spoil_missing, ValueError, "state also has bias; expected weight, running_mean, running_var"),
    (spoil_length, ValueError, r"gamma has shape \(7,\); expected \(3,\)"),
])
def test_a_load_that_cannot_be_finished_is_not_begun(spoil, error, message):
    bn = BatchNorm(3).eval()
    spoil(bn)
    before = {name: copy.copy(getattr(bn, name)) for name in ("gamma", "beta", "running_mean", "running_var")}
    state = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), np.full(3, 7.0))
    with pytest.raises(error, match=message):
        bn.load_state_dict(state)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(bn, name), value)
    # And the layer goes on by what it has.
    bn.gamma, bn.beta = np.full(3, 2.0), np.zeros(3)
    np.testing.assert_allclose(bn(np.ones((1, 3))), 2, rtol=1e-5)


def test_a_state_goes_into_arrays_of_any_layout():
    bn = BatchNorm(3).eval()
    bn.gamma, bn.beta = np.zeros(6)[::2], np.zeros(3, np.float32)[::-1]
    gamma, beta = bn.gamma, bn.beta
    bn.load_state_dict({"weight": [1.0, 2.0, 3.0], "bias": [4.0, 5.0, 6.0], "running_mean": np.zeros(3),
                        "running_var": np.ones(3)})
    assert bn.gamma is gamma
    np.testing.assert_array_equal(gamma, [1, 2, 3])
    np.testing.assert_array_equal(beta, [4, 5, 6])
    np.testing.assert_array_equal(bn.state_dict()["bias"], [4, 5, 6])
