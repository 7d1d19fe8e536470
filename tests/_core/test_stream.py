"""Outputs that are stored around the caches have the same bits as others."""

import ml_dtypes
import numpy as np
import pytest

from fastbn import ChannelAffine
from fastbn._core.dispatch import kernels
from fastbn.functional import batch_norm_backward, batch_norm_training
from tests.awkward import place
from tests.cases import axis_of
from tests.compare import same_bits

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.fixture
def streaming():
    """The kernels take every output for larger than the last cache."""
    before = kernels.assume_last_cache(0)
    yield
    kernels.assume_last_cache(before)


SMALL = [(3, 5, 16, 16), (2, 64, 7, 7), (2, 3, 40, 41), (2, 2048, 2, 2)]
THREADED = (5, 24, 28, 28)
# Outputs begin at a multiple of 32 bytes, which the kernels store at a time, of 16, and of neither.
PLACES = [*((shape, offset) for shape in SMALL for offset in (0, 16, 40)), (THREADED, 0)]


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize(("shape", "offset"), PLACES, ids=str)
def test_bits(streaming, shape, dtype, offset, activation, layout):
    rng = np.random.default_rng(0)
    x, residual = (rng.normal(0, 2, shape).astype(dtype) for _ in range(2))
    channels, axis = shape[1], axis_of(layout)
    if layout == "rows":
        x, residual = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, residual))
    affine = ChannelAffine(*rng.normal(0, 1, (3, channels)), axis=axis)
    gamma = rng.normal(0, 1, channels).astype(np.float32)
    for other in (None, residual):
        calls = [lambda out, other=other: affine(x, other, activation, out)]
        if activation != "silu":
            calls.append(lambda out, other=other: batch_norm_training(
                x, gamma, axis=axis, residual=other, activation=activation, out=out)[0])
        for call in calls:
            streamed = call(place(x.shape, dtype, offset))
            before = kernels.assume_last_cache(1 << 40)
            same_bits(streamed, call(np.empty_like(x)))
            kernels.assume_last_cache(before)


@pytest.mark.parametrize("fused", ["nothing", "relu", "residual", "residual and relu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize(("shape", "offset"), PLACES, ids=str)
def test_bits_of_gradients(streaming, shape, dtype, offset, fused, layout):
    rng = np.random.default_rng(0)
    x, dy, residual = (rng.normal(0, 2, shape).astype(dtype) for _ in range(3))
    channels, axis = shape[1], axis_of(layout)
    if layout == "rows":
        x, dy, residual = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy, residual))
    gamma = rng.normal(0, 1, channels).astype(np.float32)
    _, saved = batch_norm_training(
        x, gamma, axis=axis, residual=residual if "residual" in fused else None,
        activation="relu" if "relu" in fused else None)
    streamed = batch_norm_backward(dy, x, saved, gamma, axis=axis, out=place(x.shape, dtype, offset))
    before = kernels.assume_last_cache(1 << 40)
    expected = batch_norm_backward(dy, x, saved, gamma, axis=axis)
    kernels.assume_last_cache(before)
    for a, b in zip(streamed, expected, strict=True):
        same_bits(a, b)
