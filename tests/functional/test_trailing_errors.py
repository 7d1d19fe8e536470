"""Bad arguments of layer norm and RMS norm: an error that names them, before anything is written."""

import re

import numpy as np
import pytest

from fastbn.functional import batch_norm_training, layer_norm_training, rms_norm_jvp
from tests.compare import same_bits
from tests.trailing import MEMBERS, inputs

SHAPE, NORMALIZED = (4, 6, 5), (6, 5)
G = inputs(SHAPE, NORMALIZED)

BAD = {
    "x list": ({"x": [["a"]]}, TypeError, "x has dtype"),
    "x None": ({"x": None}, TypeError, "x must be an array, got None"),
    "x integer": ({"x": np.ones(SHAPE, int)}, TypeError, "x has dtype int64; expected float32"),
    "x masked": ({"x": np.ma.zeros(SHAPE)}, TypeError, "x is a masked array"),
    "x shape": ({"x": G.x[:, :5]}, ValueError,
                "x has shape (4, 5, 5); expected (6, 5) as the shape of its last 2 axes"),
    "x rank": ({"x": G.x[0, 0]}, ValueError, "x has shape (5,); expected (6, 5) as the shape of its last 2 axes"),
    "x scalar": ({"x": np.float32(1)}, ValueError, "x has shape (); expected (6, 5)"),
    "one axis": ({"shape": 6}, ValueError, "x has shape (4, 6, 5); expected (6,) as the shape of its last axis"),
    "negative": ({"shape": (-1, 5)}, ValueError, "normalized_shape must be at least 0, got -1"),
    "empty": ({"shape": ()}, ValueError, "normalized_shape must have one or more axes, got ()"),
    "bool": ({"shape": True}, TypeError, "must be an integer or a sequence of integers, got True"),
    "float": ({"shape": (6.0, 5)}, TypeError, "must be an integer or a sequence of integers, got (6.0, 5)"),
    "text": ({"shape": "65"}, TypeError, "must be an integer or a sequence of integers, got '65'"),
    "None": ({"shape": None}, TypeError, "must be an integer or a sequence of integers, got None"),
    "set": ({"shape": {6, 5}}, TypeError, "normalized_shape must be an integer or a sequence of integers, got {5, 6}"),
    "array": ({"shape": np.array(5.0)}, TypeError, "must be an integer or a sequence of integers, got array(5.)"),
    "gamma shape": ({"gamma": np.ones(30)}, ValueError, "gamma has shape (30,); expected (6, 5)"),
    "gamma dtype": ({"gamma": np.ones((6, 5), int)}, TypeError, "gamma has dtype int64; expected float32 or float64"),
    "eps": ({"eps": -1.0}, ValueError, "eps must be 0, or finite and at least"),
    "eps text": ({"eps": "small"}, TypeError, "eps must be a number, got 'small'"),
    "residual shape": ({"residual": G.x[:3]}, ValueError, "residual has shape (3, 6, 5); expected the shape of x"),
    "residual dtype": ({"residual": G.x.astype(float)}, TypeError, "residual has dtype float64; expected that of x"),
    "activation": ({"activation": "swish"}, ValueError, "activation must be None, 'relu'"),
    "num_threads": ({"num_threads": 0}, ValueError, "num_threads must be between 1"),
    "out shape": ({"out": np.full(SHAPE[::-1], 7, np.float32)}, ValueError, "out has shape (5, 6, 4); expected"),
    "out dtype": ({"out": np.full(SHAPE, 7.0)}, TypeError, "out has dtype float64; expected that of x, float32"),
    "out list": ({"out": [7.0]}, TypeError, "out must be a numpy.ndarray, got list"),
}


@pytest.fixture(params=MEMBERS)
def member(request):
    return MEMBERS[request.param]


@pytest.mark.parametrize("name", BAD)
def test_forward(name, member):
    changes, error, message = BAD[name]
    arguments = {"x": G.x, "shape": NORMALIZED, "gamma": G.gamma, "out": np.full(SHAPE, 7, np.float32)} | changes
    for call in (member.train, member.infer):
        with pytest.raises(error, match=re.escape(message)):
            call(**arguments)
        assert np.all(np.equal(arguments["out"], 7))


def test_beta():
    for call in (MEMBERS["layer norm"].train, MEMBERS["layer norm"].infer):
        with pytest.raises(ValueError, match=re.escape("beta has shape (5, 6); expected (6, 5)")):
            call(G.x, NORMALIZED, beta=np.ones((5, 6)))
        with pytest.raises(ValueError, match=re.escape("beta has shape (6,); expected (5,)")):
            call(G.x, 5, beta=np.ones(6))


@pytest.mark.parametrize("activation", [None, "relu"])      # after which beta is kept for the backward pass
@pytest.mark.parametrize(("beta", "dtype"), [
    (["a"] * 5, "<U1"), (np.ones(5, complex), "complex128"), (np.ones(5, np.float16), "float16")], ids=str)
def test_beta_of_another_dtype(beta, dtype, activation):
    with pytest.raises(TypeError, match=f"beta has dtype {dtype}; expected float32 or float64"):
        layer_norm_training(G.x, 5, None, beta, activation=activation)


def test_parameters_of_no_elements(member):
    for call in (member.train, member.infer):
        with pytest.raises(ValueError, match=re.escape("gamma has shape (4,); expected (3,)")):
            call(np.zeros((0, 3)), 3, np.ones(4))


