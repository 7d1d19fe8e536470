"""The layer GroupNorm: modes, gradients, state, attributes, copies."""

import copy
import gc
import pickle

import numpy as np
import pytest

from fastbn import GroupNorm
from fastbn.functional import group_norm_backward, group_norm_training
from tests.awkward import misaligned
from tests.compare import same_bits
from tests.groups import inputs

SHAPE = (4, 6, 5, 3)


def layer(i, groups=2, **options):
    gn = GroupNorm(groups, 6, axis=i.axis, dtype=i.gamma.dtype, **options)
    if gn.gamma is not None:
        gn.gamma[...] = i.gamma[: len(gn.gamma)]
    if gn.beta is not None:
        gn.beta[...] = i.beta[: len(gn.beta)]
    return gn


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", ["planes", "rows"])
@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"activation": "silu"}, {"residual": True},
                                     {"residual": True, "activation": "relu"}], ids=str)
def test_it_computes_what_the_functions_do(layout, options, training, dtype):
    i = inputs(SHAPE, layout, dtype)
    options = options | ({"residual": i.residual} if "residual" in options else {})
    gn = layer(i).train(training)
    want, saved = group_norm_training(i.x, 2, i.gamma, i.beta, axis=i.axis, **options)
    same_bits(gn(i.x, **options), want)
    right = group_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    for _ in range(2):      # again from the same forward pass
        dx = gn.backward(i.dy)
        if "residual" in options:
            dx, dresidual = dx
            same_bits(dresidual, right[3])
        same_bits(dx, right[0])
        same_bits(gn.grad_gamma, right[1].astype(i.gamma.dtype))
        same_bits(gn.grad_beta, right[2].astype(i.gamma.dtype))
    out = np.zeros_like(i.x)
    assert gn(i.x, out=out, **options) is out
    same_bits(out, want)


def test_parameters_of_groups():
    i = inputs(SHAPE, "planes")
    gn = layer(i, 3, per_group=True)
    assert gn.gamma.shape == gn.beta.shape == (3,)
    want, saved = group_norm_training(i.x, 3, i.gamma[:3], i.beta[:3])
    same_bits(gn(i.x), want)
    gn.backward(i.dy)
    sums = group_norm_backward(i.dy, i.x, saved, i.gamma[:3])
    same_bits(gn.grad_gamma, sums[1].astype(np.float32))
    same_bits(gn.grad_beta, sums[2].astype(np.float32))
    assert repr(gn) == "GroupNorm(3, 6, per_group=True)"


@pytest.mark.parametrize(("options", "names"), [
    ({}, {"weight", "bias"}), ({"affine": False}, set()), ({"center": False}, {"weight"}), ({"scale": False}, {"bias"}),
    ({"affine": False, "center": True}, {"bias"})], ids=str)
def test_state(options, names):
    i = inputs(SHAPE, "planes")
    gn = layer(i, **options)
    state = gn.state_dict()
    assert set(state) == names
    other = GroupNorm(2, 6, **options)
    other.load_state_dict(state)
    same_bits(other(i.x), gn(i.x))
    gn.backward(i.dy)
    assert (gn.grad_gamma is None, gn.grad_beta is None) == ("weight" not in names, "bias" not in names)


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"weight": np.ones(2)}, ValueError, r"weight has shape \(2,\); expected \(6,\)"),
    ({"running_mean": np.ones(6)}, ValueError, "state also has running_mean; expected weight, bias"),
    ({"bias": np.full(6, np.inf)}, ValueError, "bias has values that are not finite"),
    ({"bias": np.ones(6, int)}, TypeError, "bias has dtype int64"),
])
def test_a_bad_state_changes_nothing(change, error, message):
    gn = GroupNorm(2, 6)
    before = gn.state_dict()
    with pytest.raises(error, match=message):
        gn.load_state_dict({"weight": np.full(6, 3.0), "bias": np.full(6, 3.0)} | change)
    for name, value in gn.state_dict().items():
        same_bits(value, before[name])


@pytest.mark.parametrize(("layer", "text"), [
    (GroupNorm(2, 6), "GroupNorm(2, 6)"),
    (GroupNorm(3, 6, 1e-3, False, axis=-1, num_threads=2),
     "GroupNorm(3, 6, eps=0.001, affine=False, axis=-1, num_threads=2)"),
    (GroupNorm(3, 6, center=False, dtype="float64").eval(),
     "GroupNorm(3, 6, center=False, dtype=float64, training=False)"),
])
def test_repr(layer, text):
    assert repr(layer) == text


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda gn: pickle.loads(pickle.dumps(gn))])
def test_copies_are_independent(duplicate):
    i = inputs(SHAPE, "planes")
    gn = layer(i)
    y = gn(i.x)
    other = duplicate(gn)
    same_bits(other(i.x), y)
    gn.gamma[...] = 0
    same_bits(other(i.x), y)
    assert repr(other) == repr(gn)
    with pytest.raises(RuntimeError, match="backward needs a forward pass"):
        duplicate(gn).backward(i.dy)


