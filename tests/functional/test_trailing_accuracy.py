"""The accuracy contract of layer norm and RMS norm: y is at most 4 rounding units of the largest |y| off.

It holds whatever the ratio of mean to standard deviation. Exact is the definition in extended precision, from the
float32 input.
"""

import numpy as np
import pytest

from tests.trailing import MEMBERS, close, exact, inputs

RATIOS = (1.0, 1e2, 1e4, 1e6)
SHAPES = (((64, 8), (8,)), ((9, 64), (64,)), ((32, 1000), (1000,)), ((300, 3), (3,)), ((40, 768), (768,)),
          ((4, 8192), (8192,)), ((2, 40000), (40000,)), ((4, 7, 7, 64), (64,)), ((4, 7, 7, 64), (7, 7, 64)))


@pytest.fixture(params=MEMBERS)
def member(request):
    return MEMBERS[request.param]


@pytest.mark.parametrize("ratio", RATIOS, ids="{:g}".format)
@pytest.mark.parametrize(("shape", "normalized"), SHAPES, ids=str)
def test_float32(shape, normalized, ratio, member):
    for seed, sign in ((0, 1), (1, -3)):
        i = inputs(shape, normalized, mean=sign * ratio, std=abs(sign), seed=seed)
        for gamma, beta in ((None, None), (i.gamma, i.beta)):
            y, saved = member.train(i.x, normalized, gamma, beta)
            of, want = exact(member, i, gamma, beta)
            close(y, want, np.float32, 4)
            variance = 1 / saved.rstd.reshape(-1) ** 2 / (1 / of.rstd[:, 0] ** 2)
            assert np.abs(variance - 1).max() <= 5e-7


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="numpy.longdouble is no wider than float64 here")
@pytest.mark.parametrize("ratio", RATIOS, ids="{:g}".format)
@pytest.mark.parametrize(("shape", "normalized"), SHAPES, ids=str)
def test_float64(shape, normalized, ratio, member):
    i = inputs(shape, normalized, np.float64, mean=ratio)
    y, _ = member.train(i.x, normalized, i.gamma, i.beta)
    close(y, exact(member, i, i.gamma, i.beta)[1], np.float64, 4)


@pytest.mark.parametrize("value", [1e6 + 0.1, 1.1e7, 1e30, -1e-30])
@pytest.mark.parametrize(("shape", "normalized"), SHAPES, ids=str)
def test_a_constant_row_is_beta(shape, normalized, value):
    i = inputs(shape, normalized)
    y, _ = MEMBERS["layer norm"].train(np.full(shape, value, np.float32), normalized, i.gamma, i.beta)
    np.testing.assert_array_equal(y, np.broadcast_to(i.beta, shape))
