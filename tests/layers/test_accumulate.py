"""Micro-batches give what the whole batch gives."""

import numpy as np
import pytest

from fastbn import BatchNorm
from tests import oracle
from tests.cases import axis_of
from tests.compare import same_bits
from tests.layers.trained import assert_same, snapshot

SIZES = (5, 1, 7, 3)
TOLERANCE = {"float32": 1e-6, "float64": 4e-15}     # of the largest value


def parts(seed, layout="planes", dtype=np.float32, mean=0.0, std=1.0):
    rng = np.random.default_rng(seed)
    arrays = [(mean + std * rng.standard_normal((n, 6, 9, 3))).astype(dtype) for n in SIZES]
    return arrays if layout == "planes" else [np.ascontiguousarray(np.moveaxis(x, 1, -1)) for x in arrays]


def layer(layout="planes", dtype=np.float32, **options):
    bn = BatchNorm(6, axis=axis_of(layout), dtype=dtype, **options)
    if bn.gamma is not None:
        bn.gamma[...] = [1, -2, 0.5, 3, 0.1, 0]
        bn.beta[...] = [0, 1, -1, 0.5, 2, 1]
    return bn


def near(got, right, dtype, slack=1):
    assert np.abs(got - right).max() <= slack * TOLERANCE[np.dtype(dtype).name] * max(np.abs(right).max(), 1)


@pytest.mark.parametrize("mean", [0.0, 3.0, 1e4, 1e6])
def test_as_the_whole_batch(layout, dtype, activation, with_residual, mean):
    xs, rs, dys = parts(0, layout, dtype, mean), parts(1, layout, dtype), parts(2, layout, dtype)
    bn, one = layer(layout, dtype), layer(layout, dtype)
    whole = bn.accumulate(xs)
    ys = [whole(x, r if with_residual else None, activation) for x, r in zip(xs, rs, strict=True)]
    gradients = whole.backward(iter(dys))
    dxs, drs = zip(*gradients, strict=True) if with_residual else (gradients, [])
    r = np.concatenate(rs) if with_residual else None
    of = oracle.forward(np.concatenate(xs), bn.gamma, bn.beta, axis=bn.axis, residual=r, relu=activation == "relu")
    right = oracle.backward(np.concatenate(dys), np.concatenate(xs), of, bn.gamma, axis=bn.axis,
                            relu=activation == "relu")
    # Against the exact result, whose mean is known to 64 bits, and against the layer's own forward and backward.
    slack = max(1, mean / 1e4) if dtype == np.float64 else 1
    near(np.concatenate(ys), of.y, dtype, slack)
    near(np.concatenate(dxs), right.dx, dtype, slack)
    near(bn.grad_gamma, right.dgamma, dtype, slack)
    near(bn.grad_beta, right.dbeta, dtype, slack)
    near(np.concatenate(ys), one(np.concatenate(xs), r, activation), dtype)
    dx, *dr = one.backward(np.concatenate(dys)) if with_residual else (one.backward(np.concatenate(dys)),)
    near(np.concatenate(dxs), dx, dtype)
    if with_residual:
        same_bits(np.concatenate(drs), dr[0])
    near(bn.running_mean, one.running_mean, dtype)
    near(bn.running_var, one.running_var, dtype)
    assert bn.num_batches_tracked == 1


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_gradient_that_is_not_finite(bad, layout, dtype):
    xs, dys = parts(0, layout, dtype), parts(1, layout, dtype)
    np.moveaxis(dys[1], 1 if layout == "planes" else -1, 0)[2].flat[5] = bad
    bn = layer(layout, dtype)
    whole = bn.accumulate(xs)
    for x in xs:
        whole(x)
    dx = np.moveaxis(np.concatenate(whole.backward(dys)), bn.axis, 0)       # and no warning
    assert np.isnan(dx[2]).all()
    assert np.isfinite(np.delete(dx, 2, axis=0)).all()
    np.testing.assert_array_equal(np.isfinite(bn.grad_gamma), np.arange(6) != 2)


