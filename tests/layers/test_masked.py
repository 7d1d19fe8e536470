"""Masks and lengths in the layer: the same as batch normalization of the rows that count, put one behind the other."""

import ml_dtypes
import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn._core import views
from fastbn._core.dispatch import kernels
from fastbn.functional import batchnorm
from tests.cases import axis_of
from tests.compare import same_bits

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
# (N, T, C); with 64 channels or more, last, the kernels walk the rows themselves.
SHAPES = [(4, 7, 3), (5, 9, 64), (3, 8, 70), (6, 50, 128), (3, 40, 2048)]
FUSED = [(False, None), (True, None), (False, "relu"), (True, "relu"), (False, "silu")]
FUSED_NAMES = ["bn", "residual", "relu", "residual+relu", "silu"]


def arrays(shape, layout, dtype):
    rng = np.random.default_rng(0)
    values = [rng.normal(3, 2, shape).astype(dtype) for _ in range(3)]
    return values if layout == "rows" else [np.ascontiguousarray(np.moveaxis(v, -1, 1)) for v in values]


def layer(channels, axis, **options):
    bn = BatchNorm(channels, axis=axis, **options)
    bn.gamma[:] = np.linspace(-1, 2, channels)
    bn.beta[:] = np.linspace(-0.5, 0.5, channels)
    return bn


def rows_of(a, layout, chosen):
    return np.ascontiguousarray(np.moveaxis(a, axis_of(layout), -1)[chosen])


def flat(gradients):
    return gradients if isinstance(gradients, tuple) else (gradients,)


def compare(got, want, layout, chosen):
    last = np.moveaxis(got, axis_of(layout), -1)
    same_bits(np.ascontiguousarray(last[chosen]), want)
    np.testing.assert_array_equal(last[~chosen].astype(float), 0)


@pytest.mark.parametrize(("with_residual", "activation"), FUSED, ids=FUSED_NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_training_and_backward(shape, dtype, with_residual, activation, layout):
    x, residual, dy = arrays(shape, layout, dtype)
    chosen = np.random.default_rng(1).random(shape[:-1]) < 0.5
    axis, channels = axis_of(layout), shape[-1]
    masked, plain = layer(channels, axis), layer(channels, 1)
    y = masked(x, residual if with_residual else None, activation, mask=chosen)
    want = plain(rows_of(x, layout, chosen), rows_of(residual, layout, chosen) if with_residual else None, activation)
    compare(y, want, layout, chosen)
    same_bits(masked.running_mean, plain.running_mean)
    same_bits(masked.running_var, plain.running_var)
    assert masked.num_batches_tracked == 1
    got, right = masked.backward(dy), plain.backward(rows_of(dy, layout, chosen))
    if with_residual:
        compare(got[1], right[1], layout, chosen)
        got, right = got[0], right[0]
    compare(got, right, layout, chosen)
    same_bits(masked.grad_gamma, plain.grad_gamma)
    same_bits(masked.grad_beta, plain.grad_beta)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads, layout):
    x, residual, dy = arrays((40, 60, 128), layout, np.float32)
    chosen = np.random.default_rng(2).random((40, 60)) < 0.6
    results = []
    for n in (1, threads):
        bn = layer(128, axis_of(layout), num_threads=n)
        y = bn(x, residual, "relu", mask=chosen)
        results.append((y, *bn.backward(dy), bn.grad_gamma, bn.running_var))
    for one, other in zip(*results, strict=True):
        same_bits(one, other)


@pytest.mark.parametrize("shape", SHAPES[:3], ids=lambda s: "x".join(map(str, s)))
def test_lengths_are_a_mask(shape, layout):
    x, _, dy = arrays(shape, layout, np.float32)
    lengths = np.arange(shape[0]) % (shape[1] + 1)
    chosen = np.arange(shape[1]) < lengths[:, None]
    a, b = (layer(shape[-1], axis_of(layout)) for _ in range(2))
    same_bits(a(x, lengths=lengths), b(x, mask=chosen))
    same_bits(a.backward(dy), b.backward(dy))
    # Steps beyond the length are never looked at.
    np.moveaxis(x, axis_of(layout), -1)[~chosen] = np.nan
    same_bits(a(x, lengths=lengths), b(np.nan_to_num(x), mask=chosen))


def test_mask_broadcasts(layout):
    x, _, _ = arrays((4, 7, 64), layout, np.float32)
    steps = np.arange(7) < 3
    a, b = (layer(64, axis_of(layout)) for _ in range(2))
    same_bits(a(x, mask=steps), b(x, mask=np.broadcast_to(steps, (4, 7))))


