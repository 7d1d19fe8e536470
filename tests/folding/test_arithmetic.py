"""Folding into parameters, compared with an independent slow convolution."""

from dataclasses import FrozenInstanceError

import ml_dtypes
import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, ChannelAffine
from fastbn.folding import FoldingError
from tests.compare import unit
from tests.folding.convolutions import (
    KERNELS,
    LAYOUTS,
    UNITS,
    both,
    close_to,
    conv,
    conv_transposed,
    inputs,
    layouts,
    linear,
    norm,
    normalized,
    parameters,
    ranks,
)


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("zero_variance", [False, True], ids=["", "zero variance"])
@both
@layouts
@ranks
def test_after_conv(rank, name, transposed, zero_variance, bias, dtype):
    layout, slow = LAYOUTS[name], conv_transposed if transposed else conv
    bn = norm(layout.outputs, dtype, zero_variance, eps=1e-3)
    weight, b = parameters(layout.shape(KERNELS[rank], transposed), layout.outputs, dtype, bias)
    folded = fastbn.fold_conv(weight, b, bn, groups=layout.groups, transposed=transposed)
    x = inputs(layout, rank)
    for options in ({}, {"stride": 2, "padding": 1, "dilation": 1}, {"padding": 1, "dilation": 2}):
        if transposed and options:
            options |= {"output_padding": 1}
        exact = normalized(slow(x, weight, b, groups=layout.groups, **options), bn)
        got = slow(x, folded.weight, folded.bias, groups=layout.groups, **options)
        close_to(got, exact, dtype)
    assert folded.weight.dtype == folded.bias.dtype == dtype
    assert folded.weight.shape == weight.shape
    assert 0 < folded.certificate.relative < UNITS * unit(dtype)


CONSTANT_FREE = ChannelAffine([0, 0, 0, 0], [2, -1, 0.3, 1.7], [0, 0, 0, 0])


@pytest.mark.parametrize("zero_variance", [False, True], ids=["", "zero variance"])
@layouts
@ranks
def test_before_conv(rank, name, zero_variance, dtype):
    layout = LAYOUTS[name]
    bn = norm(layout.inputs, dtype, zero_variance, eps=1e-3)
    weight, b = parameters(layout.shape(KERNELS[rank], False), layout.outputs, dtype, rank != 1)
    folded = fastbn.fold_before_conv(bn, weight, b, groups=layout.groups, stride=2, dilation=2)
    x = inputs(layout, rank)
    for options in ({}, {"stride": 2}):
        exact = conv(normalized(x, bn), weight, b, groups=layout.groups, **options)
        got = conv(x, folded.weight, folded.bias, groups=layout.groups, **options)
        close_to(got, exact, dtype, 4 * UNITS)
    assert folded.weight.dtype == folded.bias.dtype == dtype
    assert 0 < folded.certificate.relative < UNITS * unit(dtype)


@both
@ranks
def test_before_a_padded_conv_without_a_constant(rank, transposed):
    layout, slow = LAYOUTS["groups"], conv_transposed if transposed else conv
    weight, b = parameters(layout.shape(KERNELS[rank], transposed), layout.outputs, np.float32, True)
    options = {"stride": 2, "padding": 1} | ({"output_padding": 1} if transposed else {})
    folded = fastbn.fold_before_conv(CONSTANT_FREE, weight, b, groups=2, transposed=transposed, **options)
    x = inputs(layout, rank)
    scale = CONSTANT_FREE.scale.reshape(-1, *(1,) * rank)
    exact = slow(x * scale, weight, b, groups=2, **options)
    close_to(slow(x, folded.weight, folded.bias, groups=2, **options), exact, np.float32)
    np.testing.assert_array_equal(folded.bias, b)


