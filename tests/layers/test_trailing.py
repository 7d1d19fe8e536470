"""The layers of layer norm and RMS norm: what is theirs beyond the functions without state."""

import copy
import gc
import pickle
import threading

import numpy as np
import pytest

import fastbn
from fastbn import LayerNorm, RMSNorm
from tests.awkward import misaligned, strided, swapped
from tests.compare import same_bits
from tests.trailing import MEMBERS, inputs

SHAPE, NORMALIZED = (4, 6, 5), (6, 5)
G = inputs(SHAPE, NORMALIZED)


@pytest.fixture(params=MEMBERS)
def member(request):
    return MEMBERS[request.param]


def layer_of(member, **settings):
    layer = member.layer(NORMALIZED, 1e-5, **settings)
    layer.gamma[...] = G.gamma
    if not member.about_zero:
        layer.beta[...] = G.beta
    return layer


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("activation", "with_residual"), [(None, False), (None, True), ("relu", False), ("relu", True),
                                                           ("silu", False), (("elu", 0.5), False)], ids=str)
def test_both_modes_are_the_functions(training, activation, with_residual, member):
    layer = layer_of(member).train(training)
    how = {"residual": G.residual if with_residual else None, "activation": activation}
    y = layer(G.x, **how)
    want, saved = member.train(G.x, NORMALIZED, G.gamma, G.beta, **how)
    same_bits(y, want)
    dx, dgamma, dbeta, *dresidual = member.gradients(G.dy, G.x, saved, G.gamma)
    got = layer.backward(G.dy)
    same_bits(got[0] if with_residual else got, dx)
    if with_residual:
        same_bits(got[1], dresidual[0])
    same_bits(layer.grad_gamma, dgamma.astype(np.float32))
    if member.about_zero:
        assert layer.grad_beta is None
    else:
        same_bits(layer.grad_beta, dbeta.astype(np.float32))


@pytest.mark.parametrize("training", [True, False])
def test_into_buffers(training, member):
    layer = layer_of(member).train(training)
    want = layer(G.x)
    dx = layer.backward(G.dy)
    out = np.empty_like(G.x)
    assert layer(G.x, out=out) is out
    same_bits(out, want)
    dy = G.dy.copy()
    assert layer.backward(dy, out=dy) is dy
    same_bits(dy, dx)
    x = G.x.copy()
    layer(x)
    assert layer.backward(G.dy, out=x) is x
    same_bits(x, dx)
    with pytest.raises(RuntimeError, match="a result was written over the x"):
        layer.backward(G.dy)


@pytest.mark.parametrize("training", [True, False])
def test_in_place_has_no_backward(training, member):
    layer = layer_of(member).train(training)
    x = G.x.copy()
    want = layer(G.x)
    same_bits(layer(x, out=x), want)
    with pytest.raises(RuntimeError, match="a result was written over the x"):
        layer.backward(G.dy)


def test_over_the_residual(member):
    layer = layer_of(member)
    residual = G.residual.copy()
    layer(G.x, G.residual, "relu")
    want = layer.backward(G.dy)
    layer(G.x, residual, "relu", out=residual)          # training keeps the bits of the ReLU
    for got, expected in zip(layer.backward(G.dy), want, strict=True):
        same_bits(got, expected)
    residual = G.residual.copy()
    layer.eval()(G.x, residual, "relu", out=residual)   # evaluation does not
    with pytest.raises(RuntimeError, match="a result was written over the x or the residual"):
        layer.backward(G.dy)


def test_what_is_kept(member):
    layer = layer_of(member)
    layer(G.x.copy())
    gc.collect()
    layer.backward(G.dy)                    # training keeps x
    layer.eval()(G.x.copy())
    gc.collect()
    with pytest.raises(RuntimeError, match="x of the last forward pass no longer exists"):
        layer.backward(G.dy)


def test_evaluation_allows_any_activation_after_a_residual(member):
    layer = layer_of(member).eval()
    want = member.infer(G.x, NORMALIZED, G.gamma, G.beta, residual=G.residual, activation="silu")
    same_bits(layer(G.x, G.residual, "silu"), want)
    with pytest.raises(RuntimeError, match="was silu, after a residual"):
        layer.backward(G.dy)
    with pytest.raises(ValueError, match="after a residual in training"):
        layer.train()(G.x, G.residual, "silu")


