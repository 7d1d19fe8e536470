"""Invalid arguments of folding, and their messages."""

import ml_dtypes
import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, ChannelAffine
from fastbn.folding import FoldingError
from tests.folding.convolutions import norm

W, B, BN = np.ones((4, 3, 3), np.float32), np.zeros(4), norm(4)
NOT_TRACKING = BatchNorm(4, track_running_stats=False)
UNFIT = BatchNorm(4)
UNFIT.running_mean[1] = np.nan

BAD_CONV = {
    "weight integer": ((W.astype(int), B, BN), {}, TypeError, "weight has dtype int64; expected float32, float64, "),
    "weight masked": ((np.ma.array(W), B, BN), {}, TypeError, "weight is a masked array"),
    "weight NaN": ((W * np.nan, B, BN), {}, ValueError, "weight has values that are not finite"),
    "weight 1-d": ((W[0, 0], None, BN), {}, ValueError, r"weight has shape \(3,\); expected two or more axes"),
    "weight 2-d": ((W[0], None, BN), {}, ValueError, "weight has 2 axes; expected 3, 4 or 5"),
    "weight 6-d": ((W[..., None, None, None], B, BN), {}, ValueError, "weight has 6 axes; expected 3, 4 or 5"),
    "weight empty": ((W[:, :0], B, BN), {}, ValueError, r"weight has shape \(4, 0, 3\); .* none of them empty"),
    "bias shape": ((W, B[:3], BN), {}, ValueError, r"bias has shape \(3,\); expected \(4,\), the output channels"),
    "bias shape, transposed": ((W, B, BN), {"transposed": True}, ValueError, r"bias has shape \(4,\); expected \(3,\)"),
    "bias integer": ((W, B.astype(int), BN), {}, TypeError, "bias has dtype int64"),
    "bias inf": ((W, B + np.inf, BN), {}, ValueError, "bias has values that are not finite"),
    "groups 0": ((W, B, BN), {"groups": 0}, ValueError, "groups must be at least 1, got 0"),
    "groups 3": ((W, B, BN), {"groups": 3}, ValueError, "groups must divide the first axis of weight, 4, got 3"),
    "groups float": ((W, B, BN), {"groups": 2.0}, TypeError, "groups must be an integer, got 2.0"),
    "transposed": ((W, None, BN), {"transposed": 1}, TypeError, "transposed must be True or False, got 1"),
    "bn None": ((W, B, None), {}, TypeError, "bn must be a BatchNorm or a ChannelAffine, got NoneType"),
    "bn channels": ((W, B, norm(3)), {}, ValueError, "bn has 3 channels; expected 4, the output channels of weight"),
    "bn without averages": ((W, B, NOT_TRACKING), {}, RuntimeError, "has no statistics to freeze"),
    "bn NaN": ((W, B, UNFIT), {}, ValueError, "mean has values that are not finite"),
}

BAD_BEFORE = {
    "bn channels": (norm(4), {}, ValueError, "bn has 4 channels; expected 3, the input channels of weight"),
    "padding text": (norm(3), {"padding": "full"}, ValueError, "padding must be .*, 'valid' or 'same', got 'full'"),
    "padding negative": (norm(3), {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    "padding count": (norm(3), {"padding": (1, 1)}, ValueError, r"padding must be one integer or 1, .*, got \(1, 1\)"),
    "padding float": (norm(3), {"padding": 0.5}, TypeError, "padding must be an integer, got 0.5"),
    "padding mode": (norm(3), {"padding_mode": "edge"}, ValueError, "padding_mode must be one of .*, got 'edge'"),
    "stride": (norm(3), {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    "dilation": (norm(3), {"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
    "output padding": (norm(3), {"output_padding": 1}, ValueError, "output_padding is for transposed convolutions"),
    "transposed mode": (norm(4), {"transposed": True, "padding_mode": "reflect"}, ValueError,
                        "a transposed convolution takes .*, got padding 0 and padding_mode 'reflect'"),
    "transposed same": (norm(4), {"transposed": True, "padding": "same"}, ValueError,
                        "a transposed convolution takes .*, got padding 'same' and padding_mode 'zeros'"),
}


@pytest.mark.parametrize("name", BAD_CONV)
def test_bad_conv(name):
    arguments, options, error, message = BAD_CONV[name]
    with pytest.raises(error, match=message):
        fastbn.fold_conv(*arguments, **options)


@pytest.mark.skipif(np.finfo(np.longdouble).bits == 64, reason="longdouble is float64 here")
def test_longdouble():
    with pytest.raises(TypeError, match=r"weight has dtype .*; expected float32, float64, float16 or bfloat16"):
        fastbn.fold_conv(W.astype(np.longdouble), B, BN)


@pytest.mark.parametrize("name", BAD_BEFORE)
def test_bad_before(name):
    bn, options, error, message = BAD_BEFORE[name]
    with pytest.raises(error, match=message):
        fastbn.fold_before_conv(bn, W, None, **options)


def test_bad_linear():
    with pytest.raises(ValueError, match="weight has 3 axes; expected 2"):
        fastbn.fold_linear(W, B, BN)
    with pytest.raises(ValueError, match="bn has 4 channels; expected 3, the input channels"):
        fastbn.fold_before_linear(BN, W[0], None)


@pytest.mark.parametrize(("dtype", "most"), [
    (np.float16, 6e4), (ml_dtypes.bfloat16, 3e38), (np.float32, 3e38), (np.float64, 1e308)])
def test_overflow_is_refused(dtype, most):
    weight = np.full((3, 2, 1), 1, dtype)
    weight[1:] = most
    with pytest.raises(FoldingError, match=f"folded weight overflows {np.dtype(dtype)} in output channels 1, 2$"):
        fastbn.fold_conv(weight, None, ChannelAffine(np.zeros(3), np.full(3, 4.0), np.zeros(3)))
    with pytest.raises(FoldingError, match=f"folded bias overflows {np.dtype(dtype)} in output channels 1$"):
        fastbn.fold_conv(np.ones((3, 2, 1), dtype), np.array([0, most, 0], dtype),
                         ChannelAffine(np.zeros(3), np.full(3, 4.0), np.zeros(3)))
    huge = ChannelAffine(np.zeros(3), np.ones(3), np.full(3, most))
    with pytest.raises(FoldingError, match=f"folded bias overflows {np.dtype(dtype)} in output channels 0, 1$"):
        fastbn.fold_before_linear(huge, np.ones((2, 3), dtype), None)


def test_a_layer_that_overrides_call():
    class Act(BatchNorm):
        def __call__(self, x):
            return super().__call__(x, activation="relu")

    class Doubled(Act):
        def frozen(self):
            return ChannelAffine(np.zeros(4), np.full(4, 2.0), np.zeros(4))

    class Named(BatchNorm):
        pass

    with pytest.raises(TypeError, match="bn of class Act overrides __call__, so its result may differ from"):
        fastbn.fold_conv(W, B, Act(4))
    np.testing.assert_array_equal(fastbn.fold_conv(W, B, Doubled(4)).weight, 2 * W)
    np.testing.assert_array_equal(fastbn.fold_conv(W, B, Named(4)).weight, fastbn.fold_conv(W, B, BatchNorm(4)).weight)
