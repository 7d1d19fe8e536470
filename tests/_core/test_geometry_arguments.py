"""The kernels refuse samples and channels that do not fit the arrays, before anything is written."""

import numpy as np
import pytest

from fastbn._core import views
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept

X = np.random.default_rng(0).normal(size=(4, 6, 20)).astype(np.float32)
VIEW = views.view(X, 1)
KEPT = Kept(mean=np.zeros(24), low=None, rstd=np.ones(24), scale=None, shift=None, bits=None, frozen=False,
            activation=(0, 0.0))
GATED = KEPT._replace(scale=np.ones(24), shift=np.zeros(6), activation=(1, 0.0))


def forward(samples, channels, view=VIEW, bits=None):
    y = views.output(view)
    y.array[...] = 7
    try:
        return kernels.forward(view, y, view, None, None, 1e-5, activation=(1, 0.0), bits=bits, fill=False,
                               num_threads=1, samples=samples, channels=channels)
    finally:
        assert bits is not None or view.size == y.array.size
        forward.written = (y.array != 7).any()


def backward(kept, samples=1, channels=1):
    dx = np.full_like(X, 7)
    try:
        return kernels.backward(VIEW, VIEW, views.output(VIEW, dx), None, kept, None, fill=False, num_threads=1,
                                samples=samples, channels=channels)
    finally:
        backward.written = (dx != 7).any()


@pytest.mark.parametrize(("samples", "channels", "message"), [
    (0, 1, "samples must be None or at least 1, got 0"), (-1, 1, "samples must be None or at least 1, got -1"),
    (1, 0, "channels must divide the 6 channels of x, got 0"), (1, 4, "channels must divide the 6 channels"),
    (1, -1, "channels must divide"), (1, 12, "channels must divide the 6 channels of x, got 12")])
def test_a_geometry_that_does_not_fit(samples, channels, message):
    for call in (forward, lambda *geometry: backward(KEPT, *geometry)):
        with pytest.raises(ValueError, match=f"^{message}"):
            call(samples, channels)
    assert not forward.written
    assert not backward.written


@pytest.mark.parametrize("samples", [1.5, "1", (1,)])
def test_samples_that_are_no_integer(samples):
    with pytest.raises(TypeError):
        forward(samples, 1)
    assert not forward.written


@pytest.mark.parametrize(("samples", "channels", "count"), [
    (None, 1, 6), (4, 1, 6), (9, 1, 6), (1, 1, 24), (3, 1, 12), (1, 3, 8), (3, 2, 6), (None, 6, 1)])
def test_the_number_of_statistics(samples, channels, count):
    assert [len(v) for v in forward(samples, channels)] == [count] * 4
    assert forward.written


def test_batch_norm_is_the_default():
    for samples in (4, 5):
        for given, default in zip(forward(samples, 1), forward(None, 1), strict=True):
            np.testing.assert_array_equal(given, default)


def test_an_index():
    view = views.view(np.ones((100, 64), np.float32), 1)
    assert views.choose(view, np.array([0, 5, 99]))
    for samples, channels in ((2, 1), (None, 2)):
        with pytest.raises(ValueError, match=r"^samples and channels cannot be combined with an index"):
            kernels.forward(view, view, None, None, None, 1e-5, activation=(0, 0.0), bits=None, fill=False,
                            num_threads=1, samples=samples, channels=channels)


@pytest.mark.parametrize(("kept", "samples", "channels", "message"), [
    (KEPT._replace(frozen=True), 1, 1, "kept has frozen statistics"),
    (KEPT._replace(mean=np.zeros(6)), 1, 1, r"mean has shape \(6,\); expected \(24,\)"),
    (KEPT, 2, 1, r"mean has shape \(24,\); expected \(12,\)"),
    (KEPT, 1, 2, r"mean has shape \(24,\); expected \(12,\)"),
    (GATED._replace(scale=np.ones(6)), 1, 1, r"scale has shape \(6,\); expected \(24,\)")], ids=str)
def test_what_another_geometry_leaves(kept, samples, channels, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        backward(kept, samples, channels)
    assert not backward.written
    backward(GATED)
    assert backward.written


def test_bits_of_another_geometry():
    # Narrow rows are read as wide rows, which end with their sample group.
    rows = views.view(np.ones((20, 3), np.float32), 1)
    assert kernels.bits_words(rows) != kernels.bits_words(rows, 3)
    bits = np.zeros(kernels.bits_words(rows), np.uint16)
    with pytest.raises(ValueError, match=rf"^bits must be uint16\[{kernels.bits_words(rows, 3)}\]"):
        forward(3, 1, rows, bits)
