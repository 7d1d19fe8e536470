"""Objects of other libraries that export their memory: taken as x without a copy, by DLPack or the array interface."""

import numpy as np
import pytest

from fastbn import BatchNorm, ChannelAffine, ChannelStats
from fastbn._core.views import as_plain
from fastbn.functional import batch_norm_inference, batch_norm_training
from tests.compare import same_bits

CPU, CUDA, PINNED = 1, 2, 3


class DLPack:
    """An array of a library that NumPy knows by DLPack alone."""

    def __init__(self, array, device=CPU):
        self._array, self._device = array, device

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._device, 0


class Interface:
    """One that NumPy knows by the array interface alone."""

    def __init__(self, array):
        self._array = array

    @property
    def __array_interface__(self):
        return self._array.__array_interface__


X = np.random.default_rng(0).normal(3, 2, (6, 3, 5, 7))
exports = pytest.mark.parametrize("export", [DLPack, Interface])


@exports
def test_without_a_copy(export):
    x = X.astype(np.float32)
    assert np.shares_memory(as_plain(export(x), "x"), x)


@exports
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_as_x_of_every_function(export, kind):
    x = X.astype(kind)
    mean, var = np.zeros(3), np.ones(3)
    for call in (lambda x: batch_norm_training(x)[0], lambda x: batch_norm_inference(x, mean, var), BatchNorm(3).eval(),
                 lambda x: BatchNorm(3)(x), lambda x: BatchNorm(3)(x, mask=np.arange(6)[:, None, None] < 4),
                 BatchNorm(3).frozen(), lambda x: ChannelAffine(mean, var, mean)(x, out_axis=-1)):
        y = call(export(x))
        assert type(y) is np.ndarray
        same_bits(y, call(x))
    got, expected = (ChannelStats(3).update(value) for value in (export(x), x))
    same_bits(got.mean, expected.mean)
    same_bits(got.var(), expected.var())


@exports
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_images(export, kind):
    x = np.arange(4 * 5 * 3, dtype=kind).reshape(4, 5, 3)
    normalize = ChannelAffine.from_mean_std([0.5] * 3, [0.25] * 3)
    same_bits(normalize(export(x), out_axis=0), normalize(x, out_axis=0))
    same_bits(normalize(export(x)), normalize(x))
    if kind is np.uint8:
        same_bits(ChannelStats(3, axis=-1).update(export(x)).mean, ChannelStats(3, axis=-1).update(x).mean)


@exports
def test_residual_and_gradient(export):
    r, dy = X[::-1].copy(), X + 1
    bn, other = BatchNorm(3, dtype=np.float64), BatchNorm(3, dtype=np.float64)
    same_bits(bn(export(X), residual=export(r)), other(X, residual=r))
    for got, expected in zip(bn.backward(export(dy)), other.backward(dy), strict=True):
        same_bits(got, expected)


@exports
def test_parameters(export):
    gamma, mean, var = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -0.5]), np.array([1.0, 4.0, 9.0])
    same_bits(batch_norm_training(X, export(gamma), export(mean))[0], batch_norm_training(X, gamma, mean)[0])
    same_bits(batch_norm_inference(X, export(mean), export(var)), batch_norm_inference(X, mean, var))
    same_bits(ChannelAffine(export(mean), export(var), export(gamma))(X), ChannelAffine(mean, var, gamma)(X))
    bn = BatchNorm(3)
    bn.gamma = export(gamma)
    assert type(bn.gamma) is np.ndarray
    assert np.shares_memory(bn.gamma, gamma)


@exports
def test_masks_lengths_and_weights(export):
    x, mask = X[:, :, 0], np.arange(7) < 3
    lengths, weights = np.array([1, 2, 3, 4, 5, 6]), np.arange(6.0)
    for name, value in (("mask", mask), ("lengths", lengths), ("sample_weight", weights)):
        got, expected = (ChannelStats(3).update(x, **{name: v}) for v in (export(value), value))
        assert got == expected
    same_bits(BatchNorm(3)(x, mask=export(mask)), BatchNorm(3)(x, mask=mask))


