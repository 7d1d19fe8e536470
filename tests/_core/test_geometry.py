"""Forward and backward kernels with samples and channels per statistic, against the definition."""

import ml_dtypes
import numpy as np
import pytest

from fastbn._core import views
from fastbn._core.checks import check_activation
from fastbn._core.dispatch import kernels
from tests._core.geometry import (
    DTYPES,
    EPS,
    LONG_SHAPES,
    SHAPES,
    as_kernels_take_it,
    as_planes,
    geometries,
    inputs,
    reference,
    run,
    silu,
)
from tests.cases import TILE, axis_of
from tests.compare import same_bits

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
layouts = pytest.mark.parametrize("layout", ["planes", "rows"])
over = pytest.mark.parametrize(("shape", "samples", "channels"), [
    (shape, *geometry) for shape in SHAPES for geometry in geometries(shape)], ids=str)
over_long = pytest.mark.parametrize(("shape", "samples", "channels"), [
    (shape, *geometry) for shape in LONG_SHAPES for geometry in geometries(shape)], ids=str)


def units_off(got, exact, dtype, size):
    """The largest error, in rounding units of `size`; for halves the errors of the arithmetic are those of float32."""
    unit = float(ml_dtypes.finfo(dtype).eps) / 2
    return float(np.abs(got.astype(np.longdouble) - exact).max() / (unit * size))


def check(got, want, i, shape, dtype, channels):
    y, dx = (as_planes(a, shape, i.layout) for a in (got.y, got.dx))
    computed = np.float64 if dtype == np.float64 else np.float32
    assert y.dtype == dx.dtype == dtype
    assert got.mean.shape == got.var.shape == want.mean.shape
    assert units_off(y, want.y, dtype, np.abs(want.y).max()) <= (4 if dtype == computed else 1.01)
    spread = np.sqrt(want.var.max())
    assert units_off(got.mean, want.mean, computed, np.abs(want.mean).max() + spread) <= 4
    assert units_off(got.var, want.var, computed, want.var.max()) <= 8
    rstd = (1 / np.sqrt(want.var + np.longdouble(1e-5))).max()
    size = rstd * np.abs(i.gamma).max() * np.abs(want.dresidual).max()
    assert units_off(dx, want.dx, dtype, size) <= {np.float32: 8, np.float64: 64}.get(dtype, 1.5)
    summed = np.abs(want.dresidual).sum((0, 2)).max()
    for sums, exact in ((got.dgamma, want.dgamma), (got.dbeta, want.dbeta)):
        assert sums.shape == exact.shape
        assert np.abs(sums - exact).max() <= 4 * summed * (1e-14 if dtype == np.float64 else 5e-7)


@over
@layouts
@dtypes
def test_definition(shape, samples, channels, layout, dtype):
    i = inputs(shape, layout, dtype, mean=0.5)
    check(run(i, samples, channels), reference(i, shape, samples, channels), i, shape, dtype, channels)


@over_long
@layouts
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_definition_of_several_units(shape, samples, channels, layout, dtype):
    i = inputs(shape, layout, dtype, mean=-3.0)
    check(run(i, samples, channels, num_threads=2), reference(i, shape, samples, channels), i, shape, dtype, channels)


@pytest.mark.parametrize("ratio", [1e4, 1e6])
@pytest.mark.parametrize(("shape", "samples", "channels"), [
    ((5, 6, 49), 2, 1), ((5, 6, 49), 1, 3), ((3, 64, 17), 2, 64), ((4, 8, 300), 3, 4), ((2, 6, 33000), 1, 2)], ids=str)
@layouts
def test_mean_far_from_zero(shape, samples, channels, layout, ratio):
    i = inputs(shape, layout, mean=2 * ratio)
    check(run(i, samples, channels), reference(i, shape, samples, channels), i, shape, np.float32, channels)


@layouts
@dtypes
def test_channels_far_from_each_other(layout, dtype):
    # Nearly all of M2 lies between the channels.
    shape = (3, 6, 30)
    i = inputs(shape, layout, dtype)
    apart = np.arange(6).reshape((6, 1) if layout == "planes" else (6,)) * (50.0 if dtype != np.float64 else 1e5)
    i = i._replace(x=(i.x.astype(np.float64) + apart).astype(dtype))
    check(run(i, 2, 3), reference(i, shape, 2, 3), i, shape, dtype, 3)


