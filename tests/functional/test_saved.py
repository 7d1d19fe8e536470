"""What a forward pass saves for its backward pass: unexpected content is refused."""

import contextlib
import copy
import dataclasses
import pickle

import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn._core.kept import Kept
from fastbn.functional import Saved, batch_norm_backward, batch_norm_inference, batch_norm_training
from tests.compare import same_bits

RNG = np.random.default_rng(0)
PLANES = RNG.standard_normal((4, 3, 5, 2)).astype(np.float32)
ROWS = RNG.standard_normal((6, 8, 64)).astype(np.float32)
CHOSEN = RNG.random((6, 8)) < 0.5


def of_residual():
    """x, axis and what a ReLU with a residual left: a mask of bits, in an order of memory."""
    x = PLANES.transpose(0, 1, 3, 2)
    return x, 1, batch_norm_training(x, residual=x, activation="relu")[1]


def of_mask():
    """The same where only some rows counted: an index of them."""
    bn = BatchNorm(64, axis=-1)
    bn(ROWS, ROWS, "relu", mask=CHOSEN)
    return ROWS, -1, bn._tape.saved


def of_relu():
    """The same of a ReLU without a residual: scale and shift, by which it is worked out again."""
    return PLANES, 1, batch_norm_training(PLANES, activation="relu")[1]


def of_leaky_relu():
    """The same of an activation with a parameter."""
    return PLANES, 1, batch_norm_training(PLANES, activation=("leaky_relu", 0.2))[1]


MAKE = {"residual": of_residual, "mask": of_mask, "relu": of_relu, "leaky_relu": of_leaky_relu}
KEPT = of_residual()[2]._kept
BITS = KEPT.bits
INDEX = of_mask()[2]._index
WHERE = np.arange(len(INDEX))


def put(saved, name, value):
    """Replace an attribute, or a field of what the kernels read."""
    if name in saved._kept._fields:
        name, value = "_kept", saved._kept._replace(**{name: value})
    object.__setattr__(saved, name, value)


BAD = [
    ("residual", "bits", value) for value in (
        7, type(None), "bits", BITS[:-1], np.append(BITS, BITS), BITS.astype(np.int16), BITS.astype(np.uint8),
        BITS[None], np.ma.array(BITS), BITS.view(np.recarray))
] + [
    ("residual", "_arrangement", value) for value in (
        7, (), (1,), (1, None, 2), [1, None], (9, None), (-1, None), (0, None), (1.0, None), (True, None), (None, None),
        (1, (0, 1, 2, 9)), (1, (0, 1, 2)), (1, (0, 1, 2, 2)), (1, (0, 2, 1, 3)), (1, (0, 1, 2, -1)),
        (1, (0, 1.0, 2, 3)), (1, "0123"), (9, (0, 1, 2, 3)), (-3, (0, 1, 2, 3)), (1, np.arange(4)))
] + [
    ("mask", "_index", value) for value in (
        7, "rows", INDEX[:0], INDEX.astype(np.int32), INDEX.astype(np.uintp), INDEX[::-1], INDEX[None],
        INDEX + 48, INDEX - 48, np.where(WHERE == 3, 10**12, INDEX),
        np.where(WHERE == 3, -10**12, INDEX), np.where(WHERE == 3, INDEX[2], INDEX), np.ma.array(INDEX))
] + [
    (kind, name, value) for kind in MAKE for name in ("mean", "rstd", "low") for value in (
        7, "abc", [1.0, 1.0, 1.0], np.ones(2), np.ones((3, 1)), np.ones(1 << 20), np.ones(3, np.int64),
        np.ones(64, object))
] + [
    (kind, name, value) for kind in MAKE for name, value in (
        ("mean", None), ("rstd", None), ("frozen", None), ("frozen", 0), ("frozen", "no"))
] + [
    (kind, "shift", value) for kind in ("residual", "mask") for value in ("abc", np.ones(3), np.ones(64))
] + [
    ("residual", "_count", -1), ("residual", "_count", 40.0), ("relu", "_count", None),
    ("residual", "_shape", (4, 3, 2)), ("residual", "_shape", 7), ("residual", "_axis", 3),
    ("residual", "_shape", None), ("relu", "_shape", np.ones(4)), ("relu", "_axis", np.ones(2)),
    ("relu", "_residual", np.ones(2)), ("relu", "_residual", "yes"), ("mask", "bits", INDEX), ("mask", "bits", BITS),
    ("mask", "_arrangement", (2, (0, 1, 2, 3))), ("mask", "_arrangement", (1, (0, 2, 1))),
    ("residual", "_residual", False), ("mask", "_residual", 0), ("residual", "scale", np.ones(3)),
    ("relu", "_residual", True), ("relu", "bits", BITS), ("relu", "scale", 7), ("relu", "scale", np.ones(2)),
    ("relu", "shift", np.ones(4)), ("relu", "shift", "abc"),
] + [
    (kind, "activation", value) for kind in MAKE for value in (
        7, None, (), (0, 0.0), (3,), (3, 1), (14, 0.0), (-1, 0.0), (True, 0.0), ("relu", 0.0), [1, 0.0], (1, 0.0, 0.0))
] + [
    ("residual", "activation", (7, 0.0)), ("leaky_relu", "scale", None),
] + [
    (kind, "_kept", value) for kind in MAKE for value in (7, None, (), tuple(KEPT), list(KEPT))
]


