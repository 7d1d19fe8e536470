"""Masks that differ by channel, in the layer: each channel as batch normalization of its own values that count."""

import ml_dtypes
import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm
from tests.cases import axis_of
from tests.compare import same_bits, unit

SHAPES = [(40, 3), (6, 9, 4), (5, 4, 6, 64), (3, 8, 70)]       # channels last
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
FUSED = [(False, None), (True, None), (False, "relu"), (True, "relu")]


def arrays(shape, layout, dtype):
    rng = np.random.default_rng(0)
    values = [rng.normal(3, 2, shape).astype(dtype) for _ in range(3)]
    mask = rng.random(shape) < 0.6
    mask[..., 1] = False                # a channel of none
    mask[..., 2] = True                 # and one of all
    arranged = [*values, mask]
    return arranged if layout == "rows" else [np.ascontiguousarray(np.moveaxis(v, -1, 1)) for v in arranged]


def layer(channels, axis, **options):
    bn = BatchNorm(channels, axis=axis, **options)
    bn.gamma[:] = np.linspace(-1, 2, channels)
    bn.beta[:] = np.linspace(-0.5, 0.5, channels)
    bn.running_mean[:] = np.arange(channels)
    bn.running_var[:] = np.arange(1, channels + 1)
    return bn


def channels_of(a, axis):
    return np.moveaxis(a, axis, -1).reshape(-1, a.shape[axis])


def reference(x, residual, dy, mask, gamma, beta, relu, mean=None, var=None, eps=1e-5):
    """Return y, dx, the size of what y adds up, dgamma, dbeta, mean, var of one channel, in NumPy's longest float."""
    residual = np.zeros(x.shape) if residual is None else residual
    x, dy, z = (np.asarray(a, np.longdouble)[mask] for a in (x, dy, residual))
    frozen = mean is not None
    mean, var = (mean, var) if frozen else (x.mean(), x.var())
    rstd = 1 / np.sqrt(np.longdouble(var) + eps)
    x_hat = (x - mean) * rstd
    z = x_hat * gamma + beta + z
    y = np.maximum(z, 0) if relu else z
    g = np.where(z > 0, dy, 0) if relu else dy
    dbeta, dgamma = g.sum(), (g * x_hat).sum()
    dx = gamma * rstd * (g if frozen else g - dbeta / len(x) - x_hat * dgamma / len(x))
    return y, dx, np.abs(x_hat * gamma).max() + np.abs(z).max(), dgamma, dbeta, mean, var