def test_images(layout):
    x, _, dy = arrays((3, 5, 6, 64), layout, np.float32)
    chosen = np.random.default_rng(3).random((3, 5, 6)) < 0.5
    masked, plain = layer(64, axis_of(layout)), layer(64, 1)
    compare(masked(x, mask=chosen), plain(rows_of(x, layout, chosen)), layout, chosen)
    compare(masked.backward(dy), plain.backward(rows_of(dy, layout, chosen)), layout, chosen)


@pytest.mark.parametrize("channels", [3, 64])
def test_padding(channels, layout):
    x, _, dy = arrays((4, 7, channels), layout, np.float32)
    axis = axis_of(layout)
    chosen = np.random.default_rng(4).random((4, 7)) < 0.5
    last = lambda a: np.moveaxis(a, axis, -1)  # noqa: E731
    bn = layer(channels, axis)
    want = bn(x, mask=chosen)
    want_dx = bn.backward(dy)
    kept = bn(x, mask=chosen, padding="keep")
    np.testing.assert_array_equal(last(kept)[~chosen], last(x)[~chosen])
    np.testing.assert_array_equal(last(kept)[chosen], last(want)[chosen])
    dx = bn.backward(dy)
    np.testing.assert_array_equal(last(dx)[~chosen], last(dy)[~chosen])
    np.testing.assert_array_equal(last(dx)[chosen], last(want_dx)[chosen])
    out = np.full_like(x, 7)
    assert bn(x, mask=chosen, padding="keep", out=out) is out
    assert (last(out)[~chosen] == 7).all()
    assert bn(x, mask=chosen, out=out) is out
    same_bits(out, want)
    strided = np.full((8, *x.shape[1:]), 7, np.float32)[::2]
    bn(x, mask=chosen, padding="keep", out=strided)
    assert (last(strided)[~chosen] == 7).all()
    np.testing.assert_array_equal(last(strided)[chosen], last(want)[chosen])
    bn(x, mask=chosen)
    strided[...] = 7
    bn.backward(dy, out=strided)
    np.testing.assert_array_equal(strided, want_dx)
    same = x.copy()
    bn(same, mask=chosen, padding="keep", out=same)
    same_bits(same, kept)


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_leaves_no_earlier_forward():
    # The result overwrites the x of the forward pass before, whose gradients can no longer be computed.
    x = np.array([[1.0], [3.0], [8.0]])
    bn = BatchNorm(1)
    bn(x)
    with pytest.raises(UserWarning, match="the mask selects no position"):
        bn(np.ones((3, 1)), out=x, mask=np.zeros(3, bool))
    assert not bn.backward(np.array([[1.0], [2.0], [5.0]])).any()
    bn = BatchNorm(1, nan_policy="skip_update")
    x = np.array([[1.0], [3.0], [8.0]])
    bn(x)
    with pytest.raises(RuntimeWarning, match="not finite"):
        bn(np.array([[np.nan], [3.0], [8.0]]), out=x)
    assert np.isnan(bn.backward(np.array([[1.0], [2.0], [5.0]]))).all()


def test_nothing_counts(layout):
    x, residual, dy = arrays((4, 7, 64), layout, np.float32)
    bn = layer(64, axis_of(layout))
    bn(x)
    before = bn.running_mean.copy(), bn.running_var.copy()
    with pytest.warns(UserWarning, match="the mask selects no position") as caught:
        y = bn(x, residual, "relu", mask=np.zeros((4, 7), bool))
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(y, 0)
    for got in bn.backward(dy):
        np.testing.assert_array_equal(got, 0)
    np.testing.assert_array_equal(bn.grad_gamma, 0)
    same_bits(bn.running_mean, before[0])
    same_bits(bn.running_var, before[1])
    assert bn.num_batches_tracked == 2