@pytest.mark.parametrize("std", [1e-15, 1e30])
def test_values_of_any_size(std):
    xs, dys = parts(0, std=std), parts(1)
    bn = layer(eps=1.2e-38)
    whole = bn.accumulate(xs)
    ys = [whole(x) for x in xs]
    of = oracle.forward(np.concatenate(xs), bn.gamma, bn.beta, axis=bn.axis, eps=bn.eps)
    right = oracle.backward(np.concatenate(dys), np.concatenate(xs), of, bn.gamma, axis=bn.axis)
    near(np.concatenate(ys), of.y, np.float32)
    dx = np.concatenate(whole.backward(dys))
    assert np.abs(dx - right.dx).max() <= 1e-6 * np.abs(right.dx).max()


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}, {"averaging": "exact"},
                                     {"momentum": None, "unbiased": False}], ids=str)
def test_options_of_the_layer(options):
    xs, dys = parts(0, mean=3), parts(1)
    bn, one = layer(**options), layer(**options)
    for _ in range(2):
        whole = bn.accumulate(x for x in xs)
        ys = [whole(x) for x in xs]
        y = one(np.concatenate(xs))
    near(np.concatenate(ys), y, np.float32)
    near(np.concatenate(whole.backward(dys)), one.backward(np.concatenate(dys)), np.float32)
    for name, value in one.state_dict().items():
        near(bn.state_dict()[name], value, np.float32)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bits_do_not_depend_on_threads(threads):
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((4, 6, 200, 100), np.float32) for _ in range(2)]
    results = []
    for n in (1, threads):
        bn = layer(num_threads=n)
        whole = bn.accumulate(xs)
        results.append([*(whole(x) for x in xs), *whole.backward(xs)])
    for one, other in zip(*results, strict=True):
        same_bits(one, other)


def test_in_place():
    xs, dys = parts(0), parts(1)
    bn, one = layer(), layer()
    whole, fresh = bn.accumulate(xs), one.accumulate(xs)
    ys = [np.empty_like(x) for x in xs]
    for x, y in zip(xs, ys, strict=True):
        assert whole(x, out=y) is y
        same_bits(y, fresh(x))
    right = fresh.backward(dys)
    dxs = whole.backward(dys, out=dys)
    for dx, dy, r in zip(dxs, dys, right, strict=True):
        assert dx is dy
        same_bits(dx, r)


def test_halves():
    xs, dys = (parts(s, dtype=np.float16) for s in (0, 1))
    bn, one = layer(), layer()
    whole = bn.accumulate(xs)
    y = np.concatenate([whole(x) for x in xs])
    same_bits(y, one(np.concatenate(xs)))
    got, right = np.concatenate(whole.backward(dys)), one.backward(np.concatenate(dys))
    assert got.dtype == np.float16
    # Sums of another order, and one rounding.
    assert (np.abs(got.astype(float) - right) <= 2.0 ** -10 * np.abs(right) + 1e-7).all()
    assert (got == right).mean() > 0.99


def test_single_values_and_empty_micro_batches():
    xs = [np.array([[1.0, 5.0]]), np.empty((0, 2)), np.array([[3.0, 9.0]])]
    bn = BatchNorm(2, dtype=np.float64, eps=1e-12)
    whole = bn.accumulate(xs)
    np.testing.assert_allclose(np.concatenate([whole(x) for x in xs]), [[-1, -1], [1, 1]], rtol=1e-9)
    dxs = whole.backward([np.ones_like(x) for x in xs])
    np.testing.assert_allclose(np.concatenate(dxs), 0, atol=1e-12)
    np.testing.assert_allclose(bn.running_mean, [0.2, 0.7], rtol=1e-15)
    assert repr(whole) == "WholeBatch(2, count=2)"


# ---- what is refused ----

def test_evaluation_has_no_statistics_to_make():
    bn = layer().eval()
    with pytest.raises(RuntimeError, match="accumulate needs a layer in training mode"):
        bn.accumulate(parts(0))


@pytest.mark.parametrize(("micro_batches", "error", "message"), [
    ([], ValueError, "micro_batches have 0 values per channel in total; expected two or more"),
    ([np.ones((1, 6), np.float32)], ValueError, "micro_batches have 1 value per channel"),
    ([np.ones((4, 6), np.float32), np.ones((4, 5), np.float32)], ValueError, "5 channels along axis 1; expected 6"),
    ([np.ones((4, 6), int)], TypeError, r"micro_batches\[0\] has dtype int64"),
])
def test_bad_micro_batches_change_nothing(micro_batches, error, message):
    bn = layer()
    before = snapshot(bn)
    with pytest.raises(error, match=message):
        bn.accumulate(micro_batches)
    assert_same(bn, before)


