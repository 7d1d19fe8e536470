"""Bad calls of group norm and instance norm: errors name the argument, and come before anything is written."""

import copy
import pickle

import numpy as np
import pytest

from fastbn._core.kept import Kept
from fastbn.functional import (
    Saved,
    batch_norm_backward,
    batch_norm_training,
    group_norm_backward,
    group_norm_inference,
    group_norm_training,
    instance_norm_backward,
    instance_norm_backward_backward,
    instance_norm_inference,
    instance_norm_jvp,
    instance_norm_training,
)
from tests.compare import same_bits
from tests.functional.test_errors import BAD_OPTIONS, BAD_THREADS, BAD_X

X = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
SIX = np.random.default_rng(1).standard_normal((4, 6, 5, 2)).astype(np.float32)


def group_training(x, **options):
    return group_norm_training(x, 3, **options)


def group_inference(x, **options):
    return group_norm_inference(x, 3, **options)


FORWARDS = [group_training, group_inference, instance_norm_training, instance_norm_inference]
forwards = pytest.mark.parametrize("call", FORWARDS)


@forwards
@pytest.mark.parametrize("name", BAD_X)
def test_x(call, name):
    x, error, message = BAD_X[name]
    with pytest.raises(error, match=message):
        call(x)


@forwards
@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options(call, name):
    options, error, message = BAD_OPTIONS[name]
    out = np.full_like(X, 7)
    with pytest.raises(error, match=message):
        call(X, **{"out": out} | options)
    assert (out == 7).all()


@forwards
@pytest.mark.parametrize("name", BAD_THREADS)
def test_num_threads(call, name):
    threads, error, message = BAD_THREADS[name]
    with pytest.raises(error, match=message):
        call(X, num_threads=threads)


@pytest.mark.parametrize(("groups", "error", "message"), [
    (0, ValueError, "num_groups must be at least 1, got 0"), (-2, ValueError, "num_groups must be at least 1, got -2"),
    (4, ValueError, "num_groups must divide the 6 channels of x, got 4"),
    (12, ValueError, "num_groups must divide the 6 channels of x, got 12"),
    (2.0, TypeError, "num_groups must be an integer, got 2.0"), (True, TypeError, "num_groups must be an integer"),
    (None, TypeError, "num_groups must be an integer, got None"),
], ids=str)
@pytest.mark.parametrize("call", [group_norm_training, group_norm_inference])
def test_groups(call, groups, error, message):
    with pytest.raises(error, match=message):
        call(SIX, groups)


@pytest.mark.parametrize(("values", "error", "message"), [
    (np.ones(3), ValueError, r"gamma has shape \(3,\); expected \(6,\), or \(2,\) for one value per group"),
    (np.ones((6, 1)), ValueError, r"gamma has shape \(6, 1\); expected \(6,\), or \(2,\)"),
    (np.ones(2, int), TypeError, "gamma has dtype int64; expected float32 or float64"),
    (np.ones(2, np.float16), TypeError, "gamma has dtype float16; expected float32 or float64"),
    (np.ma.array([1.0, 2.0]), TypeError, "gamma is a masked array"),
    ([[1.0], [1.0, 2.0]], ValueError, "gamma cannot be converted to an array"),
], ids=["length", "2-d", "integers", "float16", "masked", "jagged"])
def test_parameters(values, error, message):
    saved = group_norm_training(SIX, 2)[1]
    out = np.full_like(SIX, 7)
    for name in ("gamma", "beta"):
        for call in (group_norm_training, group_norm_inference):
            with pytest.raises(error, match=message.replace("gamma", name)):
                call(SIX, 2, **{name: values}, out=out)
    with pytest.raises(error, match=message):
        group_norm_backward(SIX, SIX, saved, values, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("axis", [0, -3])
@forwards
def test_the_axis_of_the_samples(call, axis):
    with pytest.raises(ValueError, match=f"axis {axis} of x is the axis of the samples; expected that of the channels"):
        call(X[:3], axis=axis)


@pytest.mark.parametrize("call", [group_norm_training, group_norm_inference])
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)], ids=str)
def test_a_single_value_per_group_of_a_single_sample(call, shape):
    out = np.full(shape, 7.0)
    with pytest.raises(ValueError, match=r"x has .* one sample with one value in each of 3 groups.*use fewer groups"):
        call(np.ones(shape), 3, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("call", [instance_norm_training, instance_norm_inference])
@pytest.mark.parametrize("shape", [(1, 3), (5, 3), (2, 3, 1, 1)], ids=str)
def test_a_single_value_per_instance(call, shape):
    out = np.full(shape, 7.0)
    with pytest.raises(ValueError, match=r"x has .* one value per channel of each sample, so there is no variance"):
        call(np.ones(shape), out=out)
    assert (out == 7).all()


GROUPED = group_norm_training(SIX, 2)[1]


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((SIX[:2], SIX, GROUPED), ValueError, r"dy has shape \(2, 6, 5, 2\); expected the shape of x, \(4, 6, 5, 2\)"),
    ((SIX.astype(float), SIX, GROUPED), TypeError, "dy has dtype float64; expected that of x, float32"),
    ((SIX, SIX, None), TypeError, "saved must be a GroupSaved, the second value of group_norm_training, got NoneType"),
    ((SIX, SIX, batch_norm_training(SIX)[1]), TypeError, "saved must be a GroupSaved, .*, got Saved"),
    ((SIX[:2], SIX[:2], GROUPED), ValueError, r"x has shape \(2, 6, 5, 2\); expected that of the forward pass, \(4, 6"),
    ((SIX, SIX, GROUPED, None, -1), ValueError, "axis -1 is not that of the forward pass, 1"),
    ((SIX, SIX, GROUPED, None, 0), ValueError, "axis 0 of x is the axis of the samples"),
], ids=["dy shape", "dy dtype", "no saved", "batch norm's", "x shape", "axis", "axis of samples"])
def test_backward(arguments, error, message):
    axis = arguments[4] if len(arguments) == 5 else 1
    with pytest.raises(error, match=message):
        group_norm_backward(*arguments[:4], axis=axis)