BAD = [(kind, name, value, how) for kind, name, value in BAD for how in ("setattr", "pickle")] + [
    # What a pickle would put right.
    ("residual", "bits", np.repeat(BITS, 2)[::2], "setattr"), ("residual", "bits", BITS.astype(">u2"), "setattr"),
    ("mask", "_index", np.repeat(INDEX, 2)[::2], "setattr"), ("mask", "_index", INDEX.astype(">i8"), "setattr"),
    # What cannot be unpickled.
    ("residual", "_kept", KEPT[:7], "Kept"), ("residual", "_kept", (*KEPT, None), "Kept"),
]


@pytest.mark.parametrize(("kind", "name", "value", "how"), BAD, ids=[f"{k} {n} {v!r:.30} {h}" for k, n, v, h in BAD])
def test_a_spoiled_one_is_refused_before_anything_is_written(kind, name, value, how):
    x, axis, saved = MAKE[kind]()
    put(saved, name, tuple.__new__(Kept, value) if how == "Kept" else value)
    if how == "pickle":     # as an unpickled one would be
        saved = pickle.loads(pickle.dumps(saved))
    out = np.full_like(x, 7)
    with pytest.raises((TypeError, ValueError)) as refused:
        batch_norm_backward(x, x, saved, axis=axis, out=out)
    assert "truth value" not in str(refused.value)
    assert (out == 7).all()


@pytest.mark.parametrize(("kind", "name", "value", "message"), [
    ("residual", "bits", 7, "saved must be as a forward pass returned it, and its mask is not; got 7"),
    ("residual", "bits", BITS[:2], r"its mask is not; got uint16\(2,\)"),
    ("residual", "_arrangement", (1, (9,)), r"its order of memory is not; got \(1, \(9,\)\)"),
    ("mask", "_index", INDEX - 48, r"its index is not; got int64\("),
    ("residual", "mean", None, "its mean is not; got None"),
    ("relu", "_kept", (1, 2), r"its content is not; got \(1, 2\)"),
    ("relu", "activation", (99, 0.0), r"its activation is not; got \(99, 0.0\)"),
])
def test_messages(kind, name, value, message):
    x, axis, saved = MAKE[kind]()
    put(saved, name, value)
    with pytest.raises(ValueError, match=message):
        batch_norm_backward(x, x, saved, axis=axis)


@pytest.mark.parametrize("change", [{"mask": 7}, {"index": INDEX}, {"mean": np.zeros(3)}, {}], ids=str)
def test_it_has_no_fields_to_replace(change):
    with pytest.raises(TypeError):
        dataclasses.replace(of_residual()[2], **change)


def test_the_statistics_are_read_only():
    saved = of_residual()[2]
    for name in ("mean", "var", "rstd", "count"):
        with pytest.raises(AttributeError):
            setattr(saved, name, 1)
    for name in ("mean", "var", "rstd"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(saved, name)[...] = 0
    assert repr(saved) == "Saved(3, count=40)"
    assert not [name for name in dir(saved) if not name.startswith("_")
                and name not in ("mean", "var", "rstd", "count", "from_statistics")]


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))],
                         ids=["copy", "deepcopy", "pickle"])
def test_copies_go_back_to_the_same_bits(kind, duplicate):
    x, axis, saved = MAKE[kind]()
    for got, want in zip(batch_norm_backward(x, x, duplicate(saved), axis=axis),
                         batch_norm_backward(x, x, saved, axis=axis), strict=True):
        if kind == "mask" and got.ndim == 3:    # the others are the layer's to fill
            got, want = got[CHOSEN], want[CHOSEN]
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("mean", "var", "error", "message"), [
    (["a"], [1.0], TypeError, "mean has dtype <U1; expected float32 or float64"),
    ([1j], [1.0], TypeError, "mean has dtype complex128; expected float32 or float64"),
    (np.array([1]), [1.0], TypeError, "mean has dtype int64; expected float32 or float64"),
    ([1.0], np.array([1], np.uint8), TypeError, "var has dtype uint8; expected float32 or float64"),
    ([object()], [1.0], TypeError, "mean has dtype object; expected float32 or float64"),
    ([[1.0], [1.0, 2.0]], [1.0], ValueError, "mean cannot be converted to an array"),
    ([1.0], [[1.0], [1.0, 2.0]], ValueError, "var cannot be converted to an array"),
    ([1.0, 2.0], [1.0], ValueError, r"mean and var have shapes \(2,\) and \(1,\)"),
])
def test_statistics_that_cannot_be_used(mean, var, error, message):
    with pytest.raises(error, match=message):
        Saved.from_statistics(mean, var)


def test_statistics_are_refused_as_by_inference():
    for kind in (np.float32, np.float64, np.float16, np.longdouble, int, np.uint8, bool, complex, object):
        vector = np.ones(2, kind)
        accepted = kind in (np.float32, np.float64)
        for call in (Saved.from_statistics, lambda mean, var: batch_norm_inference(np.ones((3, 2)), mean, var)):
            with contextlib.nullcontext() if accepted else pytest.raises(TypeError, match="has dtype"):
                call(vector, vector)
    Saved.from_statistics([1, 2], [1, 2])       # numbers of a list may be integers, in both


def test_given_statistics():
    saved = Saved.from_statistics([0.0, 1.0], [3.0, 8.0], eps=1.0)
    same_bits(saved.rstd, np.array([1 / 2, 1 / 3]))
    assert saved.count == 0
    for name in ("bits", "_index", "_arrangement"):
        other = copy.copy(saved)
        put(other, name, 7)
        with pytest.raises(ValueError, match="saved must be"):
            batch_norm_backward(np.ones((3, 2)), np.ones((3, 2)), other)