def test_bytes_are_refused_before_anything_moves():
    bn = BatchNorm(3)
    with pytest.raises(TypeError, match=r"micro_batches\[0\] has dtype uint8"):
        bn.accumulate([np.ones((4, 3), np.uint8)])
    assert bn.num_batches_tracked == 0


def test_policies_for_nan():
    xs = parts(0)
    xs[2][1, 4] = np.nan
    bn = layer(nan_policy="raise")
    before = snapshot(bn)
    with pytest.raises(ValueError, match="not finite in float32 in channel 4"):
        bn.accumulate(xs)
    assert_same(bn, before)
    bn = layer(nan_policy="skip_update")
    with pytest.warns(RuntimeWarning, match="channel 4") as caught:
        whole = bn.accumulate(xs)
    assert caught[0].filename == __file__
    assert_same(bn, before)
    assert np.isnan(whole(xs[0])[:, 4]).all()


def test_a_backward_needs_every_forward():
    xs, dys = parts(0), parts(1)
    bn = layer()
    whole = bn.accumulate(xs)
    for x in xs[:2]:
        whole(x)
    with pytest.raises(ValueError, match="forward passes had 162 values per channel in total; expected the 432 of all"):
        whole.backward(dys[:2])
    for x in xs[2:]:
        whole(x)
    with pytest.raises(ValueError, match="dys has 3 arrays; expected 4, one for each forward pass"):
        whole.backward(dys[:3])
    with pytest.raises(ValueError, match="out has 1 array; expected 4"):
        whole.backward(dys, out=dys[:1])
    with pytest.raises(ValueError, match="dy has shape"):
        whole.backward(dys[::-1])
    assert bn.grad_gamma is None
    whole.backward(dys)
    assert bn.grad_gamma is not None


@pytest.mark.parametrize(("passed", "message"), [
    ([0, 0, 2], "2 forward passes had the same x; expected each micro-batch once"),
    ([0, 3, 4], "the forward passes had arrays of 9, 12, 15 values; expected 12, 12, 12"),
])
def test_a_backward_needs_each_micro_batch_once(passed, message):
    x = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    slices = [np.s_[:4], np.s_[4:8], np.s_[8:], np.s_[4:7], np.s_[7:]]
    bn = BatchNorm(3)
    whole = bn.accumulate(x[part] for part in slices[:3])      # views, of which each call gets a new one
    for i in passed:
        whole(x[slices[i]])
    with pytest.raises(ValueError, match=message):
        whole.backward([np.ones_like(x[slices[i]]) for i in passed])
    assert bn.grad_gamma is None


def test_micro_batches_with_the_same_list_or_none_of_the_values():
    x = [[1.0, 2.0], [3.0, 5.0]]
    empty = np.empty((0, 2))
    whole = BatchNorm(2).accumulate([x, empty, empty])
    for part in (x, empty, empty):
        whole(part)
    assert len(whole.backward([np.ones((2, 2)), empty, empty])) == 3
    whole = BatchNorm(2).accumulate([x, [[1.0, 2.0], [3.0, 6.0]]])
    whole(x)
    whole(x)
    with pytest.raises(ValueError, match="2 forward passes had the same x"):
        whole.backward([np.ones((2, 2))] * 2)


def test_a_backward_needs_its_inputs():
    xs = parts(0)
    whole = layer().accumulate(xs)
    whole(xs[0], out=xs[0])
    for x in xs[1:]:
        whole(x)
    with pytest.raises(RuntimeError, match="a forward pass wrote its result over its input"):
        whole.backward(parts(1))


def test_gradients_may_be_parts_of_one_array_along_any_axis():
    x, dy, dx = np.random.default_rng(0).standard_normal((3, 4, 5, 8)).astype(np.float32)
    halves = np.s_[..., :4], np.s_[..., 4:]
    bn = BatchNorm(5)
    whole = bn.accumulate([x[half] for half in halves])
    for half in halves:
        whole(x[half])
    expected = whole.backward([dy[half] for half in halves])
    whole.backward([dy[half] for half in halves], out=[dx[half] for half in halves])
    same_bits(dx, np.concatenate(expected, axis=-1))