def test_a_refused_call_keeps_the_last_one(member):
    layer = layer_of(member)
    layer(G.x)
    want = layer.backward(G.dy)
    with pytest.raises(ValueError, match="x has shape"):
        layer(G.x[:, :5])
    same_bits(layer.backward(G.dy), want)
    with pytest.raises(RuntimeError, match=r"backward needs a forward pass first$"):
        copy.copy(layer).backward(G.dy)


REPR = [
    (LayerNorm(4), "LayerNorm(4)"),
    (LayerNorm((3, 4), 1e-3), "LayerNorm((3, 4), eps=0.001)"),
    (LayerNorm([4], elementwise_affine=False), "LayerNorm(4, elementwise_affine=False)"),
    (LayerNorm(4, bias=False), "LayerNorm(4, center=False)"),
    (LayerNorm(4, scale=False), "LayerNorm(4, scale=False)"),
    (LayerNorm(4, dtype=np.float64, num_threads=2), "LayerNorm(4, dtype=float64, num_threads=2)"),
    (LayerNorm(4, 1e-5, False, center=True), "LayerNorm(4, scale=False)"),
    (LayerNorm(4).eval(), "LayerNorm(4, training=False)"),
    (RMSNorm(4), "RMSNorm(4)"),
    (RMSNorm((3, 4), 1e-3), "RMSNorm((3, 4), eps=0.001)"),
    (RMSNorm(4, elementwise_affine=False), "RMSNorm(4, elementwise_affine=False)"),
]


@pytest.mark.parametrize(("layer", "text"), REPR, ids=lambda value: str(value))
def test_repr(layer, text):
    assert repr(layer) == text


def test_parameters():
    assert LayerNorm(4).beta.shape == LayerNorm((4,)).gamma.shape == (4,)
    assert RMSNorm((3, 4)).gamma.shape == (3, 4)
    assert RMSNorm(4).beta is None
    for layer, scale, center in (
            (LayerNorm(4, 1e-5, False), False, False), (LayerNorm(4, 1e-5, True, False), True, False),
            (LayerNorm(4, 1e-5, False, True), False, False), (LayerNorm(4, center=False), True, False),
            (LayerNorm(4, scale=False), False, True), (RMSNorm(4, None, False), False, False)):
        assert (layer.scale, layer.center) == (scale, center)
        assert layer.affine == layer.elementwise_affine == (scale or center)
        y = layer(G.x[..., :4])
        layer.backward(np.ones_like(y))
        assert (layer.grad_gamma is not None, layer.grad_beta is not None) == (scale, center)
        if center:
            np.testing.assert_array_equal(layer.grad_beta, np.full(4, 24))
    for shape, lengths in (
            (4, (4,)), ([4], (4,)), (np.int32(4), (4,)), (np.array(4), (4,)), (np.array([2, 3]), (2, 3)),
            ((k for k in (2, 3)), (2, 3))):
        assert LayerNorm(shape).normalized_shape == lengths
    assert RMSNorm(4).eps is None
    assert RMSNorm(4, dtype=None).gamma.dtype == np.float32


BAD = {
    "normalized_shape": [((3, 4), AttributeError, "normalized_shape of an? .*Norm cannot be .*; make a new layer")],
    "elementwise_affine": [(False, AttributeError, "elementwise_affine .* cannot be assigned; assign gamma")],
    "dtype": [(np.float64, AttributeError, "dtype of an? .*Norm cannot be assigned; make a new layer")],
    "eps": [(-1, ValueError, "eps must be .*, got -1"), ("small", TypeError, "eps must be a number, got 'small'")],
    "training": [(1, TypeError, "training must be True or False, got 1")],
    "num_threads": [(0, ValueError, "num_threads must be between 1 and [0-9]+, got 0")],
    "gamma": [(np.ones(30), ValueError, r"gamma has shape \(30,\); expected \(6, 5\)"),
              (np.ones(NORMALIZED, int), TypeError, "gamma has dtype int64; expected float32 or float64"),
              (swapped(np.ones(NORMALIZED)), ValueError, "gamma is byte-swapped"),
              (misaligned(np.ones(NORMALIZED)), ValueError, "gamma is misaligned"),
              (strided(np.ones(NORMALIZED)), ValueError, "gamma is not contiguous")],
    "axis": [(1, AttributeError, "an? .*Norm has no attribute axis")],
    "momentum": [(1, AttributeError, "an? .*Norm has no attribute momentum")],
}


@pytest.mark.parametrize(("name", "value", "error", "message"),
                         [(name, *case) for name, cases in BAD.items() for case in cases], ids=str)