@pytest.mark.parametrize(("mode", "numpy_mode"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
@ranks
def test_padding_that_repeats_values(rank, mode, numpy_mode):
    layout, bn = LAYOUTS["groups"], norm(4)
    weight, b = parameters(layout.shape(KERNELS[rank], False), layout.outputs, np.float64, True)
    folded = fastbn.fold_before_conv(bn, weight, b, groups=2, padding=1, padding_mode=mode)

    def padded(x):
        return np.pad(x, [(0, 0)] * 2 + [(1, 1)] * rank, mode=numpy_mode)

    x = inputs(layout, rank)
    exact = conv(padded(normalized(x, bn)), weight, b, groups=2)
    close_to(conv(padded(x), folded.weight, folded.bias, groups=2), exact, np.float64)
    assert folded.certificate.relative < UNITS * unit(np.float64)


TRANSPOSED = {
    # kernel, options, whether every output sees every tap
    "pointwise": ((1, 1), {}, True),
    "pointwise, cropped": ((1, 1), {"padding": 1}, True),
    "pointwise, gaps": ((1, 1), {"stride": 2}, False),
    "borders": ((3, 3), {}, False),
    "borders, some": ((3, 3), {"padding": 1}, False),
    "cropped": ((3, 3), {"padding": 2}, True),
    "cropped in one axis": ((3, 1), {"padding": (2, 0)}, True),
    "stride": ((2, 2), {"stride": 2, "padding": 1}, False),
    "dilation": ((2, 2), {"padding": 1, "dilation": 2}, False),
    "dilation, cropped": ((2, 2), {"padding": 2, "dilation": 2}, True),
    "output padding": ((2, 2), {"padding": 2, "dilation": 2, "output_padding": 1}, False),
    "output padding, cropped": ((2, 2), {"padding": 3, "dilation": 2, "output_padding": 1}, True),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_before_a_transposed_conv(name):
    kernel, options, uniform = TRANSPOSED[name]
    bn = norm(4)
    weight, b = parameters((4, 3, *kernel), 6, np.float64, True)

    def fold():
        return fastbn.fold_before_conv(bn, weight, b, groups=2, transposed=True, **options)

    x = np.random.default_rng(0).standard_normal((1, 4, 6, 7)).astype(np.longdouble)
    if isinstance(options.get("padding"), tuple):
        options_slow = {"padding": 0}
        crop = (..., slice(2, -2), slice(None))
    else:
        options_slow, crop = options, ...
    exact = conv_transposed(normalized(x, bn), weight, b, groups=2, **options_slow)[crop]
    if uniform:
        folded = fold()
        got = conv_transposed(x, folded.weight, folded.bias, groups=2, **options_slow)[crop]
        close_to(got, exact, np.float64)
        assert folded.certificate.relative < UNITS * unit(np.float64)
    else:
        with pytest.raises(FoldingError, match=r"fewer taps than others .* in channels 0, 1, 2, 3, so that no bias"):
            fold()
        # The refusal is necessary: a bias that is right in the interior is wrong elsewhere.
        blind = fastbn.fold_before_conv(bn, weight, b, groups=2, transposed=True, padding=99)
        got = conv_transposed(x, blind.weight, blind.bias, groups=2, **options_slow)[crop]
        assert np.abs(got - exact).max() > 0.1


def test_before_a_padded_conv_is_refused():
    weight, affine = np.ones((2, 3, 3, 3)), ChannelAffine([0, 2, 1], [1, 3, 0.5], [0, 1, 0.5])
    for padding in (1, (0, 1), "same"):
        with pytest.raises(FoldingError, match=r"pads with zeros after the batch norm, .* in channels 1, so that"):
            fastbn.fold_before_conv(affine, weight, None, padding=padding)
    assert fastbn.fold_before_conv(affine, weight, None, padding="valid").bias.tolist() == [-45, -45]
    assert fastbn.fold_before_conv(affine, np.ones((2, 3, 1, 1)), None, padding="same").bias.tolist() == [-5, -5]
    many = ChannelAffine(np.ones(20), np.ones(20), np.zeros(20))
    with pytest.raises(FoldingError, match="in channels 0, 1, 2, 3, 4, 5, 6, 7 and 12 more, so that"):
        fastbn.fold_before_conv(many, np.ones((2, 20, 3)), None, padding=1)


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_linear(bias, dtype):
    weight, b = parameters((6, 5), 6, dtype, bias)
    x = np.random.default_rng(2).standard_normal((4, 5)).astype(np.longdouble)
    after, before = norm(6, dtype), norm(5, dtype)
    folded = fastbn.fold_linear(weight, b, after)
    close_to(linear(x, folded.weight, folded.bias), normalized(linear(x, weight, b), after), dtype)
    folded = fastbn.fold_before_linear(before, weight, b)
    close_to(linear(x, folded.weight, folded.bias), linear(normalized(x, before), weight, b), dtype)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("training", [True, False])
def test_running_averages_count_in_any_mode_and_layout(training, axis):
    weight, _ = parameters((6, 5), 6, np.float64, False)
    bn = norm(6)
    expected = fastbn.fold_linear(weight, None, bn.eval())
    other = BatchNorm(6, axis=axis, dtype=np.float64)
    other.load_state_dict(bn.state_dict())
    for source in (other.train(training), other.frozen()):
        folded = fastbn.fold_linear(weight, None, source)
        np.testing.assert_array_equal(folded.weight, expected.weight)
        np.testing.assert_array_equal(folded.bias, expected.bias)


def test_without_gamma_and_beta():
    bn = BatchNorm(2, affine=False, eps=1.0, dtype=np.float64)
    bn.running_mean[:], bn.running_var[:] = [1, 2], [3, 0]
    folded = fastbn.fold_linear(np.ones((2, 1)), None, bn)
    assert folded.weight.tolist() == [[0.5], [1.0]]
    assert folded.bias.tolist() == [-0.5, -2.0]


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float16, 2.0**-11), (ml_dtypes.bfloat16, 2.0**-8)],
                         ids=["float16", "bfloat16"])