def near(got, want, dtype, units, size=1):
    rounding = 2.0**-9 if dtype == ml_dtypes.bfloat16 else unit(dtype)
    bound = units * rounding * max(size, np.abs(want).max())
    assert np.abs(np.asarray(got).astype(np.longdouble) - want).max() <= bound


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("with_residual", "activation"), FUSED, ids=["bn", "residual", "relu", "residual+relu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_against_the_definition(shape, dtype, with_residual, activation, training, layout):
    x, residual, dy, mask = arrays(shape, layout, dtype)
    axis = axis_of(layout)
    # What does not count is not looked at.
    for array in (x, residual, dy):
        array[~mask] = np.nan
    param = np.float64 if dtype == np.float64 else np.float32
    bn = layer(shape[-1], axis, dtype=param).train(training)
    before = bn.running_mean.copy(), bn.running_var.copy()
    y = bn(x, residual if with_residual else None, activation, mask=mask)
    got = bn.backward(dy)
    dx, dresidual = got if with_residual else (got, None)
    assert bn.num_batches_tracked == int(training)
    columns = [None if a is None else channels_of(a, axis) for a in (x, residual, dy, mask, y, dx, dresidual)]
    xs, rs, gs, counted, ys, dxs, drs = columns
    single = np.dtype(param)
    for c in range(shape[-1]):
        chosen = counted[:, c]
        assert (ys[~chosen, c] == 0).all()
        assert (dxs[~chosen, c] == 0).all()
        assert drs is None or (drs[~chosen, c] == 0).all()
        if not chosen.any():
            assert (bn.running_mean[c], bn.running_var[c]) == (before[0][c], before[1][c])
            assert (bn.grad_gamma[c], bn.grad_beta[c]) == (0, 0)
            continue
        given = {} if training else {"mean": before[0][c], "var": before[1][c]}
        wide = reference(xs[:, c], rs[:, c] if with_residual else None, gs[:, c], chosen, bn.gamma[c], bn.beta[c],
                         activation == "relu", **given)
        near(ys[chosen, c], wide[0], dtype, 4, wide[2])
        if activation is None or dtype in (np.float32, np.float64):     # of halves a ReLU may be open by a rounding
            near(dxs[chosen, c], wide[1], dtype, 8)
            near(bn.grad_gamma[c], wide[3], single, 8 * np.abs(gs[chosen, c].astype(float)).sum())
            near(bn.grad_beta[c], wide[4], single, 8 * np.abs(gs[chosen, c].astype(float)).sum())
        if training:
            n = chosen.sum()
            near(bn.running_mean[c], 0.9 * before[0][c] + 0.1 * wide[5], single, 4 * (1 + before[0][c]))
            near(bn.running_var[c], 0.9 * before[1][c] + 0.1 * wide[6] * n / (n - 1), single, 4 * (1 + before[1][c]))


@pytest.mark.parametrize(("with_residual", "activation"), [*FUSED, (False, "silu"), (False, "hardswish")])
def test_finite_differences(with_residual, activation, layout):
    x, residual, dy, mask = arrays((9, 5, 4), layout, np.float64)
    axis = axis_of(layout)
    bn = layer(4, axis, dtype=np.float64)

    def loss():
        return float((bn(x, residual if with_residual else None, activation, mask=mask) * dy).sum())

    loss()
    got = bn.backward(dy)
    gradients = [(x, got[0] if with_residual else got), (bn.gamma, bn.grad_gamma), (bn.beta, bn.grad_beta)]
    gradients += [(residual, got[1])] if with_residual else []
    step = 1e-5
    for values, gradient in gradients:
        for index in np.ndindex(values.shape):
            kept = values[index]
            values[index] = kept + step
            above = loss()
            values[index] = kept - step
            below = loss()
            values[index] = kept
            assert (above - below) / (2 * step) == pytest.approx(float(gradient[index]), abs=3e-7)


def test_a_mask_that_is_the_same_in_all_channels(layout):
    # takes the way of a mask of positions, to the same bits
    x, _, dy, _ = arrays((6, 9, 64), layout, np.float32)
    axis = axis_of(layout)
    mask = np.random.default_rng(1).random((6, 9)) < 0.6
    one, other = layer(64, axis), layer(64, axis)
    full = np.array(np.broadcast_to(np.expand_dims(mask, axis), x.shape))
    same_bits(one(x, mask=mask), other(x, mask=full))
    same_bits(one.backward(dy), other.backward(dy))
    same_bits(one.running_var, other.running_var)


def test_threads_change_no_bit(layout):
    x, residual, dy, mask = arrays((40, 60, 128), layout, np.float32)
    results = []
    for threads in (1, 2, 3):
        bn = layer(128, axis_of(layout), num_threads=threads)
        y = bn(x, residual, "relu", mask=mask)
        results.append((y, *bn.backward(dy), bn.grad_gamma, bn.running_var))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            same_bits(a, b)


def test_lengths_too(layout):
    x, _, _, mask = arrays((6, 9, 4), layout, np.float32)
    axis = axis_of(layout)
    lengths = np.array([9, 0, 3, 5, 1, 9])
    within = np.expand_dims(np.arange(9) < lengths[:, None], axis)
    a, b = layer(4, axis), layer(4, axis)
    same_bits(a(x, mask=mask, lengths=lengths), b(x, mask=mask & within))
    same_bits(a.running_var, b.running_var)


@pytest.mark.parametrize("training", [True, False])
def test_padding(training, layout):
    x, residual, dy, mask = arrays((6, 9, 4), layout, np.float32)
    bn = layer(4, axis_of(layout), momentum=0.0).train(training)
    want = bn(x, residual, mask=mask)
    want_dx, _ = bn.backward(dy)
    kept = bn(x, residual, mask=mask, padding="keep")
    np.testing.assert_array_equal(kept, np.where(mask, want, x))
    np.testing.assert_array_equal(bn.backward(dy)[0], np.where(mask, want_dx, dy))
    for out in (np.full_like(x, 7), np.full((2 * len(x), *x.shape[1:]), 7, np.float32)[::2]):
        assert bn(x, residual, mask=mask, padding="keep", out=out) is out
        np.testing.assert_array_equal(out, np.where(mask, want, 7))
        assert bn(x, residual, mask=mask, out=out) is out
        np.testing.assert_array_equal(out, want)
    gradient = dy.copy()
    dx, _ = bn.backward(gradient, out=gradient)
    assert dx is gradient
    np.testing.assert_array_equal(dx, want_dx)
    again = residual.copy()
    bn(x, again, "relu", out=again, mask=mask)
    if training:
        gone = bn.backward(dy)
        bn(x, residual, "relu", mask=mask)
        for a, b in zip(gone, bn.backward(dy), strict=True):
            same_bits(a, b)
    else:       # which works out where the ReLU was open in the backward pass alone
        with pytest.raises(RuntimeError, match="a result was written over the x or the residual"):
            bn.backward(dy)
    same = x.copy()
    bn(same, residual, mask=mask, out=same)
    np.testing.assert_array_equal(same, want)
    with pytest.raises(RuntimeError, match="a result was written over the x or the residual"):
        bn.backward(dy)


def test_exact_averages(tmp_path, layout):
    # of all values that count, by channel, whatever the batches; states and files too
    axis = axis_of(layout)
    x, _, _, mask = arrays((60, 5, 4), layout, np.float64)
    bn = layer(4, axis, dtype=np.float64, averaging="exact")
    for part in (slice(0, 20), slice(20, 50), slice(50, None)):
        bn(x[part], mask=mask[part])
    path = tmp_path / "bn.npz"
    bn.save(path)
    loaded = BatchNorm.load(path)
    rows, counted = channels_of(x, axis), channels_of(mask, axis)
    for one in (bn, loaded):
        for c in (0, 2, 3):
            values = rows[counted[:, c], c]
            assert one.running_mean[c] == pytest.approx(values.mean(), rel=1e-12)
            assert one.running_var[c] == pytest.approx(values.var(ddof=1), rel=1e-12)
        assert (one.running_mean[1], one.running_var[1]) == (1, 2)      # as before, of no values
    loaded(x, mask=mask)
    bn(x, mask=mask)
    same_bits(bn.running_var, loaded.running_var)
    assert "of unknown weight" in repr(bn.report())


def test_population_statistics(layout):
    x, _, _, mask = arrays((60, 5, 4), layout, np.float64)
    axis = axis_of(layout)
    bn = layer(4, axis, dtype=np.float64)
    np.moveaxis(mask, axis, -1)[3, :, 1] = True
    batches = [slice(0, 20), slice(20, 50), slice(50, None)]
    [stats] = fastbn.population_statistics(bn, batches, lambda part: bn(x[part], mask=mask[part]))
    rows, counted = channels_of(x, axis), channels_of(mask, axis)
    np.testing.assert_array_equal(stats.count, counted.sum(axis=0))
    for c in range(4):
        assert bn.running_var[c] == pytest.approx(rows[counted[:, c], c].var(ddof=1), rel=1e-12)
    before = bn.running_mean.copy()
    with pytest.raises(ValueError, match=r"bn_layers\[0\] saw no values in channel 1, by its masks"):
        fastbn.population_statistics(bn, [slice(20, 50)], lambda part: bn(x[part], mask=mask[part]))
    same_bits(bn.running_mean, before)


def test_cumulative_and_debiased_averages_need_values_in_all_channels(layout):
    x, _, _, mask = arrays((60, 5, 4), layout, np.float64)
    axis = axis_of(layout)
    for options, wrong in (({"averaging": "cumulative"}, "averaging='cumulative'"), ({"debias": True}, "debias=True")):
        bn = BatchNorm(4, axis=axis, dtype=np.float64, **options)
        out = np.full_like(x, 7)
        with pytest.raises(ValueError, match=f"mask leaves no values in channel 1; with {wrong} a batch has the same"):
            bn(x, mask=mask, out=out)
        assert (out == 7).all()
        assert bn.num_batches_tracked == 0
        full = mask.copy()
        np.moveaxis(full, axis, -1)[:2, :, 1] = True
        bn(x, mask=full)
        bn.eval()
        rows, counted = channels_of(x, axis), channels_of(full, axis)
        want = [rows[counted[:, c], c].mean() for c in range(4)]
        np.testing.assert_allclose(bn.frozen().mean, want, rtol=1e-12)


def test_nan_policies(layout):
    x, _, _, mask = arrays((60, 5, 4), layout, np.float32)
    axis = axis_of(layout)
    np.moveaxis(x, axis, -1)[7, 0, 3] = np.nan
    np.moveaxis(mask, axis, -1)[7, 0, 3] = True
    bn = layer(4, axis, nan_policy="raise")
    out = np.full_like(x, 7)
    with pytest.raises(ValueError, match="not finite in float32 in channel 3; nan_policy='raise' requires"):
        bn(x, mask=mask, out=out)
    assert (out == 7).all()
    np.moveaxis(mask, axis, -1)[7, 0, 3] = False
    assert np.isfinite(bn(x, mask=mask, out=out)).all()


def test_one_value_is_too_few(layout):
    x, _, _, mask = arrays((60, 5, 4), layout, np.float32)
    axis = axis_of(layout)
    last = np.moveaxis(mask, axis, -1)
    last[..., :2] = False
    last[0, 0, :2] = True
    bn = layer(4, axis)
    before = bn.state_dict()
    with pytest.raises(ValueError, match="a single value of x counts in channels 0, 1, so there is no variance"):
        bn(x, mask=mask)
    for name, value in bn.state_dict().items():
        same_bits(value, before[name])
    assert np.isfinite(bn.eval()(x, mask=mask)).all()


@pytest.mark.parametrize(("added", "activation"), [*FUSED, (False, "silu")])
def test_eps_of_zero_leaves_no_nan_in_a_channel_without_values(added, activation, layout):
    x, residual, dy, mask = arrays((40, 5, 3), layout, np.float64)
    bn = layer(3, axis_of(layout), eps=0)
    y = bn(x, residual if added else None, activation, mask=mask)
    gradients = bn.backward(dy)
    for array in (y, *(gradients if added else [gradients])):
        assert np.isfinite(array).all()
        assert (np.moveaxis(array, axis_of(layout), -1)[..., 1] == 0).all()
    assert np.isfinite(bn.grad_gamma).all()
    assert (bn.grad_gamma[1], bn.grad_beta[1]) == (0, 0)


def test_a_variance_beyond_float64_is_nan(layout):
    # 1 / sqrt(Inf) is 0, which would turn all values into beta.
    x, _, dy, mask = arrays((40, 5, 3), layout, np.float64)
    np.moveaxis(x, axis_of(layout), -1)[..., 2] *= 1e200
    bn = layer(3, axis_of(layout), dtype=np.float64)
    for array in (bn(x, mask=mask), bn.backward(dy)):
        last = np.moveaxis(array, axis_of(layout), -1)
        assert np.isfinite(last[..., :2]).all()
        assert np.isnan(last[..., 2]).all()
    assert bn.running_var[2] == np.inf      # as without a mask


def test_tensors(layout):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, residual, dy, mask = arrays((6, 9, 4), layout, np.float32)
    axis = axis_of(layout)
    one, other = layer(4, axis), layer(4, axis)
    y = one(torch.from_numpy(x), torch.from_numpy(residual), mask=torch.from_numpy(mask))
    got = one.backward(torch.from_numpy(dy))
    same_bits(y.numpy(), other(x, residual, mask=mask))
    for a, b in zip(got, other.backward(dy), strict=True):
        assert isinstance(a, torch.Tensor)
        same_bits(a.numpy(), b)


def test_autograd(layout):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, _, dy, mask = arrays((6, 9, 4), layout, np.float64)
    axis = axis_of(layout)
    bn = layer(4, axis, dtype=np.float64)
    y = bn(x, mask=mask)
    dx = bn.backward(dy)
    leaf, gamma, beta = (torch.tensor(a, requires_grad=True) for a in (x, bn.gamma, bn.beta))
    shape = [-1 if k == axis % 3 else 1 for k in range(3)]
    others = [k for k in range(3) if k != axis % 3]
    count = torch.tensor(mask).sum(others, keepdim=True).clamp(min=1)
    chosen = torch.tensor(mask)
    mean = torch.where(chosen, leaf, 0).sum(others, keepdim=True) / count
    var = torch.where(chosen, (leaf - mean) ** 2, 0).sum(others, keepdim=True) / count
    right = torch.where(chosen, (leaf - mean) / torch.sqrt(var + 1e-5) * gamma.view(shape) + beta.view(shape), 0)
    right.backward(torch.tensor(dy))
    np.testing.assert_allclose(y, right.detach().numpy(), atol=1e-13)
    np.testing.assert_allclose(dx, leaf.grad.numpy(), atol=1e-13)
    np.testing.assert_allclose(bn.grad_gamma, gamma.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(bn.grad_beta, beta.grad.numpy(), atol=1e-12)