@pytest.mark.parametrize(("options", "tracked"), [({}, 1), ({"momentum": None}, 0), ({"debias": True}, 0)])
def test_a_mask_without_positions_is_counted_as_an_empty_batch(options, tracked):
    masked, empty = BatchNorm(1, **options), BatchNorm(1, **options)
    with pytest.warns(UserWarning, match="the mask selects no position"):
        masked(np.ones((3, 1)), mask=np.zeros(3, bool))
    empty(np.empty((0, 1)))
    assert masked.num_batches_tracked == empty.num_batches_tracked == tracked


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_evaluation(activation, layout):
    x, residual, dy = arrays((4, 7, 64), layout, np.float32)
    chosen = np.random.default_rng(5).random((4, 7)) < 0.5
    masked, plain = layer(64, axis_of(layout)), layer(64, 1)
    for bn in (masked, plain):
        bn.running_mean[:] = 3
        bn.running_var[:] = 4
        bn.eval()
    rows = rows_of(x, layout, chosen), rows_of(residual, layout, chosen)
    compare(masked(x, residual, activation, mask=chosen), plain(*rows, activation), layout, chosen)
    if activation == "silu":        # its backward pass follows no residual
        masked(x, None, activation, mask=chosen)
        plain(rows[0], None, activation)
    gradients = zip(flat(masked.backward(dy)), flat(plain.backward(rows_of(dy, layout, chosen))), strict=True)
    for got, want in gradients:
        compare(got, want, layout, chosen)
    same_bits(masked.grad_gamma, plain.grad_gamma)


def test_exact_averages_count_what_counts(layout):
    x, _, _ = arrays((4, 7, 64), layout, np.float32)
    chosen = np.random.default_rng(6).random((4, 7)) < 0.5
    bn = BatchNorm(64, axis=axis_of(layout), averaging="exact", dtype=np.float64)
    bn(x, mask=chosen)
    bn(x, mask=~chosen)
    every = np.moveaxis(x, axis_of(layout), -1).reshape(-1, 64).astype(np.float64)
    np.testing.assert_allclose(bn.running_mean, every.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(bn.running_var, every.var(axis=0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3000, 128), (6000, 64), (300, 2048)], ids=str)