@pytest.mark.parametrize(("shape", "samples", "channels"), [
    ((5, 6, 7), 2, 1), ((5, 6, 49), 1, 3), ((3, 66, 17), 2, 66), ((4, 49, 3), 3, 49), ((200, 7, 3), 1, 7)], ids=str)
@layouts
@dtypes
def test_a_constant_statistic_gives_beta(shape, samples, channels, layout, dtype):
    i = inputs(shape, layout, dtype)
    values = np.random.default_rng(1).normal(0, 1e3, (-(-shape[0] // samples), shape[1] // channels))
    each = values.repeat(samples, 0)[: shape[0]].repeat(channels, 1).astype(dtype)
    x = np.broadcast_to(each[:, :, None] if layout == "planes" else each[:, None, :], i.x.shape)
    got = run(i._replace(x=x.copy()), samples, channels)
    assert not got.var.any()
    beta = i.beta.astype(dtype)
    y = as_planes(got.y, shape, layout)
    np.testing.assert_array_equal(y, np.broadcast_to(beta[:, None], y.shape))


@over
@layouts
@dtypes
@pytest.mark.parametrize(("relu", "residual"), [(True, False), (False, True), (True, True)])
def test_residual_and_relu(shape, samples, channels, layout, dtype, relu, residual):
    i = inputs(shape, layout, dtype, mean=0.5)
    z = reference(i, shape, samples, channels, residual=residual).y
    # No gradient where rounding decides whether the ReLU is open.
    near = np.abs(z) < 1e-4
    near = near if layout == "planes" else np.moveaxis(near, 1, 2)
    i = i._replace(dy=np.where(near, np.zeros_like(i.dy), i.dy))
    got = run(i, samples, channels, relu, residual)
    want = reference(i, shape, samples, channels, relu, residual)
    check(got, want, i, shape, dtype, channels)
    if residual:
        np.testing.assert_array_equal(
            as_planes(got.dresidual, shape, layout).astype(np.float64), want.dresidual.astype(np.float64))


@over
@layouts
@dtypes
def test_activation(shape, samples, channels, layout, dtype):
    i = inputs(shape, layout, dtype, mean=0.5)
    got = run(i, samples, channels, activation="silu")
    want = reference(i, shape, samples, channels, activation=silu)
    if dtype in (np.float32, np.float64):
        check(got, want, i, shape, dtype, channels)
    else:       # the gradient before the activation is rounded to the dtype, and so is every dy of the sums
        unit = float(ml_dtypes.finfo(dtype).eps) / 2
        assert units_off(as_planes(got.y, shape, layout), want.y, dtype, np.abs(want.y).max()) <= 1.01
        size = (1 / np.sqrt(want.var + np.longdouble(1e-5))).max() * np.abs(i.gamma).max()
        assert units_off(as_planes(got.dx, shape, layout), want.dx, dtype, size * np.abs(want.dresidual).max()) <= 4
        summed = np.abs(want.dresidual).sum((0, 2)).max()
        assert np.abs(got.dgamma - want.dgamma).max() <= 4 * unit * summed
        assert np.abs(got.dbeta - want.dbeta).max() <= 2 * unit * summed
    in_place = run(i._replace(x=i.x.copy(), dy=i.dy.copy()), samples, channels, activation="silu", in_place=True)
    for a, b in zip(in_place[:6], got[:6], strict=True):
        same_bits(a, b)


@layouts
@dtypes
@pytest.mark.parametrize(("shape", "samples", "channels"), [((5, 12, 49), 1, 4), ((5, 6, 7), 2, 1)], ids=str)
def test_a_residual_before_silu(shape, samples, channels, layout, dtype):
    # Such a forward has no backward.
    i = inputs(shape, layout, dtype, mean=0.5)
    x, r = (as_kernels_take_it(a, layout) for a in (i.x, i.residual))
    view = views.view(x, axis_of(layout))
    out = views.output(view)
    rows = samples * (1 if layout == "planes" else shape[2])
    kernels.forward(
        view, out, views.like(view, r, "residual"), i.gamma, i.beta, EPS, activation=check_activation("silu"),
        bits=None, fill=False, num_threads=1, samples=rows, channels=channels)
    z = reference(i, shape, samples, channels, residual=True).y
    y = as_planes(out.finish().reshape(i.x.shape), shape, layout)
    assert units_off(y, silu(z)[0], dtype, np.abs(z).max()) <= (4 if dtype in (np.float32, np.float64) else 1.01)


@over
@layouts
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_in_place(shape, samples, channels, layout, dtype):
    i = inputs(shape, layout, dtype)
    want = run(i, samples, channels, relu=True, residual=True)
    got = run(i._replace(x=i.x.copy(), dy=i.dy.copy()), samples, channels, True, True, in_place=True)
    for a, b in zip(got, want, strict=True):
        same_bits(a, b)


@pytest.mark.parametrize(("shape", "samples"), [
    (shape, samples) for shape in SHAPES + LONG_SHAPES for samples, channels in geometries(shape) if channels == 1],
    ids=str)
@layouts
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sample_group_is_a_batch_norm(shape, samples, layout, dtype):
    i = inputs(shape, layout, dtype, mean=10.0)
    got = run(i, samples, 1, relu=True)
    parts = []
    for n in range(0, shape[0], samples):
        group = slice(n, n + samples)
        part = i._replace(x=i.x[group], dy=i.dy[group], residual=i.residual[group])
        parts.append(run(part, len(part.x), 1, relu=True))
    for name in ("y", "mean", "var", "dx"):
        same_bits(getattr(got, name), np.concatenate([getattr(part, name) for part in parts]))
    for name in ("dgamma", "dbeta"):
        exact = sum(getattr(part, name).astype(np.longdouble) for part in parts)
        np.testing.assert_allclose(getattr(got, name), exact.astype(np.float64), rtol=1e-15, atol=1e-15)


def spoiled(i, value):
    x = i.x.copy()
    x[(0,) * x.ndim] = value
    return i._replace(x=x)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@layouts
@dtypes
def test_a_value_that_is_not_finite_spoils_its_statistic_alone(layout, dtype, value):
    shape, samples, channels = (5, 6, 20), 2, 3
    i = inputs(shape, layout, dtype)
    got, clean = run(spoiled(i, value), samples, channels), run(i, samples, channels)
    for name in ("y", "dx"):
        a, b = (as_planes(getattr(results, name), shape, layout) for results in (got, clean))
        assert np.isnan(a[:2, :3]).all()
        for part in (np.s_[2:], np.s_[:2, 3:]):
            same_bits(a[part], b[part])


@pytest.mark.parametrize(("dtype", "factor"), [(np.float32, 1e30), (np.float64, 2.0**600), (np.float64, 2.0**1020)])
@pytest.mark.parametrize(("samples", "channels"), [(2, 1), (2, 3), (1, 6)])
@layouts
def test_huge_values(layout, dtype, factor, samples, channels):
    shape = (5, 6, 20)
    i = inputs(shape, layout, dtype)
    x = i.x * dtype(factor)
    want = reference(i._replace(x=x / dtype(factor)), shape, samples, channels)
    got = run(i._replace(x=x), samples, channels)
    # eps is negligible there, and up to 1e-5 of the variance here.
    np.testing.assert_allclose(as_planes(got.y, shape, layout), want.y.astype(np.float64), rtol=0, atol=1e-4)
    if factor < 1e300:
        dx = as_planes(got.dx, shape, layout).astype(np.float64) * factor
        np.testing.assert_allclose(dx, want.dx.astype(np.float64), rtol=0, atol=1e-4)


def with_gaps(a):
    wide = np.full([2 * n for n in a.shape[:-1]] + [a.shape[-1] + 3], np.nan, a.dtype)
    view = wide[(*(slice(None, None, 2) for _ in a.shape[:-1]), slice(None, -3))]
    view[...] = a
    return view


@over
@layouts
def test_strides_do_not_change_bits(shape, samples, channels, layout):
    i = inputs(shape, layout)
    if layout == "rows":    # rows of one axis, with gaps between them
        i = i._replace(**{name: getattr(i, name).reshape(-1, 1, shape[1]) for name in ("x", "dy", "residual")})
        samples *= shape[2]
    spread = i._replace(**{name: with_gaps(getattr(i, name)) for name in ("x", "dy", "residual")})
    if layout == "planes" or shape[1] % TILE == 0:      # narrow rows are packed
        assert views.view(spread.x, axis_of(layout)).array is spread.x
    for a, b in zip(run(spread, samples, channels), run(i, samples, channels), strict=True):
        if a is not None:
            same_bits(a, b)