@exports
def test_masks_that_differ_by_channel(export):
    mask = np.broadcast_to(np.arange(3)[:, None, None] != 1, X.shape) & (X > 3)
    with pytest.raises(ValueError, match="mask leaves no values in channel 1"):
        BatchNorm(3, averaging="cumulative")(export(X), mask=mask)
    bn, other = (BatchNorm(3, averaging="exact", dtype=np.float64) for _ in range(2))
    same_bits(bn(export(X), mask=mask, out=np.empty_like(X)), other(X, mask=mask))
    same_bits(bn.running_var, other.running_var)


@exports
def test_views(export):
    x = X.astype(np.float32)[::-1, :, 1:, ::2]
    same_bits(BatchNorm(3).eval()(export(x)), BatchNorm(3).eval()(x))


def test_memory_that_the_cpu_reads():
    same_bits(BatchNorm(3).eval()(DLPack(X, PINNED)), BatchNorm(3).eval()(X))


@pytest.mark.parametrize(("device", "name"), [
    (CUDA, "CUDA 0"), (8, "Metal 0"), (10, "ROCm 0"), (99, "of DLPack type 99")])
def test_other_devices_are_refused(device, name):
    x = DLPack(X, device)
    for call in (BatchNorm(3), BatchNorm(3).frozen(), ChannelStats(3).update):
        with pytest.raises(TypeError, match=f"x is on the device {name}.*; expected memory of the CPU"):
            call(x)
    with pytest.raises(TypeError, match=f"residual is on the device {name}"):
        BatchNorm(3)(X, residual=x)


def test_an_export_without_a_device_is_taken_at_its_word():
    class Bare:
        def __dlpack__(self, **options):
            return X.__dlpack__(**options)

    same_bits(BatchNorm(3).eval()(Bare()), BatchNorm(3).eval()(X))


def test_an_array_of_another_device_is_not_copied_implicitly():
    class Array(DLPack):
        def __array__(self, *arguments, **options):
            raise AssertionError("x was copied from its device")

    with pytest.raises(TypeError, match="x is on the device CUDA 0"):
        BatchNorm(3)(Array(X, CUDA))


def test_dtypes_that_are_refused():
    with pytest.raises(TypeError, match="x has dtype int64; expected float32"):
        BatchNorm(3)(Interface(X.astype(int)))
    with pytest.raises(TypeError, match="x has dtype complex128; expected float32"):
        BatchNorm(3)(DLPack(X.astype(complex)))


def test_an_export_that_fails_is_an_error_that_names_the_argument():
    class Broken(DLPack):
        def __dlpack__(self, **options):
            raise BufferError("bfloat16 is not exported")

    with pytest.raises(TypeError, match="x of type Broken cannot be imported by DLPack: bfloat16 is not exported"):
        BatchNorm(3)(Broken(X))


def test_masked_arrays_point_at_the_mask():
    x = np.ma.array(X, mask=X > 5)
    message = r"x is a masked array, .*; BatchNorm and ChannelStats take x\.data with mask=~x\.mask, the values"
    for call in (BatchNorm(3), ChannelStats(3).update, batch_norm_training):
        with pytest.raises(TypeError, match=message):
            call(x)
    with pytest.raises(TypeError, match=r"residual is a masked array, .*; expected a plain array$"):
        BatchNorm(3)(X, residual=x)
    # And that way they go in.
    whole = np.zeros((6, 5, 7), bool)
    whole[3:] = True
    y = np.ma.array(X, mask=np.broadcast_to(~whole[:, None], X.shape))
    got = ChannelStats(3).update(y.data, mask=~y.mask[:, 0])
    np.testing.assert_allclose(got.mean, X[3:].mean((0, 2, 3)), rtol=1e-14)