def test_all_other_rows_are_cleared(shape, threads):
    # Of many units and slabs, between them, before the first and after the last one.
    x, residual, dy = arrays(shape, "rows", np.float32)
    chosen = np.random.default_rng(1).random(len(x)) < 0.3
    chosen[:50] = chosen[len(x) // 2 : len(x) // 2 + 100] = chosen[-50:] = False
    bn = layer(shape[-1], -1, num_threads=threads)
    out, dx, dresidual = (np.full(shape, np.nan, np.float32) for _ in range(3))
    bn(x, residual, "relu", out, mask=chosen)
    bn.backward(dy, dx)
    saved = bn._tape.saved
    view, gradient = batchnorm.backward_views(dy, x, saved, -1, None)
    kernels.backward(
        gradient, view, views.output(view), views.output(view, dresidual), saved._kept, bn.gamma, fill=True,
        num_threads=threads)
    for result in (out, dx, dresidual):
        assert np.isfinite(result[chosen]).all()
        assert (result[~chosen] == 0).all()


def test_jagged():
    rng = np.random.default_rng(7)
    values, offsets = rng.normal(0, 1, (20, 5)).astype(np.float32), np.array([0, 3, 3, 20])
    a, b = layer(5, -1), layer(5, -1)
    y, same = a((values, offsets))
    assert same is offsets
    same_bits(y, b(values))
    same_bits(a.backward(values), b.backward(values))
    for bad in ([0, 3], [1, 20], [0, 5, 4, 20], []):
        with pytest.raises((ValueError, TypeError), match="offsets"):
            a((values, np.array(bad)))
    with pytest.raises(ValueError, match="mask and lengths must be None if x is jagged"):
        a((values, offsets), lengths=[1])
    for pair, shapes in (((values[None], offsets), r"\(1, 20, 5\) and \(4,\)"),
                         ((values, offsets[None]), r"\(20, 5\) and \(1, 4\)")):
        with pytest.raises(ValueError, match=f"x is a tuple of shapes {shapes}; expected .* a jagged batch"):
            a(pair)
    pair = (values, values)     # an array_like (2, 20, 5), as any other
    same_bits(layer(5, -1)(pair), layer(5, -1)(np.stack(pair)))
    with pytest.raises(TypeError, match="offsets has dtype float64; expected integers"):
        a((values, np.array([0.0, 20.0])))


BAD = {
    "mask dtype": ({"mask": np.ones((4, 7), int)}, TypeError, "mask has dtype int64; expected bool"),
    "mask shape": ({"mask": np.ones((7, 4), bool)}, ValueError, r"mask has shape \(7, 4\)"),
    "lengths": ({"lengths": [8, 0, 0, 0]}, ValueError, "lengths must be between 0 and 7"),
    "padding": ({"mask": np.ones((4, 7), bool), "padding": "drop"}, ValueError, "padding must be one of"),
    "padding array": ({"mask": np.ones((4, 7), bool), "padding": np.ones(3)}, TypeError, "padding must be one of"),
    "mask masked": ({"mask": np.ma.ones((4, 7), bool)}, TypeError, "mask is a masked array"),
    "mask jagged": ({"mask": [[True], [True, False]]}, ValueError, "mask cannot be converted to an array"),
    "nothing, activation": ({"lengths": [0] * 4, "activation": "nope"}, ValueError, "activation must be None, 'relu'"),
    "nothing, residual": ({"lengths": [0] * 4, "residual": np.ones(3, np.float32)}, ValueError, "residual has shape"),
    "one": ({"lengths": [1, 0, 0, 0]}, ValueError, "a single value of x counts in channels 0, 1, 2"),
    "residual": ({"mask": np.ones((4, 7), bool), "residual": np.ones(3)}, ValueError, "residual has shape"),
    "out": ({"mask": np.ones((4, 7), bool), "out": np.ones(3)}, ValueError, "out has shape"),
    "activation": ({"mask": np.ones((4, 7), bool), "activation": "swish"}, ValueError, "activation must be None"),
}


@pytest.mark.parametrize("channels", [3, 64])
@pytest.mark.parametrize("name", BAD)
def test_bad_calls_change_nothing(name, channels, layout):
    options, error, message = BAD[name]
    x, _, _ = arrays((4, 7, channels), layout, np.float32)
    bn = layer(channels, axis_of(layout))
    with pytest.raises(error, match=message):
        bn(x, **options)
    np.testing.assert_array_equal(bn.running_mean, 0)
    assert bn.num_batches_tracked == 0


def test_odd_gradients_leave_zeros():
    # Strides of zero, and an order of axes that is not C's.
    x, _, _ = arrays((4, 7, 64), "rows", np.float32)
    chosen = np.random.default_rng(8).random((4, 7)) < 0.5
    bn = layer(64, -1)
    bn(x, mask=chosen)
    for dy in (np.broadcast_to(np.float32(1) + np.arange(64, dtype=np.float32), x.shape), np.asfortranarray(x)):
        dx = bn.backward(dy)
        np.testing.assert_array_equal(dx[~chosen], 0)
        same_bits(dx, bn.backward(np.ascontiguousarray(dy)))


@pytest.mark.parametrize("channels", [65, 100, 128, 520])
def test_strides_change_no_bit(channels):
    x, _, dy = arrays((4, 30, channels), "rows", np.float32)
    chosen = np.random.default_rng(9).random((4, 30)) < 0.5
    wide = np.zeros((4, 60, channels + 3), np.float32)[:, ::2, :channels]
    wide[...] = x
    a, b = layer(channels, -1), layer(channels, -1)
    same_bits(a(x, mask=chosen), b(wide, mask=chosen))
    same_bits(a.running_var, b.running_var)
    same_bits(a.backward(dy), b.backward(dy))
    out = np.zeros_like(wide)
    same_bits(a(x, mask=chosen), np.ascontiguousarray(b(x, mask=chosen, out=out)))
    every = np.ones((4, 30), bool)
    same_bits(a(x, mask=every), b(x))


def test_an_in_place_backward_leaves_nothing(layout):
    x, _, dy = arrays((4, 7, 3), layout, np.float32)
    bn = layer(3, axis_of(layout))
    bn(x, mask=np.arange(7) < 3)
    bn.backward(dy, out=x)
    with pytest.raises(RuntimeError, match="a result was written over the x or the residual"):
        bn.backward(dy)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("by_channel", [False, True])
def test_the_mask_may_change_before_backward(by_channel, training):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 6, 3, 5)).astype(np.float32)
    mask = rng.random((6, 3, 5) if by_channel else (6, 5)) < 0.7
    bn = BatchNorm(3).train(training)
    bn(x, mask=mask)
    expected = bn.backward(dy)
    bn(x, mask=mask)
    mask[...] = ~mask
    same_bits(bn.backward(dy), expected)


def test_backward_in_evaluation_mode_keeps_no_reference():
    x = np.random.default_rng(0).standard_normal((6, 3, 5)).astype(np.float32)
    bn = BatchNorm(3).eval()
    bn(x, mask=x[:, 0] > 0)
    dy = np.ones_like(x)
    bn.backward(dy)
    del x
    with pytest.raises(RuntimeError, match=r"^x of the last forward pass no longer exists"):
        bn.backward(dy)
