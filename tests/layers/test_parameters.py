"""Layers with a gamma alone, with a beta alone, and with neither: 1 and 0 take the place of what is not there."""

import copy
import pickle

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm
from tests.compare import same_bits
from tests.folding.convolutions import conv
from tests.layers.trained import batches

KINDS = {"gamma": (True, False), "beta": (False, True), "neither": (False, False)}
kinds = pytest.mark.parametrize("kind", KINDS)
G, B = np.float32([1, -2, 0.5, 3, 0.1]), np.float32([0, 1, -1, 0.5, 2])


def pair(kind, **options):
    """A layer without some parameters, and one that has 1 and 0 in their place; both have seen a batch."""
    scale, center = KINDS[kind]
    bn, full = BatchNorm(5, scale=scale, center=center, **options), BatchNorm(5, **options)
    for layer in (bn, full):
        if scale:
            layer.gamma = G.copy()
        if center:
            layer.beta = B.copy()
        layer(batches()[0])
    return bn, full


def same_gradients(bn, full):
    for name, there in (("grad_gamma", bn.scale), ("grad_beta", bn.center)):
        if there:
            same_bits(getattr(bn, name), getattr(full, name))
        else:
            assert getattr(bn, name) is None


@pytest.mark.parametrize(("options", "scale", "center", "text"), [
    ({}, True, True, "BatchNorm(3)"),
    ({"affine": False}, False, False, "BatchNorm(3, affine=False)"),
    ({"center": False}, True, False, "BatchNorm(3, center=False)"),
    ({"scale": False}, False, True, "BatchNorm(3, scale=False)"),
    ({"scale": False, "center": False}, False, False, "BatchNorm(3, affine=False)"),
    ({"affine": False, "scale": True}, True, False, "BatchNorm(3, center=False)"),
    ({"affine": False, "center": True}, False, True, "BatchNorm(3, scale=False)"),
], ids=str)
def test_constructor(options, scale, center, text):
    bn = BatchNorm(3, **options)
    assert (bn.scale, bn.center, bn.affine) == (scale, center, scale or center)
    assert ((bn.gamma is not None), (bn.beta is not None)) == (scale, center)
    assert repr(bn) == text
    again = eval(repr(bn), {"BatchNorm": BatchNorm})
    assert (again.scale, again.center) == (scale, center)


def test_text_of_a_derived_class():
    class Wide(BatchNorm):
        def __init__(self, num_features, *, width=1, **settings):
            super().__init__(num_features * width, eps=1e-3, **settings)

    assert repr(Wide(3, width=2, center=False)) == "Wide(6, eps=0.001, center=False)"


@pytest.mark.parametrize("name", ["scale", "center"])
def test_bad_flags(name):
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 1"):
        BatchNorm(3, **{name: 1})
    with pytest.raises(AttributeError, match=f"{name} of a BatchNorm cannot be assigned; assign (gamma|beta), or None"):
        setattr(BatchNorm(3), name, False)


@kinds
@pytest.mark.parametrize("training", [True, False])
def test_forward_and_backward(kind, training, activation, with_residual):
    bn, full = (layer.train(training) for layer in pair(kind))
    x, r, dy = batches()[1:]
    results = {}
    for layer in (bn, full):
        results[layer] = layer(x, r if with_residual else None, activation), layer.backward(dy)
    for got, want in zip(*results.values(), strict=True):
        np.testing.assert_array_equal(got, want)
    same_gradients(bn, full)


@kinds
def test_masked_frozen_accumulated_and_reported(kind):
    bn, full = pair(kind)
    x, dy = batches()[1:3]
    mask = np.arange(3) < 2
    results = {}
    for layer in (bn, full):
        results[layer] = [layer(x, mask=mask), layer.backward(dy)]
        whole = layer.accumulate([x[:4], x[4:]])
        results[layer] += [whole(x[:4]), whole(x[4:]), *whole.backward([dy[:4], dy[4:]])]
    same_gradients(bn, full)
    for layer in (bn, full):
        report = layer.report(x)
        results[layer] += [report.scale, report.drift, layer.frozen()(x)]
        results[layer] += [layer.eval()(x, mask=mask), layer.backward(dy)]
    for got, want in zip(*results.values(), strict=True):
        same_bits(got, want)
    same_gradients(bn, full)


@kinds
def test_folds(kind):
    bn, full = pair(kind)
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((5, 4, 3, 3)).astype(np.float32)
    x = rng.standard_normal((2, 4, 6, 6))
    folded, other = (fastbn.fold_conv(weight, None, layer) for layer in (bn, full))
    same_bits(folded.weight, other.weight)
    same_bits(folded.bias, other.bias)
    np.testing.assert_allclose(
        conv(x, folded.weight, folded.bias).astype(float), bn.eval()(conv(x, weight, None).astype(float)), atol=1e-5)


@kinds
@pytest.mark.parametrize("how", ["assigned None", "state", "copy", "deepcopy", "pickle", ".npz", ".safetensors"])
def test_state_and_copies(kind, how, tmp_path):
    bn, full = pair(kind)
    if how == "assigned None":
        other = full
        other.gamma, other.beta = (v if there else None for v, there in zip((G, B), KINDS[kind], strict=True))
    elif how == "state":
        other = BatchNorm(5, scale=bn.scale, center=bn.center)
        other.load_state_dict(bn.state_dict())
    elif how.startswith("."):
        bn.save(tmp_path / f"layer{how}")
        other = BatchNorm.load(tmp_path / f"layer{how}")
    else:
        other = pickle.loads(pickle.dumps(bn)) if how == "pickle" else getattr(copy, how)(bn)
    assert repr(other) == repr(bn)
    state = other.state_dict()
    assert ("weight" in state, "bias" in state) == KINDS[kind]
    for name, value in bn.state_dict().items():
        same_bits(state[name], value)
    same_bits(other.eval()(batches()[2]), bn.eval()(batches()[2]))


def test_a_state_has_the_parameters_that_the_layer_has():
    state, V = BatchNorm(3).state_dict(), np.ones(3)
    with pytest.raises(ValueError, match="state also has bias; expected weight, running_mean, running_var"):
        BatchNorm(3, center=False).load_state_dict(state)
    with pytest.raises(ValueError, match="state is missing weight; expected weight, bias, running_mean, running_var"):
        BatchNorm(3).load_state_dict({"bias": V, "running_mean": V, "running_var": V})


def test_gradients_of_a_parameter_that_has_gone_are_gone():
    bn, _ = pair("gamma")
    bn.beta = B.copy()
    bn(batches()[1])
    bn.backward(batches()[2])
    assert bn.grad_beta is not None
    bn.beta = None
    bn.backward(batches()[2])
    assert bn.grad_beta is None