def test_activation_after_a_residual(member):
    with pytest.raises(ValueError, match="activation must be None or 'relu' after a residual in training"):
        member.train(G.x, NORMALIZED, residual=G.residual, activation="silu")
    assert member.infer(G.x, NORMALIZED, residual=G.residual, activation="silu").shape == SHAPE


def read_only(a):
    a.flags.writeable = False
    return a


BAD_BACKWARD = {
    "saved None": ({"saved": None}, TypeError, "saved must be a RowSaved, the second value of "),
    "saved of batch norm": ({"saved": batch_norm_training(G.x)[1]}, TypeError, "_norm_training, got Saved"),
    "x shape": ({"x": G.x[:3]}, ValueError, "x has shape (3, 6, 5); expected that of the forward pass, (4, 6, 5)"),
    "x axes": ({"x": G.x[:, :5]}, ValueError, "x has shape (4, 5, 5); expected (6, 5)"),
    "dy shape": ({"dy": G.dy[:3]}, ValueError, "dy has shape (3, 6, 5); expected the shape of x"),
    "dy dtype": ({"dy": G.dy.astype(float)}, TypeError, "dy has dtype float64; expected that of x"),
    "gamma": ({"gamma": np.ones(5)}, ValueError, "gamma has shape (5,); expected (6, 5)"),
    "num_threads": ({"num_threads": 0}, ValueError, "num_threads must be between 1"),
    "out": ({"out": read_only(np.full(SHAPE, 7, np.float32))}, ValueError, "out is read-only"),
}


@pytest.mark.parametrize("name", BAD_BACKWARD)
def test_backward(name, member):
    changes, error, message = BAD_BACKWARD[name]
    saved = member.train(G.x, NORMALIZED, G.gamma, G.beta)[1]
    arguments = {"dy": G.dy, "x": G.x, "saved": saved, "gamma": G.gamma, "out": np.full(SHAPE, 7, np.float32)} | changes
    with pytest.raises(error, match=re.escape(message)):
        member.gradients(**arguments)
    assert (arguments["out"] == 7).all()


def test_saved_of_the_other_member(member):
    other = next(m for m in MEMBERS.values() if m is not member)
    with pytest.raises(ValueError, match=f"saved is of an? {other.name}; expected that of an? {member.name}"):
        member.gradients(G.dy, G.x, other.train(G.x, NORMALIZED)[1])


V = np.ones(4)
BAD_CONTENT = [
    (name, value) for name, values in {
        "_shape": (7, (4, 6), (4, -6, 5), (4, 6.0, 5), [4, 6, 5], (4, 5, 6), (3, 6, 5), (4, 6, 5, 1)),
        "_lengths": (7, (), (5, 6), (4, 4, 6, 5), [6, 5], (5,)),
        "_statistics": (7, (), (V, V), (V, V, V, V), (V, V, V[:3]), (V, V, V.astype(np.float32)), (V, V, None),
                        (V, V, list(V)), (V, V, V[None]), (V, V, np.ones(8)[::2]), (V, V, np.ma.array(V))),
        "_activation": (7, (1,), (99, 0.0), (-1, 0.0), (1, 0), ("relu", 0.0), [0, 0.0]),
        "_beta": (7, np.ones(29), np.ones((6, 5)), np.ones(30, np.float32), np.ones(60)[::2]),
        "_bits": (7, np.zeros(3, np.uint16), np.zeros(12), np.zeros(12, np.uint16)),
        "_residual": (1, None, "yes", np.ones(3)),
    }.items() for value in values]


@pytest.mark.parametrize(("name", "value"), BAD_CONTENT, ids=lambda value: f"{value!r}"[:40])
def test_content_that_no_forward_pass_saves(name, value, member):
    saved = member.train(G.x, NORMALIZED, G.gamma, G.beta, activation="silu" if name == "_beta" else None)[1]
    if member.about_zero and name == "_statistics" and isinstance(value, tuple) and len(value) == 3:
        value = (None, None, value[2])
    setattr(saved, name, value)
    out = np.full(SHAPE, 7, np.float32)
    with pytest.raises((TypeError, ValueError), match=r"saved|x has|expected|bits"):
        member.gradients(G.dy, G.x, saved, G.gamma, out=out)
    assert (out == 7).all()


def test_an_rms_norm_has_no_second_word_of_a_mean():
    saved = MEMBERS["RMS norm"].train(G.x, NORMALIZED)[1]
    saved._statistics = (None, V, saved._statistics[2])
    with pytest.raises(ValueError, match="saved must be as a forward pass returned it, and its mean is not"):
        rms_norm_jvp(G.x, G.x, saved)


def test_bits_of_another_length(member):
    saved = member.train(G.x, NORMALIZED, G.gamma, G.beta, residual=G.residual, activation="relu")[1]
    right = member.gradients(G.dy, G.x, saved, G.gamma)[0]
    bits = saved._bits
    for value in (None, bits[:-1], np.append(bits, bits), bits.astype(np.int16), list(bits)):
        saved._bits = value
        with pytest.raises((TypeError, ValueError)):
            member.gradients(G.dy, G.x, saved, G.gamma)
    saved._bits = bits
    same_bits(member.gradients(G.dy, G.x, saved, G.gamma)[0], right)
