"""ChannelAffine: an immutable transform with the bits of evaluation."""

import copy
import pickle

import numpy as np
import pytest

from fastbn import BatchNorm, ChannelAffine
from tests.cases import EMPTY_CASES, LARGE_PLANES, LARGE_ROWS, SAMPLE_CASES, SMALL_PLANES, array, axis_of, inputs
from tests.compare import close, same_bits
from tests.grid import over


def layer(case, layout, dtype, **options):
    i = inputs(case, layout, dtype)
    bn = BatchNorm(case.channels, axis=i.axis, dtype=dtype, **options).eval()
    if bn.gamma is not None:
        bn.gamma, bn.beta = i.gamma, i.beta
    bn.running_mean, bn.running_var = i.mean, i.var
    return bn, i


@over((*SAMPLE_CASES, LARGE_PLANES, LARGE_ROWS))
def test_frozen_is_evaluation_to_the_bit(case, layout, dtype, activation, with_residual):
    bn, i = layer(case, layout, dtype)
    residual = i.residual if with_residual else None
    y = bn.frozen()(i.x, residual=residual, activation=activation)
    same_bits(y, bn(i.x, residual=residual, activation=activation))


def test_frozen_without_parameters(layout, dtype):
    bn, i = layer(SMALL_PLANES, layout, dtype, affine=False)
    same_bits(bn.frozen()(i.x), bn(i.x))


@pytest.mark.parametrize("case", EMPTY_CASES, ids=lambda c: c.name)
def test_empty(case, layout, dtype):
    x = array(case, layout, dtype)
    y = ChannelAffine([1, 2, 3], [1, 1, 1], [0, 0, 0], axis=axis_of(layout))(x)
    assert y.shape == x.shape
    assert y.dtype == dtype


def test_formula(layout, dtype):
    i = inputs(SMALL_PLANES, layout, dtype)
    y = ChannelAffine(i.mean, i.gamma, i.beta, axis=i.axis)(i.x)
    x = np.moveaxis(i.x, i.axis, -1).astype(np.longdouble)
    exact = np.moveaxis((x - i.mean) * i.gamma + i.beta, -1, i.axis)
    close(y, exact, dtype, 4)


def test_subtraction_comes_first():
    # x * scale + (shift - mean * scale) would be 0.06 off.
    x = np.array([[1e6], [1e6 + 0.5]], np.float32)
    y = ChannelAffine([1e6 + 0.25], [1.0], [0.0])(x)
    np.testing.assert_array_equal(y, np.array([[-0.25], [0.25]], np.float32))


def test_out_and_in_place(layout):
    bn, i = layer(SMALL_PLANES, layout, np.float32)
    a = bn.frozen()
    y, out = a(i.x), np.empty_like(i.x)
    assert a(i.x, out=out) is out
    same_bits(out, y)
    assert a(i.x, out=i.x) is i.x
    same_bits(i.x, y)


def test_it_shares_nothing_with_the_layer():
    bn, i = layer(SMALL_PLANES, "planes", np.float64)
    a = bn.frozen()
    y = a(i.x)
    for name in ("gamma", "beta", "running_mean", "running_var"):
        getattr(bn, name)[...] = 77
    same_bits(a(i.x), y)


def test_it_shares_nothing_with_its_arguments():
    vectors = [np.ones(3) for _ in range(3)]
    a = ChannelAffine(*vectors)
    for v in vectors:
        v[...] = 9
    np.testing.assert_array_equal([a.mean, a.scale, a.shift], np.ones((3, 3)))


def test_immutable():
    a = ChannelAffine([0.0], [1.0], [2.0])
    for name in ("mean", "scale", "shift", "axis", "num_threads", "other"):
        with pytest.raises(AttributeError, match=f"immutable; cannot set {name}"):
            setattr(a, name, 1)
        with pytest.raises(AttributeError, match=f"immutable; cannot delete {name}"):
            delattr(a, name)
    for vector in (a.mean, a.scale, a.shift):
        with pytest.raises(ValueError, match="read-only"):
            vector[0] = 5
    assert repr(a) == "ChannelAffine(1, axis=1)"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))],
                         ids=["copy", "deepcopy", "pickle"])
