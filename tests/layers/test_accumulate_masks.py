"""Masks, lengths and jagged micro-batches give what the whole batch gives."""

import numpy as np
import pytest

from fastbn import BatchNorm
from tests.cases import axis_of
from tests.compare import same_bits
from tests.layers.test_accumulate import SIZES, layer, near, parts
from tests.layers.trained import assert_same, snapshot


def selected(kind, layout, seed=5):
    """The masks or lengths of the micro-batches, as keyword arguments of accumulate, of a call, and of the whole."""
    rng = np.random.default_rng(seed)
    if kind == "lengths":
        lengths = [rng.integers(0, 10, n) for n in SIZES]
        return {"lengths": lengths}, [{"lengths": k} for k in lengths], {"lengths": np.concatenate(lengths)}
    masks = [rng.random((n, 6, 9, 3) if kind == "channels" else (n, 9, 3)) < 0.6 for n in SIZES]
    if kind == "channels":
        masks[2][:, 4] = False
        for mask in masks:
            mask[:, 1] = False
        masks = masks if layout == "planes" else [np.moveaxis(mask, 1, -1) for mask in masks]
    masks[1][...] = False       # of which nothing counts
    return {"masks": masks}, [{"mask": mask} for mask in masks], {"mask": np.concatenate(masks)}


@pytest.mark.parametrize("options", [{}, {"averaging": "exact"}, {"unbiased": False, "momentum": 0.3}], ids=str)
@pytest.mark.parametrize("kind", ["positions", "lengths", "channels"])
def test_masks_as_the_whole_batch(kind, options, layout, dtype, activation, with_residual):
    xs, rs, dys = parts(0, layout, dtype, 3.0), parts(1, layout, dtype), parts(2, layout, dtype)
    bn, one = layer(layout, dtype, **options), layer(layout, dtype, **options)
    given, each, of_all = selected(kind, layout)
    for array in (xs, rs, dys):     # what does not count is not looked at
        if kind == "channels":
            for a, mask in zip(array, given["masks"], strict=True):
                a[~mask] = np.nan
    whole = bn.accumulate(iter(xs), **{name: iter(values) for name, values in given.items()})
    ys = [whole(x, r if with_residual else None, activation, **mask)
          for x, r, mask in zip(xs, rs, each, strict=True)]
    gradients = whole.backward(dys)
    dxs, drs = zip(*gradients, strict=True) if with_residual else (gradients, [])
    y = one(np.concatenate(xs), np.concatenate(rs) if with_residual else None, activation, **of_all)
    dx, *dr = one.backward(np.concatenate(dys)) if with_residual else (one.backward(np.concatenate(dys)),)
    near(np.concatenate(ys), y, dtype)
    near(np.concatenate(dxs), dx, dtype)
    for d in dr:
        same_bits(np.concatenate(drs), d)
    for name in ("grad_gamma", "grad_beta", "running_mean", "running_var"):
        near(getattr(bn, name), getattr(one, name), dtype, 4)
    assert bn.num_batches_tracked == one.num_batches_tracked == 1


def test_padding_and_targets_of_micro_batches(layout):
    xs, dys = parts(0, layout), parts(1, layout)
    given, each, _ = selected("positions", layout)
    bn = layer(layout)
    whole = bn.accumulate(xs, **given)
    right = [whole(x, **mask) for x, mask in zip(xs, each, strict=True)]
    dxs = whole.backward(dys)
    whole = bn.accumulate(xs, **given)
    for x, y, mask in zip(xs, right, each, strict=True):
        out = np.full_like(x, 7)
        assert whole(x, out=out, padding="keep", **mask) is out
        chosen = np.expand_dims(mask["mask"], axis_of(layout))
        np.testing.assert_array_equal(out, np.where(chosen, y, 7))
    got = whole.backward(dys, out=dys)
    for dx, dy, want, mask in zip(got, dys, dxs, each, strict=True):
        assert dx is dy
        chosen = np.broadcast_to(np.expand_dims(mask["mask"], axis_of(layout)), dx.shape)
        np.testing.assert_array_equal(dx[chosen], want[chosen])


def test_jagged_micro_batches():
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((n, 6)).astype(np.float32) for n in SIZES]
    pairs = [(x, np.array([0, len(x) // 2, len(x)])) for x in xs]
    bn, one = layer("rows"), layer("rows")
    whole, plain = bn.accumulate(pairs), one.accumulate(xs)
    for pair, x in zip(pairs, xs, strict=True):
        y, offsets = whole(pair)
        assert offsets is pair[1]
        same_bits(y, plain(x))
    for got, want in zip(whole.backward(xs), plain.backward(xs), strict=True):
        same_bits(got, want)


@pytest.mark.parametrize(("masks", "message"), [
    ([np.ones((5, 9, 3), bool)], "micro_batches and masks have different lengths"),
    ([None] * 5, "micro_batches and masks have different lengths"),
    ([np.ones((3, 3), int)] * 4, "mask has dtype int64"),
    (3, "masks must be an iterable of arrays, got int"),
    ([np.zeros(9, bool)[:, None]] * 4, "micro_batches have 0 values per channel in total"),
])
def test_bad_masks_change_nothing(masks, message):
    bn = layer()
    before = snapshot(bn)
    with pytest.raises((TypeError, ValueError), match=message):
        bn.accumulate(parts(0), masks=masks)
    assert_same(bn, before)


def test_a_single_value_that_counts():
    masks = [np.ones((n, 6, 1, 1), bool) for n in SIZES]
    for mask in masks:
        mask[:, 2] = False
    masks[0] = np.ones((5, 6, 9, 3), bool)
    masks[0][:, 2] = False
    masks[0][0, 2, 0, 0] = True
    with pytest.raises(ValueError, match="micro_batches have a single value that counts in channel 2"):
        layer().accumulate(parts(0), masks=masks)


def test_forwards_need_the_masks_of_the_statistics():
    xs = parts(0)
    given, each, _ = selected("channels", "planes")
    whole = layer().accumulate(xs, **given)
    for x, mask in zip(xs, [*each[:-1], {}], strict=True):
        whole(x, **mask)
    with pytest.raises(ValueError, match=r"the forward passes had [0-9]+ values (per channel|in channel [0-9]) in t"):
        whole.backward(xs)


def test_marks_of_jagged_micro_batches_are_refused():
    jagged = np.arange(12.0).reshape(6, 2), np.array([0, 2, 6])
    bn = BatchNorm(2, axis=-1)
    message = "mask and lengths must be None if x is jagged"
    with pytest.raises(ValueError, match=message):
        bn.accumulate([jagged], masks=[np.ones(6, bool)])
    whole = bn.accumulate([jagged])
    with pytest.raises(ValueError, match=message):
        whole(jagged, lengths=[2, 4])
    assert bn.num_batches_tracked == 1


def test_errors_name_the_micro_batch():
    fits = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"micro_batches\[1\] has shape \(4, 2\), which is 2 channels along axis 1"):
        BatchNorm(3).accumulate([fits, fits[:, :2]])
    with pytest.raises(TypeError, match=r"micro_batches\[0\] has dtype uint8"):
        BatchNorm(3).accumulate([fits.astype(np.uint8)])
