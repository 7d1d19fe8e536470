"""ChannelAffine on uint8 and uint16 images in any layout, channel axes that move, and errors."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from fastbn import ChannelAffine
from fastbn._core.images import MOST_TABLES
from fastbn._core.rounding import rounded
from tests.cases import SIZES, around
from tests.compare import same_bits

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZE = ChannelAffine.from_mean_std(MEAN, STD)
KINDS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda d: np.dtype(d).name)


def images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def formula(x):
    return (x / 255 - np.array(MEAN)) / np.array(STD)


@kinds
def test_every_byte_is_rounded_once(kind):
    # Compared with exact arithmetic: no other number of the dtype is nearer.
    x = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    y = NORMALIZE(x, dtype=kind)
    assert y.dtype == kind
    double = y.astype(np.float64)
    bits = np.ascontiguousarray(y).view(f"u{y.itemsize}")
    one = np.array(1, bits.dtype)
    near = [neighbour.view(kind).astype(np.float64) for neighbour in (bits + one, bits - one)]
    for c in range(3):
        for v in range(256):
            exact = (Fraction(v, 255) - Fraction(MEAN[c])) / Fraction(STD[c])
            error = abs(Fraction(double[v, c]) - exact)
            # the formula in float64 has an error of up to 1e-15 of the largest value
            slack = Fraction(5e-15) if kind is np.float64 else Fraction(1, 10**14)
            assert all(error <= abs(Fraction(n[v, c]) - exact) + slack for n in near)


def test_the_usual_formula():
    x = images(2, 30, 31, 3)
    same_bits(NORMALIZE(x), formula(x).astype(np.float32))


@kinds
@pytest.mark.parametrize("shape", [
    (2, 5, 7, 3), (3, 3), (1, 1, 3), (4, 3, 3, 3), (2, 91, 97, 3), (0, 4, 4, 3), (2, 0, 3),
    *((pixels, 3) for pixels in around(SIZES["lookup_pixels"]))], ids=str)
def test_layouts(shape, kind):
    x = images(*shape)
    y = NORMALIZE(x, dtype=kind)
    for out_axis in range(len(shape)):
        moved = np.ascontiguousarray(np.moveaxis(y, -1, out_axis))
        same_bits(NORMALIZE(x, out_axis=out_axis, dtype=kind), moved)
        source = np.ascontiguousarray(np.moveaxis(x, -1, out_axis))
        same_bits(NORMALIZE(source, axis=out_axis, dtype=kind), moved)
        same_bits(NORMALIZE(source, axis=out_axis, out_axis=-1, dtype=kind), y)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 64, 70])
def test_channels(channels):
    x = images(3, 11, 13, channels)
    shift = np.arange(channels, dtype=float)
    y = ChannelAffine(shift, np.full(channels, 0.5), shift, axis=-1)(x)
    same_bits(y, ((x - shift) * 0.5 + shift).astype(np.float32))
    same_bits(ChannelAffine(shift, np.full(channels, 0.5), shift, axis=-1)(x, out_axis=0),
              np.ascontiguousarray(np.moveaxis(y, -1, 0)))


VIEWS = {
    "crop": lambda x: x[:, 3:20, 5:17],
    "steps": lambda x: x[::2, ::-1, ::3],
    "transposed": lambda x: x.transpose(0, 2, 1, 3),
    "BGR": lambda x: x[..., ::-1],
    "Fortran": np.asfortranarray,
    "read-only": lambda x: frozen(x),
    "repeated": lambda x: np.broadcast_to(x[:1], x.shape),
    "five axes": lambda x: x.reshape(2, 2, 29, 31, 3)[:, ::-1, 1:, 1:],
}


def frozen(x):
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("name", VIEWS)
def test_views(name):
    x = VIEWS[name](images(4, 29, 31, 3))
    y = NORMALIZE(np.ascontiguousarray(x))
    same_bits(NORMALIZE(x), y)
    same_bits(NORMALIZE(x, out_axis=1), np.ascontiguousarray(np.moveaxis(y, -1, 1)))


def wide(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << 16, shape, dtype=np.uint16)


def test_the_default_scale_follows_the_dtype():
    # White is (1 - mean) / std and black -mean / std for every dtype.
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.float64, 1), (np.float16, 1),
                         (ml_dtypes.bfloat16, 1)):
        x = np.array([[0, 0, 0], [white] * 3], dtype)
        y = NORMALIZE(x).astype(float)
        rtol = 1e-2 if np.dtype(dtype).itemsize == 2 and white == 1 else 1e-6
        np.testing.assert_allclose(y, [-np.divide(MEAN, STD), np.divide(np.subtract(1, MEAN), STD)], rtol=rtol)
    grey = NORMALIZE(np.full((1, 3), 0.525, np.float32))
    np.testing.assert_allclose(grey[0], (0.525 - np.array(MEAN)) / STD, rtol=1e-5)


def test_an_explicit_scale_applies_to_all_dtypes():
    normalize = ChannelAffine.from_mean_std([100.0], [50.0], 1)
    for dtype in (np.uint8, np.uint16, np.float32, np.float64):
        np.testing.assert_array_equal(normalize(np.array([[0], [200]], dtype)), [[-2], [2]])
    same_bits(ChannelAffine.from_mean_std(MEAN, STD, 1 / 255)(images(4, 5, 3)), NORMALIZE(images(4, 5, 3)))
    same_bits(ChannelAffine.from_mean_std(MEAN, STD, 1)(np.ones((4, 3))), NORMALIZE(np.ones((4, 3))))


def test_vectors_apply_to_floating_point_images():
    np.testing.assert_array_equal(NORMALIZE.mean, MEAN)
    np.testing.assert_array_equal(NORMALIZE.scale, 1 / np.array(STD))
    x = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    out = np.empty_like(x)
    same_bits(NORMALIZE.bind(x.shape, x.dtype, "NHWC")(x, out), NORMALIZE(x))


@kinds
def test_uint16_is_rounded_once(kind):
    x = np.repeat(np.arange(1 << 16, dtype=np.uint16)[:, None], 3, axis=1)
    y = NORMALIZE(x, dtype=kind)
    assert y.dtype == kind
    exact = (x / 65535 - np.array(MEAN)) / np.array(STD)
    if kind is np.float64:
        np.testing.assert_allclose(y, exact, rtol=0, atol=2e-15)
        return
    # No other number of the dtype is nearer, except by the error of the formula in float64.
    double = y.astype(np.float64)
    bits = np.ascontiguousarray(y).view(f"u{y.itemsize}")
    one = np.array(1, bits.dtype)
    for neighbour in (bits + one, bits - one):
        other = neighbour.view(kind).astype(np.float64)
        assert (np.abs(double - exact) <= np.abs(other - exact) + 4e-15).all()


@pytest.mark.parametrize("swapped", [False, True], ids=["native", "swapped"])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (3, 3), (2, 191, 397, 3), (0, 4, 4, 3), (2, 0, 3)], ids=str)
def test_layouts_of_uint16(shape, swapped):
    x = wide(*shape)
    expected = NORMALIZE(x.astype(float) / 65535).astype(np.float32)
    x = x.astype(x.dtype.newbyteorder("S")) if swapped else x
    np.testing.assert_allclose(NORMALIZE(x), expected, rtol=0, atol=1e-6)
    y = NORMALIZE(x)
    assert y.dtype == np.float32
    for axis in range(len(shape)):
        moved = np.ascontiguousarray(np.moveaxis(y, -1, axis))
        same_bits(NORMALIZE(x, out_axis=axis), moved)
        same_bits(NORMALIZE(np.moveaxis(x, -1, axis), axis=axis), moved)
    out = np.zeros((*shape[:-1], 3), ">f4")
    assert NORMALIZE(x, out=out) is out
    same_bits(out.astype("<f4"), y)
    same_bits(NORMALIZE(x, activation="relu"), np.maximum(y, np.float32(0)))


@pytest.mark.parametrize("name", VIEWS)
def test_views_of_uint16(name):
    x = VIEWS[name](wide(4, 29, 31, 3))
    y = NORMALIZE(np.ascontiguousarray(x))
    same_bits(NORMALIZE(x), y)
    same_bits(NORMALIZE(x, out_axis=1), np.ascontiguousarray(np.moveaxis(y, -1, 1)))


def test_integers_without_a_default_scale():
    x = wide(5, 2)
    affine = ChannelAffine([1.0, 2.0], [0.5, 4.0], [0.0, 1.0])
    same_bits(affine(x), affine(x.astype(float)).astype(np.float32))


def test_threads_change_nothing():
    x = images(8, 224, 225, 3)
    one = ChannelAffine.from_mean_std(MEAN, STD, num_threads=1)(x, out_axis=1)
    for threads in (2, 3, 5):
        same_bits(ChannelAffine.from_mean_std(MEAN, STD, num_threads=threads)(x, out_axis=1), one)


@kinds
def test_out(kind):
    x = images(2, 12, 14, 3)
    y = NORMALIZE(x, out_axis=1, dtype=kind)
    room = np.zeros((4, 3, 20, 20), kind)
    for out in (np.empty_like(y), room[1:3, :, 2:14, 3:17], np.empty((12, 14, 3, 2), kind).transpose(3, 2, 0, 1)):
        assert NORMALIZE(x, out_axis=1, out=out) is out
        same_bits(out, y)
    assert (room[0] == 0).all()
    assert (room[1:3, :, 0] == 0).all()
    odd = np.empty(y.nbytes + 1, np.uint8)[1:].view(kind).reshape(y.shape)
    NORMALIZE(x, out_axis=1, out=odd)
    same_bits(odd, y)


def test_swapped_out():
    x = images(2, 12, 14, 3)
    out = np.empty((2, 12, 14, 3), ">f4")
    NORMALIZE(x, out=out)
    same_bits(out.astype("<f4"), NORMALIZE(x))


def test_activation():
    x = images(2, 9, 9, 3)
    same_bits(NORMALIZE(x, activation="relu"), np.maximum(NORMALIZE(x), np.float32(0)))
    bytes_of = ChannelAffine.from_mean_std(MEAN, STD, 1 / 255)
    same_bits(NORMALIZE(x, activation="tanh"),
              bytes_of(x.astype(np.float64), activation="tanh").astype(np.float32))


def test_tables_are_made_once():
    affine = ChannelAffine.from_mean_std(MEAN, STD, 1 / 255)
    x = images(1, 2, 2, 3)
    affine(x)
    [table] = affine._transforms[None].tables.values()
    assert (table.shape, table.dtype) == ((3, 256), np.float32)
    affine(x, dtype="float32", activation=None, out=np.empty(x.shape, np.float32))
    affine(x, out=np.empty(x.shape, ">f4"))
    [kept] = affine._transforms[None].tables.values()
    assert kept is table
    affine(x, activation="leaky_relu")
    affine(x, activation=("leaky_relu", 0.01))
    affine(x, activation=("leaky_relu", np.array(0.01)))
    assert len(affine._transforms[None].tables) == 2


def test_the_number_of_tables_is_limited():
    affine = ChannelAffine.from_mean_std(MEAN, STD, 1 / 255)
    x = images(1, 2, 2, 3)
    for k in range(1, 100):
        y = affine(x, activation=("leaky_relu", 1 / k))
        assert len(affine._transforms[None].tables) <= MOST_TABLES
    same_bits(y, affine(x.astype(float), activation=("leaky_relu", 1 / 99)).astype(np.float32))


def test_threads_that_clear_the_tables():
    class Cleared(dict):
        # Tables that another thread clears after each assignment.
        def __setitem__(self, key, value):
            pass

    affine = ChannelAffine.from_mean_std(MEAN, STD, scale=1 / 255)
    x = images(1, 2, 2, 3)
    right = affine(x)
    affine._transforms[None].tables = Cleared()
    same_bits(affine(x), right)


def test_rounding_to_bfloat16_happens_once():
    # 1 + 2^-8 is a tie; a float64 just above it becomes a tie in float32.
    tie, little = 1 + 2.0**-8, 2.0**-40
    values = np.array([tie, tie + little, tie + 2.0**-7 - little, -tie - little, 0.0, 1e39])
    got = rounded(values, np.dtype(ml_dtypes.bfloat16)).astype(np.float64)
    np.testing.assert_array_equal(got, [1.0, 1 + 2.0**-7, 1 + 2.0**-7, -1 - 2.0**-7, 0.0, np.inf])


def test_moving_the_channels_of_floats(dtype):
    x = np.random.default_rng(0).standard_normal((3, 8, 9, 3)).astype(dtype)
    y = NORMALIZE(x)
    moved = NORMALIZE(x, out_axis=1)
    assert moved.flags.c_contiguous
    same_bits(moved, np.ascontiguousarray(np.moveaxis(y, -1, 1)))
    out = np.empty_like(moved)
    assert NORMALIZE(x, out_axis=1, out=out) is out
    same_bits(out, moved)
    same_bits(NORMALIZE(moved, axis=1), np.moveaxis(NORMALIZE(np.moveaxis(moved, 1, -1)), -1, 1))


X = images(2, 4, 5, 3)
ZEROS = np.zeros((2, 4, 5, 3), np.float32)


@pytest.mark.parametrize(("x", "options", "error", "message"), [
    (X[..., :2], {}, ValueError, r"x has shape \(2, 4, 5, 2\), which is 2 channels along axis -1; expected 3"),
    (X[0, 0, 0], {}, ValueError, r"x has shape \(3,\); expected two or more dimensions"),
    (X, {"axis": 4}, ValueError, "axis 4 is out of range for an array of 4 dimensions"),
    (X, {"out_axis": -5}, ValueError, "out_axis -5 is out of range for an array of 4 dimensions"),
    (X, {"out_axis": 1.0}, TypeError, "out_axis must be an integer, got 1.0"),
    (X, {"residual": ZEROS}, ValueError, "a residual cannot be added to a transform of uint8"),
    (X.astype(np.uint16), {"residual": ZEROS}, ValueError, "a residual cannot be added to a transform of uint16"),
    (X.astype(np.uint16), {"dtype": np.int32}, TypeError, "dtype is int32; expected float32, float64, float16 or"),
    (X.astype(np.uint16), {"out": ZEROS[:1]}, ValueError, r"out has shape \(1, 4, 5, 3\); expected \(2, 4, 5, 3\)"),
    (X.astype(np.uint16), {"out": X.astype(np.uint16)}, TypeError, "out has dtype uint16; expected float32"),
    (X.astype(np.uint32), {}, TypeError, "x has dtype uint32; expected float32"),
    (X, {"dtype": "float99"}, TypeError, "dtype is 'float99', which is not a dtype"),
    (X, {"dtype": np.int32}, TypeError, "dtype is int32; expected float32, float64, float16 or bfloat16"),
    (X, {"out": ZEROS[:1]}, ValueError, r"out has shape \(1, 4, 5, 3\); expected \(2, 4, 5, 3\)"),
    (X, {"out": ZEROS, "out_axis": 1}, ValueError, r"out has shape \(2, 4, 5, 3\); expected \(2, 3, 4, 5\)"),
    (X, {"out": ZEROS.astype(np.int32)}, TypeError, "^out has dtype int32; expected float32, float64, float16 or"),
    (X.astype(np.uint16), {"out": ZEROS.astype(np.int32)}, TypeError, "^out has dtype int32; expected float32"),
    (X, {"out": ZEROS, "dtype": np.float16}, TypeError, "out has dtype float32; expected float16"),
    (X, {"out": ZEROS.tolist()}, TypeError, "out must be a numpy.ndarray, got list"),
    (X, {"out": X.copy()}, TypeError, "out has dtype uint8; expected float32"),
    (X, {"out": np.broadcast_to(ZEROS, ZEROS.shape)}, ValueError, "out is read-only"),
    (ZEROS, {"dtype": np.float16}, TypeError, "dtype is float16; expected that of x, float32, or None"),
    (ZEROS, {"out_axis": 7}, ValueError, "out_axis 7 is out of range"),
    (ZEROS, {"out_axis": 1, "out": ZEROS}, ValueError, "out has shape"),
    (ZEROS, {"out_axis": 1, "out": [0]}, TypeError, "out must be a numpy.ndarray, got list"),
    (X.astype(np.int8), {}, TypeError, "x has dtype int8; expected float32"),
    (X.astype(np.int64), {}, TypeError, "int64; .* see astype, or ChannelAffine for uint8 and uint16 images$"),
])
def test_refused(x, options, error, message):
    before = X.copy()
    with pytest.raises(error, match=message):
        NORMALIZE(x, **options)
    same_bits(X, before)
    assert not ZEROS.any()


def test_empty_views():
    x = np.zeros((4, 4, 4, 4, 4, 3), np.uint8)[::2, ::2, ::2, ::2, :0]
    assert NORMALIZE(x).shape == (2, 2, 2, 2, 0, 3)
    assert NORMALIZE(x, out_axis=1).shape == (2, 3, 2, 2, 2, 0)


def test_error_state_of_numpy_is_ignored():
    with np.errstate(all="raise"):
        y = ChannelAffine([128.0], [1e-44], [0.0], axis=-1)(np.arange(256, dtype=np.uint8)[:, None])
    assert y[128, 0] == 0


def test_masks_are_refused():
    for x in (np.ma.array(X), np.ma.array(ZEROS)):
        for options in ({}, {"out_axis": 1}):
            with pytest.raises(TypeError, match="x is a masked array, whose mask would be ignored"):
                NORMALIZE(x, **options)
    with pytest.raises(TypeError, match="out is a masked array, whose mask would be ignored"):
        NORMALIZE(X, out=np.ma.zeros(X.shape, np.float32))


@pytest.mark.parametrize("name", ["axis", "out_axis"])
@pytest.mark.parametrize(("value", "error", "message"), [
    (4, ValueError, "4 is out of range for an array of 4 dimensions"),
    (-5, ValueError, "-5 is out of range for an array of 4 dimensions"),
    (1 << 70, ValueError, "1180591620717411303424 is out of range for an array of 4 dimensions"),
    (1.0, TypeError, "must be an integer, got 1.0"),
    (True, TypeError, "must be an integer, got True"),
    (np.True_, TypeError, "must be an integer, got (np.True_|True)"),
])
def test_axes_that_are_refused(name, value, error, message):
    for x in (X, X.astype(np.float32)):
        options = {"out_axis": 1} | {name: value}
        with pytest.raises(error, match=f"{name} {message}"):
            NORMALIZE(x, **options)


def test_in_place_is_refused():
    with pytest.raises(ValueError, match="out has elements that share memory"):
        NORMALIZE(X, out=np.lib.stride_tricks.as_strided(ZEROS, X.shape, (0, 0, 0, 4)))
    square = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match="out shares memory with x, whose channel axis moves"):
        NORMALIZE(square, out=square, out_axis=0)
    memory = np.zeros(3 * 16, np.float32)
    x = memory.view(np.uint8)[:48].reshape(16, 3)
    with pytest.raises(ValueError, match="out shares memory with x; uint8 cannot be transformed in place"):
        NORMALIZE(x, out=memory.reshape(16, 3))


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (([0.5], [0.5, 0.5]), ValueError, "mean and std have shapes"),
    ((0.5, 0.5), ValueError, "mean and std have shapes"),
    (([0.5], [0.0]), ValueError, "std must be positive and finite, got 0.0"),
    (([0.5], [-1.0]), ValueError, "std must be positive and finite, got -1.0"),
    (([0.5], [np.nan]), ValueError, "std must be positive and finite, got nan"),
    (([0.5], [np.inf]), ValueError, "std must be positive and finite, got inf"),
    ((["a"], [0.5]), TypeError, "mean has dtype <U1; expected real numbers"),
    (([0.5], np.ma.ones(1)), TypeError, "std is a masked array"),
    (([0.5], [0.5], 0), ValueError, "scale must be a finite number other than 0, or None, got 0"),
    (([0.5], [0.5], np.inf), ValueError, "scale must be a finite number other than 0, or None, got inf"),
    (([0.5], [0.5], "1/255"), TypeError, "scale must be a finite number other than 0, or None, got '1/255'"),
    (([0.5], [0.5], True), TypeError, "scale must be a finite number other than 0, or None, got True"),
    (([0.5], [0.5], 1j), TypeError, "scale must be a finite number other than 0, or None, got 1j"),
    (([0.5], [0.5], object()), TypeError, "scale must be a finite number other than 0, or None, got <object"),
    (([0.5], [0.5], 10**400), ValueError, "scale must be within the range of a float"),
    (([0.5], [0.5], np.array([1, 2])), ValueError, r"scale must be a finite number .*, got array\(\[1, 2\]\)"),
    (([0.5, np.nan], [0.5, 0.5]), ValueError, "mean has values that are not finite, in channel 1"),
    (([1e300], [0.5], 1e-300), ValueError, "mean / scale has values that are not finite, in channel 0"),
    (([0.5], [1e-300], 1e300), ValueError, "scale / std has values that are not finite, in channel 0"),
    (([np.inf], [0.5]), ValueError, "mean has values that are not finite"),
])
def test_bad_mean_std_or_scale(arguments, error, message):
    with pytest.raises(error, match=message):
        ChannelAffine.from_mean_std(*arguments)