def test_halves(dtype, rounding):
    weight, b = (array.astype(dtype) for array in parameters((6, 5, 3), 6, np.float32, True))
    folded = fastbn.fold_conv(weight, b, norm(6))
    exact = fastbn.fold_conv(weight.astype(float), b.astype(float), norm(6))
    assert folded.weight.dtype == folded.bias.dtype == dtype
    assert rounding / 100 < folded.certificate.relative < UNITS * rounding
    for got, value in ((folded.weight, exact.weight), (folded.bias, exact.bias)):
        assert (np.abs(got.astype(float) - value) <= rounding * np.abs(value)).all()
    mixed = fastbn.fold_conv(weight, b.astype(np.float32), norm(6))
    np.testing.assert_array_equal(mixed.bias, folded.bias)


@pytest.mark.parametrize(("dtype", "bits"), [(np.float16, 10), (ml_dtypes.bfloat16, 7)], ids=["float16", "bfloat16"])
def test_halves_are_rounded_once(dtype, bits):
    # A float64 value just above a tie becomes the tie in float32, and a second rounding would round down.
    last, little = 2.0**-bits, 2.0**-40
    affine = ChannelAffine([0, 0, 0], [1 + last / 2 + little, 1 + last / 2, 1], [1 + last / 2 + little, 0, 0])
    folded = fastbn.fold_linear(np.ones((3, 1), dtype), None, affine)
    assert folded.weight[:, 0].tolist() == [1 + last, 1, 1]
    assert folded.bias.tolist() == [1 + last, 0, 0]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_subnormal_parameters_are_zero(dtype):
    tiny = float(ml_dtypes.finfo(dtype).tiny)
    affine = ChannelAffine([0, 0], [1, 0.5], [tiny, tiny / 4])
    folded = fastbn.fold_linear(np.array([[tiny, -tiny], [tiny, 1]], dtype), None, affine)
    assert folded.weight.tolist() == [[tiny, -tiny], [0, 0.5]]
    assert folded.bias.tolist() == [tiny, 0]


def test_memory_order_does_not_matter():
    weight, b = parameters((4, 3, 3, 2), 4, np.float32, True)
    expected = fastbn.fold_conv(weight, b, norm(4))
    for other in (np.asfortranarray(weight), weight[::-1].copy()[::-1], weight.astype(">f4")):
        folded = fastbn.fold_conv(other, b, norm(4))
        np.testing.assert_array_equal(folded.weight, expected.weight)
        assert folded.weight.dtype.isnative
        assert folded.certificate == expected.certificate


def test_arguments_are_left_alone_and_results_immutable():
    weight, b = parameters((4, 3, 3), 4, np.float32, True)
    before = weight.copy(), b.copy()
    folded = fastbn.fold_conv(weight, b, norm(4))
    np.testing.assert_array_equal(weight, before[0])
    np.testing.assert_array_equal(b, before[1])
    for array in (folded.weight, folded.bias):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
    for name in ("weight", "bias", "certificate"):
        with pytest.raises(FrozenInstanceError):
            setattr(folded, name, None)
    with pytest.raises(FrozenInstanceError):
        folded.certificate.absolute = 0.0
    assert weight.flags.writeable
