"""Gradients of backward passes, and forward mode, for each member of the family: the numbers."""

from itertools import product

import ml_dtypes
import numpy as np
import pytest

from tests.awkward import INPUTS, by_name
from tests.cases import FLUSH, TILE, arranged, axis_of, cases
from tests.compare import same_bits
from tests.second_order import MEMBERS, Reference, arguments, calls, is_rows, results, saved_of, values_of

SHAPE = (4, 6, 5, 7)
STEP = 1e-5
UNITS = 20      # rounding units of the largest value that a result may be off

members = pytest.mark.parametrize("name", MEMBERS)
CASES = cases((40, 6), (5, 2, 3, 2, 3), (2, 4, FLUSH + 1), (5, TILE + 2, 7, 7), (300, 24))
# Rows have no channel axis. An instance needs more than one value.
GRID = [(name, case, layout) for name in MEMBERS for case in CASES for layout in ("planes", "rows")
        if not (is_rows(name) and layout == "rows") and not (name == "instance" and len(case.shape) == 2)]


def check(of, a, got, dtype):
    """Compare with the exact results; sums over parameters are float64."""
    for value, right in zip(got, of.results(a), strict=True):
        assert value.shape == right.shape
        assert value.dtype == (dtype if value.shape == a.x.shape else np.float64)
        size = max(np.abs(right).max(), 1)
        assert np.abs(value - right).max() <= UNITS * np.finfo(dtype).eps / 2 * size


@members
def test_finite_differences(name):
    a = arguments(name, (3, 4, 2, 3))
    of = Reference(name, a.x, wide=np.float64)
    upstream = a.ddx, a.ddgamma, a.ddbeta
    operands = [a.dy, a.x, a.gamma]

    def loss():
        return sum((u * grad).sum() for u, grad in zip(upstream, of.backward(*operands), strict=True))

    got = calls(of, a.x).backward_backward(*upstream, a.dy, gamma=a.gamma)
    for k, grad in enumerate(got):
        value, slopes = operands[k], np.zeros(operands[k].shape)
        for i in np.ndindex(value.shape):
            operands[k] = moved = value.copy()
            moved[i] += STEP
            above = loss()
            moved[i] -= 2 * STEP
            slopes[i] = (above - loss()) / (2 * STEP)
        operands[k] = value
        np.testing.assert_allclose(grad, slopes, rtol=1e-7, atol=1e-8)
    above, below = (of.forward(a.x + h * a.ddx, a.gamma + h * a.ddgamma, h * a.ddbeta) for h in (STEP, -STEP))
    got = calls(of, a.x).jvp(a.ddx, gamma=a.gamma, gamma_tangent=a.ddgamma, beta_tangent=a.ddbeta)
    np.testing.assert_allclose(got, (above - below) / (2 * STEP), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("name", "case", "layout"), GRID, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("mean", [0.5, 1e4])
def test_accuracy(name, case, layout, dtype, mean):
    a = values_of(arguments(name, case.shape, dtype, mean=mean), lambda v: arranged(v, layout))
    of = Reference(name, a.x, axis=axis_of(layout))
    check(of, a, results(of, a, num_threads=2), dtype)


@members
@pytest.mark.parametrize("make", INPUTS, **by_name)
def test_unusual_arrays(name, make):
    dtype = np.float32
    a = arguments(name, SHAPE, dtype)
    of = Reference(name, a.x)
    odd = values_of(a, make)
    check(of, a, results(of, odd), dtype)
    for value, kept in zip(odd, a, strict=True):
        np.testing.assert_array_equal(value, kept)


@members
@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_halves_are_computed_in_float32(name, half):
    a = arguments(name, SHAPE, half)
    of = Reference(name, a.x)
    wide = values_of(a, lambda v: v.astype(np.float32))
    expected = results(of, wide, saved=saved_of(of, a.x))
    for value, right in zip(results(of, a), expected, strict=True):
        same_bits(value, right if right.dtype == np.float64 else right.astype(half))


@members
def test_same_bits_for_any_number_of_threads(name, dtype):
    a = arguments(name, (16, 64, 28, 28), dtype)
    of = Reference(name, a.x)
    one = results(of, a, num_threads=1)
    for threads in (2, 3):
        for value, other in zip(results(of, a, num_threads=threads), one, strict=True):
            same_bits(value, other)


@members
def test_what_is_left_out_is_zero(name, dtype):
    a = arguments(name, SHAPE, dtype)
    of = Reference(name, a.x)
    call = calls(of, a.x)
    for given in product((True, False), repeat=3):
        upstream = [v if here else None for v, here in zip((a.ddx, a.ddgamma, a.ddbeta), given, strict=True)]
        full = [v if here else 0 * v for v, here in zip((a.ddx, a.ddgamma, a.ddbeta), given, strict=True)]
        got = call.backward_backward(*upstream, a.dy)
        right = of.backward_backward(*full, a.dy, a.x, np.ones(of.shape))
        for value, wanted in zip(got, right, strict=True):
            np.testing.assert_allclose(value, wanted.astype(float), rtol=0, atol=200 * np.finfo(dtype).eps)
            assert value.any() == wanted.any()
    assert not call.jvp(None).any()


@members
@pytest.mark.parametrize("field", ["x", "ddx", "dy"])
def test_a_nan_stays_in_its_statistic(name, field, dtype):
    a = arguments(name, SHAPE, dtype)
    of = Reference(name, a.x)
    clean = results(of, a)
    getattr(a, field)[1, 2, 3, 4] = np.nan
    with np.errstate(all="raise"):
        spoilt = results(of, a)
    shared = {"batch": np.s_[:, 2], "frozen": np.s_[1, 2, 3, 4], "group": np.s_[1, :3], "instance": np.s_[1, 2]}
    for value, before in zip(spoilt, clean, strict=True):
        if value.shape == SHAPE:
            others = np.ones(SHAPE, bool)
            others[shared.get(name, np.s_[1])] = False
            np.testing.assert_array_equal(value[others], before[others])
    # grad_x depends on all three, but for given statistics, where it follows from dy alone.
    assert np.isnan(spoilt[1][1, 2, 3, 4]) == (name != "frozen" or field == "dy")


@pytest.mark.parametrize("name", [name for name in MEMBERS if name != "frozen"])
def test_values_of_any_size(name):
    # Tangents are of the size of x, and gradients of that of its inverse.
    a = arguments(name, SHAPE, np.float32)
    size = np.float32(2.0**100)
    a = a._replace(x=a.x * size, ddx=a.ddx * size)
    of = Reference(name, a.x)
    for value, right in zip(results(of, a), of.results(a), strict=True):
        assert np.abs(value - right).max() <= UNITS * 2.0**-24 * np.abs(right).max()