def test_a_result_may_overwrite_the_residual():
    xs, dys = parts(0), parts(1)
    results = []
    for over in (False, True):
        bn = layer()
        whole = bn.accumulate(xs)
        rs = parts(2)
        for x, r in zip(xs, rs, strict=True):
            whole(x, r, "relu", out=r if over else None)
        results.append([array for pair in whole.backward(dys) for array in pair])
    for one, other in zip(*results, strict=True):
        same_bits(one, other)


@pytest.mark.parametrize(("out", "message"), [
    (lambda xs, dys: xs, r"out\[0\] overlaps the x of micro-batch 0"),
    (lambda xs, dys: [dys[1][:1], *dys[1:]], r"out\[0\] overlaps the dys of micro-batch 1"),
    (lambda xs, dys: [*dys[:3], np.empty_like(xs[3])], None),
])
def test_gradients_may_not_overlap(out, message):
    xs, dys = parts(0), parts(1)
    whole = layer().accumulate(xs)
    for x in xs:
        whole(x)
    before = [x.copy() for x in xs]
    if message is None:
        assert len(whole.backward(dys, out=out(xs, dys))) == 4
        return
    with pytest.raises(ValueError, match=message):
        whole.backward(dys, out=out(xs, dys))
    for x, was in zip(xs, before, strict=True):
        same_bits(x, was)


def test_after_a_residual_only_relu_has_a_backward():
    whole = layer().accumulate(parts(0))
    with pytest.raises(ValueError, match="activation must be None or 'relu' after a residual in training, got 'silu'"):
        whole(parts(0)[0], parts(1)[0], "silu")


def test_the_layer_forgets_its_last_forward():
    bn = layer()
    bn(parts(0)[0])
    bn.accumulate(parts(0))
    with pytest.raises(RuntimeError, match="backward needs a forward pass first"):
        bn.backward(parts(0)[0])


@pytest.mark.parametrize(("call", "message"), [
    (lambda bn, whole, x: bn.accumulate(5), "micro_batches must be an iterable of arrays, got int"),
    (lambda bn, whole, x: bn.accumulate(None), "micro_batches must be an iterable of arrays, got NoneType"),
    (lambda bn, whole, x: bn.accumulate("ab"), "micro_batches must be an iterable of arrays, got str"),
    (lambda bn, whole, x: bn.accumulate([x, None]), r"micro_batches\[1\] must be an array, got None"),
    (lambda bn, whole, x: whole(None), "x must be an array, got None"),
    (lambda bn, whole, x: whole.backward(5), "dys must be an iterable of arrays, got int"),
    (lambda bn, whole, x: whole.backward([x, x], out=5), "out must be an iterable of arrays, got int"),
])
def test_wrong_arguments_are_named(call, message):
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    bn = BatchNorm(3)
    whole = bn.accumulate([x, x])
    for _ in range(2):
        whole(x)
    before = bn.state_dict()
    with pytest.raises(TypeError, match=message):
        call(bn, whole, x)
    for name, value in before.items():
        np.testing.assert_array_equal(bn.state_dict()[name], value)
    assert bn.grad_gamma is None


def test_a_variance_beyond_float64_is_nan():
    x = np.array([[1e200, 1.0], [3e200, 3.0], [2e200, 2.0]])
    bn = BatchNorm(2, dtype=np.float64)
    whole = bn.accumulate([x[:1], x[1:]])
    y = np.concatenate([whole(x[:1]), whole(x[1:])])
    assert np.isnan(y[:, 0]).all()
    one = BatchNorm(2, dtype=np.float64)
    np.testing.assert_allclose(y[:, 1], one(x)[:, 1], rtol=1e-12)
    assert bn.running_var[0] == one.running_var[0] == np.inf


def test_gradients_and_targets_may_be_generators():
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    whole = BatchNorm(3).accumulate(part for part in (x[:2], x[2:]))
    ys = [whole(x[:2]), whole(x[2:])]
    dys = [y.copy() for y in ys]
    dxs = whole.backward((dy for dy in dys), out=(dy for dy in dys))
    assert all(dx is dy for dx, dy in zip(dxs, dys, strict=True))


def test_a_backward_pass_of_the_layer_is_refused():
    bn = BatchNorm(2)
    bn.accumulate([np.array([[1.0, 2.0], [3.0, 5.0]])])
    with pytest.raises(RuntimeError, match="needs a forward pass first; after accumulate, call backward of the Whole"):
        bn.backward(np.ones((2, 2)))