def test_a_bad_assignment_changes_nothing(name, value, error, message, member):
    layer = layer_of(member)
    before = layer(G.x)
    with pytest.raises(error, match=message):
        setattr(layer, name, value)
    same_bits(layer(G.x), before)


def test_assignments(member):
    layer = member.layer(NORMALIZED, 1e-5)
    gamma = G.gamma.astype(np.float64)
    layer.gamma = gamma
    assert layer.gamma is gamma
    same_bits(layer(G.x), member.infer(G.x, NORMALIZED, gamma))
    layer.gamma = None
    assert not layer.scale
    same_bits(layer(G.x), member.infer(G.x, NORMALIZED))
    layer.eps = 0.5
    same_bits(layer(G.x), member.infer(G.x, NORMALIZED, eps=0.5))
    if member.about_zero:
        layer.eps = None
        with pytest.raises(AttributeError, match="beta of an RMSNorm cannot be assigned; an RMS norm has none"):
            layer.beta = G.beta
    else:
        with pytest.raises(TypeError, match="eps must be a number"):
            layer.eps = None
    with pytest.raises(AttributeError, match="has no attribute weight; it is called gamma"):
        _ = layer.weight


BAD_ARGUMENTS = [
    (((),), {}, ValueError, "normalized_shape must have one or more axes"),
    ((-1,), {}, ValueError, "normalized_shape must be at least 0, got -1"),
    ((4.0,), {}, TypeError, "normalized_shape must be an integer or a sequence of integers, got 4.0"),
    ((4, -1.0), {}, ValueError, "eps must be 0, or finite"),
    ((4, 1e-5, 1), {}, TypeError, "elementwise_affine must be True or False, got 1"),
    ((4,), {"dtype": np.float16}, TypeError, "dtype must be float32 or float64, got float16"),
    ((4,), {"num_threads": 0}, ValueError, "num_threads must be between 1"),
]


@pytest.mark.parametrize(("arguments", "settings", "error", "message"), BAD_ARGUMENTS, ids=str)
def test_bad_arguments(arguments, settings, error, message, member):
    with pytest.raises(error, match=message):
        member.layer(*arguments, **settings)


def test_backward_without_a_forward_pass(member):
    with pytest.raises(RuntimeError, match=r"^backward needs a forward pass first$"):
        member.layer(NORMALIZED).backward(G.dy)


def test_bad_flags_of_layer_norm():
    for name in ("bias", "scale", "center"):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got 1"):
            LayerNorm(4, **{name: 1})


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
                         ids=["copy", "deepcopy", "pickle"])
def test_copies_are_independent(how, member):
    layer = layer_of(member, num_threads=1).eval()
    want = layer(G.x)
    other = how(layer)
    assert repr(other) == repr(layer)
    same_bits(other(G.x), want)
    other.gamma[...] = 0
    same_bits(layer(G.x), want)


def test_state(member):
    layer = layer_of(member)
    state = layer.state_dict()
    assert sorted(state) == (["weight"] if member.about_zero else ["bias", "weight"])
    assert state["weight"].shape == NORMALIZED
    other = member.layer(NORMALIZED, 1e-5)
    other.load_state_dict(state)
    same_bits(other(G.x), layer(G.x))
    state["weight"][0, 0] = 9
    same_bits(other.gamma, layer.gamma)
    for bad, message in (({}, "state is missing"), (state | {"running_mean": G.gamma}, "also has running_mean"),
                         (state | {"weight": G.gamma[0]}, r"weight has shape \(5,\); expected \(6, 5\)"),
                         (state | {"weight": np.full(NORMALIZED, np.nan)}, "weight has values that are not finite")):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(bad)
        same_bits(other.gamma, layer.gamma)
    other.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="backward needs a forward pass first"):
        other.backward(G.dy)


def test_threads_share_a_layer(member):
    layer = layer_of(member).eval()
    xs = [inputs((40, *NORMALIZED), NORMALIZED, seed=seed).x for seed in range(4)]
    want = [layer(x) for x in xs]
    wrong = []

    def work(x, y):
        for _ in range(50):
            if layer(x).tobytes() != y.tobytes():
                wrong.append(x)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(xs, want, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_derived_class(member):
    class Mine(member.layer):
        def __init__(self, size):
            super().__init__(size, 1e-5)
            self.size = size

    layer = Mine(5)
    same_bits(layer(G.x), member.infer(G.x, 5))
    assert repr(layer) == f"Mine(5{', eps=1e-05' if member.about_zero else ''})"
    assert fastbn.LayerNorm.__module__ == "fastbn"