def test_copies(duplicate):
    a = ChannelAffine([0.5, 1.0], [1.0, 3.0], [2.0, 0.1], axis=-1, num_threads=2)
    b = duplicate(a)
    for name in ("mean", "scale", "shift"):
        same_bits(getattr(a, name), getattr(b, name))
        assert not getattr(b, name).flags.writeable
    assert (b.axis, b.num_threads) == (-1, 2)
    x = np.random.default_rng(0).standard_normal((5, 2))
    same_bits(a(x), b(x))


EQUAL = {
    "itself": lambda: ChannelAffine([0.5, 1.0], [1.0, 3.0], [2.0, 0.0]),
    "other dtype": lambda: ChannelAffine(np.float32([0.5, 1]), [1, 3], (2, 0)),
    "negative zero": lambda: ChannelAffine([0.5, 1.0], [1.0, 3.0], [2.0, -0.0]),
    "copy": lambda: copy.copy(ChannelAffine([0.5, 1.0], [1.0, 3.0], [2.0, 0.0])),
    "pickle": lambda: pickle.loads(pickle.dumps(ChannelAffine([0.5, 1.0], [1.0, 3.0], [2.0, 0.0]))),
}
DIFFERENT = {
    "mean": lambda: ChannelAffine([0.5, np.nextafter(1, 2)], [1.0, 3.0], [2.0, 0.0]),
    "scale": lambda: ChannelAffine([0.5, 1.0], [1.0, 4.0], [2.0, 0.0]),
    "shift": lambda: ChannelAffine([0.5, 1.0], [1.0, 3.0], [2.0, 1.0]),
    "swapped": lambda: ChannelAffine([1.0, 3.0], [0.5, 1.0], [2.0, 0.0]),
    "channels": lambda: ChannelAffine([0.5], [1.0], [2.0]),
    "axis": lambda: ChannelAffine([0.5, 1.0], [1.0, 3.0], [2.0, 0.0], axis=-1),
    "threads": lambda: ChannelAffine([0.5, 1.0], [1.0, 3.0], [2.0, 0.0], num_threads=2),
    "another type": lambda: (0.5, 1.0),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_values_are_equal_and_hash_alike(name):
    a, b = ChannelAffine([0.5, 1.0], [1.0, 3.0], [2.0, 0.0]), EQUAL[name]()
    assert a == b
    assert hash(a) == hash(b)
    assert {a: 1}[b] == 1


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_values_are_not_equal(name):
    a, b = ChannelAffine([0.5, 1.0], [1.0, 3.0], [2.0, 0.0]), DIFFERENT[name]()
    assert a != b
    assert len({a, b}) == 2


def test_a_call_does_not_change_what_is_equal():
    a = ChannelAffine([0.5], [1.0], [2.0], axis=-1)
    before = hash(a)
    a(np.zeros((2, 2, 1), np.uint8))        # caches a table
    assert a == ChannelAffine([0.5], [1.0], [2.0], axis=-1)
    assert hash(a) == before


def test_equality_of_what_images_are_normalized_with():
    a, b = (ChannelAffine.from_mean_std([0.5], [0.25]) for _ in range(2))
    assert a == b == pickle.loads(pickle.dumps(a)) == copy.deepcopy(a)
    assert hash(a) == hash(pickle.loads(pickle.dumps(a)))
    # The same transform of floating-point images, but not of integers.
    assert a != ChannelAffine.from_mean_std([0.5], [0.25], 1)
    x = np.array([[0], [255]], np.uint8)
    same_bits(pickle.loads(pickle.dumps(a))(x), a(x))
    same_bits(a(x), np.float32([[-2], [2]]))


@pytest.mark.parametrize(("arguments", "options", "error", "message"), [
    (([0.0], [1.0, 2.0], [0.0]), {}, ValueError, r"scale has shape \(2,\); expected \(C,\)"),
    (([0.0], [1.0], 0.0), {}, ValueError, r"shift has shape \(\); expected \(C,\)"),
    (([[0.0]], [[1.0]], [[0.0]]), {}, ValueError, r"mean has shape \(1, 1\); expected \(C,\)"),
    (([np.nan], [1.0], [0.0]), {}, ValueError, "mean has values that are not finite"),
    (([0.0], [np.inf], [0.0]), {}, ValueError, "scale has values that are not finite"),
    (([0.0], [1.0], [-np.inf]), {}, ValueError, "shift has values that are not finite"),
    (([0.0], [1.0], [0.0]), {"num_threads": 0}, ValueError, "num_threads must be between 1"),
    (([0.0], [1.0], [0.0]), {"num_threads": 1.0}, TypeError, "num_threads must be an integer"),
    (([0.0], [1.0], [0.0]), {"axis": True}, TypeError, "axis must be an integer, got True"),
    (([0.0], [1.0], [0.0]), {"axis": "last"}, TypeError, "axis must be an integer, got 'last'"),
])
def test_constructor_errors(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ChannelAffine(*arguments, **options)


@pytest.mark.parametrize(("vectors", "error", "message"), [
    ({"var": [np.nan, 1]}, ValueError, "^var has values that are not finite, in channel 0$"),
    ({"mean": [1, np.inf]}, ValueError, "^mean has values that are not finite, in channel 1$"),
    ({"gamma": [np.nan, np.inf]}, ValueError, "^gamma has values that are not finite, in channels 0, 1$"),
    ({"beta": [-np.inf, 0]}, ValueError, "^beta has values that are not finite, in channel 0$"),
    ({"gamma": [1, 1e308], "var": [1, 0]}, ValueError, r"^gamma / sqrt\(var \+ eps\) has values .*, in channel 1$"),
    ({"var": [-1, 1]}, ValueError, "^var has negative values, down to -1.0, in channel 0$"),
    ({"mean": ["1", "2"]}, TypeError, "^mean has dtype <U1; expected real numbers$"),
    ({"var": [1j, 1]}, TypeError, "^var has dtype complex128; expected real numbers$"),
    ({"var": np.ones(2, complex)}, TypeError, "^var has dtype complex128; expected real numbers$"),
    ({"mean": None}, TypeError, "^mean must be an array, got None$"),
    ({"mean": [[1], [1, 2]]}, ValueError, "^mean cannot be converted to an array: "),
    ({"gamma": np.ma.ones(2)}, TypeError, "^gamma is a masked array"),
    ({"gamma": [1]}, ValueError, r"^gamma has shape \(1,\); expected that of mean, \(2,\)$"),
])
def test_errors_of_statistics_name_the_argument(vectors, error, message):
    with pytest.raises(error, match=message):
        ChannelAffine.from_statistics(**{"mean": [0, 0], "var": [1, 1]} | vectors)


@pytest.mark.parametrize("name", ["running_mean", "running_var", "gamma", "beta"])
def test_errors_of_frozen_name_the_vector(name):
    bn = BatchNorm(3)
    getattr(bn, name)[1] = np.nan
    with pytest.raises(ValueError, match=f"^{name} has values that are not finite, in channel 1$"):
        bn.frozen()


@pytest.mark.parametrize(("x", "options", "error", "message"), [
    (np.zeros((4, 2)), {}, ValueError, "x has shape .*2 channels.*expected 3"),
    (np.zeros((4, 3), int), {}, TypeError, "x has dtype int64"),
    (np.zeros(3), {}, ValueError, "x has shape .*two or more dimensions"),
    (np.zeros((4, 3)), {"activation": "swish"}, ValueError, "activation must be None, 'relu'"),
    (np.zeros((4, 3)), {"residual": np.zeros((4, 2))}, ValueError, "residual has shape"),
    (np.zeros((4, 3)), {"out": np.zeros((4, 3), np.float32)}, TypeError, "out has dtype float32"),
])
def test_call_errors(x, options, error, message):
    with pytest.raises(error, match=message):
        ChannelAffine(np.zeros(3), np.ones(3), np.zeros(3))(x, **options)


def test_nothing_to_freeze():
    with pytest.raises(RuntimeError, match="track_running_stats=False has no statistics to freeze"):
        BatchNorm(3, track_running_stats=False).frozen()
