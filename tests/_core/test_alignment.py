"""Results have the same bits wherever arrays begin in a cache line."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from fastbn import ChannelAffine
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests.awkward import place
from tests.cases import arranged, axis_of
from tests.compare import same_bits

OFFSETS = {                         # bytes after a multiple of 64
    np.float32: (0, 4, 16, 32, 60),
    np.float64: (0, 8, 16, 32, 56),
    np.float16: (0, 2, 6, 32, 62),
    ml_dtypes.bfloat16: (0, 2, 6, 32, 62),
}
SHAPES = [(2, 5, 16, 16), (2, 33, 7, 7), (3, 3, 20, 21), (2, 70, 1, 5)]
dtypes = pytest.mark.parametrize("dtype", OFFSETS, ids=lambda d: np.dtype(d).name)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def moved(a, offset):
    """A copy that begins `offset` bytes after a multiple of 64."""
    copy = place(a.shape, a.dtype, offset)
    copy[...] = a
    assert copy.ctypes.data % 64 == offset
    return copy


def numbers(shape, dtype, layout):
    """x, and a residual or gradient, in a layout; gamma, beta, mean and var."""
    rng = np.random.default_rng(0)
    arrays = (arranged(rng.normal(1, 2, shape).astype(dtype), layout) for _ in range(2))
    vectors = rng.normal(0, 1, (3, shape[1])).astype(np.float32)
    return *arrays, *vectors, rng.uniform(0.5, 2, shape[1]).astype(np.float32)


@dtypes
@shapes
def test_forward(shape, dtype, layout):
    x, residual, gamma, beta, mean, var = numbers(shape, dtype, layout)
    options = {"axis": axis_of(layout), "activation": "relu"}

    def everything(at_x, at_residual, at_y):
        a, r = moved(x, at_x), moved(residual, at_residual)
        y, z = (place(x.shape, dtype, at_y) for _ in range(2))
        saved = batch_norm_training(a, gamma, beta, residual=r, out=y, **options)[1]
        batch_norm_inference(a, mean, var, gamma, beta, residual=r, out=z, **options)
        return y, saved.mean, saved.var, z

    want = everything(0, 0, 0)
    for at in itertools.product(OFFSETS[dtype], repeat=3):
        for got, expected in zip(everything(*at), want, strict=True):
            same_bits(got, expected)


@dtypes
@shapes
def test_forward_alone(shape, dtype, layout):
    x, _, gamma, beta, mean, var = numbers(shape, dtype, layout)

    def everything(at_x, at_y):
        y, z = (place(x.shape, dtype, at_y) for _ in range(2))
        batch_norm_training(moved(x, at_x), gamma, beta, axis=axis_of(layout), out=y)
        batch_norm_inference(moved(x, at_x), mean, var, gamma, beta, axis=axis_of(layout), out=z)
        return y, z

    want = everything(0, 0)
    for at in itertools.product(OFFSETS[dtype], repeat=2):
        for got, expected in zip(everything(*at), want, strict=True):
            same_bits(got, expected)


@dtypes
@shapes
def test_backward(shape, dtype, layout):
    x, dy, gamma, beta, _, _ = numbers(shape, dtype, layout)
    axis = axis_of(layout)
    saved = batch_norm_training(x, gamma, beta, axis=axis)[1]

    def everything(at_x, at_dy, at_dx):
        dx = place(x.shape, dtype, at_dx)
        _, dgamma, dbeta = batch_norm_backward(moved(dy, at_dy), moved(x, at_x), saved, gamma, axis=axis, out=dx)
        return dx, dgamma, dbeta

    want = everything(0, 0, 0)
    for at in itertools.product(OFFSETS[dtype], repeat=3):
        for got, expected in zip(everything(*at), want, strict=True):
            same_bits(got, expected)


@dtypes
@pytest.mark.parametrize("channels", [3, 4, 5])
def test_images(channels, dtype, layout):
    x = np.random.default_rng(0).integers(0, 256, (2, 9, 11, channels), np.uint8)
    affine = ChannelAffine(*np.random.default_rng(1).normal(0, 1, (3, channels)))
    out_axis = axis_of(layout)
    want = affine(x, axis=-1, out_axis=out_axis, dtype=dtype)
    for at_x, at_y in itertools.product((0, 1, 7, 63), OFFSETS[dtype]):
        y = place(want.shape, dtype, at_y)
        same_bits(affine(moved(x, at_x), axis=-1, out_axis=out_axis, out=y), want)