@pytest.mark.parametrize(("arguments", "options", "error", "message"), [
    ((4, 6), {}, ValueError, "num_groups must divide num_channels, got 4 and 6"),
    ((0, 6), {}, ValueError, "num_groups must be at least 1, got 0"),
    ((2, 0), {}, ValueError, "num_channels must be at least 1, got 0"),
    ((2.0, 6), {}, TypeError, "num_groups must be an integer, got 2.0"),
    ((2, 6, "a"), {}, TypeError, "eps must be a number, got 'a'"),
    ((2, 6, 1e-5, 1), {}, TypeError, "affine must be True or False, got 1"),
    ((2, 6), {"axis": 0}, ValueError, "axis must be that of the channels, and 0 is that of the samples; got 0"),
    ((2, 6), {"scale": "yes"}, TypeError, "scale must be True or False, got 'yes'"),
    ((2, 6), {"per_group": 1}, TypeError, "per_group must be True or False, got 1"),
    ((2, 6), {"dtype": "float16"}, TypeError, "dtype must be float32 or float64, got float16"),
    ((2, 6), {"num_threads": 0}, ValueError, "num_threads must be between 1"),
], ids=str)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        GroupNorm(*arguments, **options)


@pytest.mark.parametrize(("name", "value", "error", "message"), [
    ("num_groups", 3, AttributeError, "num_groups of a GroupNorm cannot be assigned; make a new layer"),
    ("num_channels", 3, AttributeError, "num_channels of a GroupNorm cannot be assigned"),
    ("per_group", True, AttributeError, "per_group of a GroupNorm cannot be assigned"),
    ("affine", False, AttributeError, "affine of a GroupNorm cannot be assigned"),
    ("axis", 0, ValueError, "axis must be that of the channels"), ("eps", -1, ValueError, "eps must be"),
    ("gamma", np.ones(2), ValueError, r"gamma has shape \(2,\); expected \(6,\)"),
    ("beta", misaligned(np.ones(6)), ValueError, "beta is misaligned"),
    ("weight", np.ones(6), AttributeError, "a GroupNorm has no attribute weight; it is called gamma"),
    ("momentum", 0.1, AttributeError, "a GroupNorm has no attribute momentum"),
], ids=str)
def test_bad_assignments(name, value, error, message):
    gn = GroupNorm(2, 6)
    with pytest.raises(error, match=message):
        setattr(gn, name, value)


def test_bad_calls():
    i = inputs(SHAPE, "planes")
    gn = layer(i)
    with pytest.raises(RuntimeError, match=r"backward needs a forward pass first$"):
        gn.backward(i.dy)
    y = gn(i.x)
    for bad in (lambda: gn(i.x[:, :4]), lambda: gn(i.x, i.residual[:2]), lambda: gn(i.x, i.residual, "silu")):
        with pytest.raises(ValueError, match=r"x has shape|residual has shape|activation must be None or"):
            bad()
    with pytest.raises(ValueError, match="dy has shape"):
        gn.backward(i.dy[:2])
    assert gn.backward(y).shape == SHAPE       # of the last pass that was not refused
    gn.gamma = None
    gn.backward(i.dy)
    assert gn.grad_gamma is None


def test_evaluation_keeps_no_reference_to_x():
    gn = GroupNorm(2, 6).eval()
    y = gn(np.random.default_rng(0).standard_normal(SHAPE))
    gc.collect()
    with pytest.raises(RuntimeError, match="x of the last forward pass no longer exists"):
        gn.backward(y)
    x = np.random.default_rng(0).standard_normal(SHAPE)
    gn(x, out=x)
    with pytest.raises(RuntimeError, match="a result was written over the x"):
        gn.backward(y)
    residual = np.ones_like(x)
    gn(x, residual, "relu", out=residual)
    with pytest.raises(RuntimeError, match="a result was written over the x or the residual"):
        gn.backward(y)


def test_training_in_place():
    gn = GroupNorm(2, 6)
    x = np.random.default_rng(0).standard_normal(SHAPE)
    gn(x, out=x)
    with pytest.raises(RuntimeError, match="a result was written over the x"):
        gn.backward(x)
    residual = np.ones_like(x)
    y = gn(x, residual, "relu", out=residual)      # its bits are kept
    gn.backward(y)
    dx = gn.backward(y, out=x)[0]
    assert dx is x
    with pytest.raises(RuntimeError, match="a result was written over the x"):
        gn.backward(y)