def test_what_another_member_saves():
    with pytest.raises(TypeError, match="saved must be a GroupSaved, the second value of instance_norm_training"):
        instance_norm_backward(SIX, SIX, Saved.from_statistics(np.zeros(6), np.ones(6)))
    with pytest.raises(TypeError, match=r"saved must be a Saved, .* of batch_norm_training, got GroupSaved"):
        batch_norm_backward(SIX, SIX, GROUPED)


@pytest.mark.parametrize("call", [
    lambda saved: instance_norm_backward(SIX, SIX, saved),
    lambda saved: instance_norm_backward_backward(SIX, None, None, SIX, SIX, saved),
    lambda saved: instance_norm_jvp(SIX, SIX, saved),
], ids=["backward", "backward_backward", "jvp"])
def test_instance_norm_takes_what_a_group_norm_saves_only_with_a_group_per_channel(call):
    message = "saved is of a group norm with 2 groups; expected that of an instance norm, one group for each of 6 chan"
    with pytest.raises(ValueError, match=message):
        call(GROUPED)
    first, right = (call(saved) for saved in (group_norm_training(SIX, 6)[1], instance_norm_training(SIX)[1]))
    same_bits(np.asarray(first[0]), np.asarray(right[0]))


def of_residual():
    """What a ReLU after a residual leaves: bits, in an order of memory."""
    x = SIX.transpose(0, 1, 3, 2)
    return x, group_norm_training(x, 2, residual=x, activation="relu")[1]


def of_relu():
    """What a ReLU leaves: scale and shift, by which it is computed again."""
    return SIX, group_norm_training(SIX, 2, activation="relu")[1]


def of_none():
    return SIX, group_norm_training(SIX, 2)[1]


MAKE = {"residual": of_residual, "relu": of_relu, "none": of_none}
KEPT = of_residual()[1]._kept
BITS = KEPT.bits
BAD = [
    (kind, name, value) for kind in MAKE for name in ("mean", "rstd", "low") for value in (
        7, "abc", [1.0] * 8, np.ones(6), np.ones(2), np.ones((4, 2)), np.ones(1 << 20), np.ones(8, object))
] + [
    (kind, name, value) for kind in MAKE for name, value in (
        ("mean", None), ("rstd", None), ("frozen", None), ("frozen", True), ("_kept", 7), ("_kept", tuple(KEPT)),
        ("_groups", 3), ("_groups", 4), ("_groups", 0), ("_groups", -2), ("_groups", 2.0), ("_groups", None),
        ("_per_group", None), ("_per_group", (1, 0)), ("_per_group", (True,)), ("_shape", (4, 6, 10)), ("_shape", None),
        ("_shape", np.ones(4)), ("_axis", 2), ("_axis", np.ones(2)), ("_residual", np.ones(2)), ("_residual", None),
        ("activation", (99, 0.0)), ("activation", None))
] + [
    ("residual", "bits", value) for value in (
        7, None, BITS[:-1], np.append(BITS, BITS), BITS.astype(np.int16), BITS[None])
] + [
    ("residual", "_arrangement", value) for value in (
        7, (), (1,), [1, None], (0, None), (9, None), (1, (0, 1, 2)), (1, (0, 1, 2, 9)), (0, (1, 0, 3, 2)),
        (1, (3, 1, 2, 0)), (3, (3, 2, 0, 1)))
] + [
    ("residual", "_residual", False), ("residual", "scale", np.ones(24)), ("relu", "_residual", True),
    ("relu", "scale", np.ones(6)), ("relu", "scale", None), ("relu", "shift", np.ones(24)), ("relu", "bits", BITS),
    ("none", "bits", BITS), ("none", "scale", np.ones(24)), ("none", "activation", (5, 0.0)),
    ("residual", "activation", (5, 0.0)),
]


@pytest.mark.parametrize(("kind", "name", "value"), BAD, ids=[f"{k} {n} {v!r:.30}" for k, n, v in BAD])
@pytest.mark.parametrize("how", ["as it is", "pickled"])
def test_a_spoiled_one_is_refused_before_anything_is_written(kind, name, value, how):
    x, saved = MAKE[kind]()
    if name in Kept._fields:
        name, value = "_kept", saved._kept._replace(**{name: value})
    setattr(saved, name, value)
    if how == "pickled":
        saved = pickle.loads(pickle.dumps(saved))
    out = np.full_like(x, 7)
    with pytest.raises((TypeError, ValueError)) as refused:
        group_norm_backward(x, x, saved, out=out)
    assert "truth value" not in str(refused.value)
    assert (out == 7).all()


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda saved: pickle.loads(pickle.dumps(saved))],
                         ids=["copy", "deepcopy", "pickle"])
def test_copies(kind, duplicate):
    x, saved = MAKE[kind]()
    other = duplicate(saved)
    assert repr(other) == repr(saved) == "GroupSaved(4, 2, count=30)"
    for a, b in zip(group_norm_backward(x, x, other), group_norm_backward(x, x, saved), strict=True):
        same_bits(a, b)


def test_the_statistics_are_read_only():
    for name in ("mean", "var", "rstd"):
        with pytest.raises(AttributeError):
            setattr(GROUPED, name, 1)
        with pytest.raises(ValueError, match="read-only"):
            getattr(GROUPED, name)[...] = 0
