"""Group norm of arrays with unusual memory: strides, byte order, results in place, tensors."""

import numpy as np
import pytest

from fastbn._core import views
from fastbn._core.saved_groups import sample_view
from fastbn.functional import group_norm_backward, group_norm_inference, group_norm_training
from tests.awkward import INPUTS, SHAPE, WRITABLE, by_name, channels_first, fortran, strided, values
from tests.compare import same_bits
from tests.functional.test_tensors import DLPack, Interface
from tests.groups import exact, exact_gradients, inputs, units

GAMMA, BETA = np.random.default_rng(5).normal(1, 0.5, (2, SHAPE[1])).astype(np.float32)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("make", INPUTS, **by_name)
def test_inputs(make, groups):
    x, dy, residual = (make(values(np.float32, seed=seed)) for seed in (0, 1, 2))
    of = exact(x, groups, GAMMA, BETA, residual=residual)
    y, saved = group_norm_training(x, groups, GAMMA, BETA, residual=residual, activation="relu")
    assert y.dtype == np.float32
    assert units(y, np.maximum(of.y, 0), np.float32) <= 4
    same_bits(group_norm_inference(x, groups, GAMMA, BETA, residual=residual, activation="relu"), y)
    gated = np.where(y > 0, dy, 0)
    dx, dgamma, dbeta, dresidual = group_norm_backward(dy, x, saved, GAMMA)
    want = exact_gradients(gated, of, groups, GAMMA)
    assert units(dx, want.dx, np.float32, of.rstd.max() * np.abs(GAMMA).max() * np.abs(gated).max()) <= 8
    np.testing.assert_allclose(dgamma, want.dgamma.astype(float), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(dbeta, want.dbeta.astype(float), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(dresidual, gated)


@pytest.mark.parametrize("make", WRITABLE, **by_name)
def test_out(make):
    x, dy = values(np.float32), values(np.float32, seed=1)
    want, saved = group_norm_training(x, 2, GAMMA, BETA)
    gradients = group_norm_backward(dy, x, saved, GAMMA)
    out = make(np.zeros_like(x))
    assert group_norm_training(x, 2, GAMMA, BETA, out=out)[0] is out
    np.testing.assert_array_equal(out, want)
    out[...] = 0
    assert group_norm_inference(x, 2, GAMMA, BETA, out=out) is out
    np.testing.assert_array_equal(out, want)
    out[...] = 0
    assert group_norm_backward(dy, x, saved, GAMMA, out=out)[0] is out
    np.testing.assert_array_equal(out, gradients[0])


@pytest.mark.parametrize("make", WRITABLE, **by_name)
@pytest.mark.parametrize("over", ["x", "residual", "dy", "x in backward"])
def test_in_place(make, over):
    x, dy, residual = (make(values(np.float32, seed=seed)) for seed in (0, 1, 2))
    common = {"residual": residual, "activation": "relu"}
    want, saved = group_norm_training(x, 2, GAMMA, BETA, **common)
    if over in ("x", "residual"):
        out = x if over == "x" else residual
        y, saved = group_norm_training(x, 2, GAMMA, BETA, out=out, **common)
        assert y is out
        np.testing.assert_array_equal(y, want)
    else:
        right = group_norm_backward(dy, x, saved, GAMMA)
        got = group_norm_backward(dy, x, saved, GAMMA, out=dy if over == "dy" else x)
        assert got[0] is (dy if over == "dy" else x)
        for a, b in zip(got, right, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("layout", ["planes", "rows"])
def test_strides_do_not_change_bits(layout, groups):
    i = inputs((3, 6, 5, 4), layout)
    y, saved = group_norm_training(i.x, groups, i.gamma, i.beta, axis=i.axis)
    got, other = group_norm_training(strided(i.x), groups, i.gamma, i.beta, axis=i.axis)
    same_bits(got, y)
    for a, b in zip(group_norm_backward(strided(i.dy), strided(i.x), other, i.gamma, axis=i.axis),
                    group_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis), strict=True):
        same_bits(a, b)


def test_samples_within_channels_are_walked_without_a_copy():
    x = channels_first(values(np.float32))
    assert views.view(x, 1).shape == (1, 6, 4 * 5 * 7)
    view = sample_view(x, 1)
    assert view.shape == (4, 6, 5 * 7)
    assert view.array is x


def test_a_single_sample_in_any_order_is_not_copied():
    x = fortran(values(np.float32, (1, 6, 5, 7)))
    assert sample_view(x, 1).array is x


@pytest.mark.parametrize("export", [DLPack, Interface])
def test_other_libraries(export):
    x = values(np.float32)
    y, saved = group_norm_training(export(x), 2, GAMMA, BETA)
    same_bits(y, group_norm_training(x, 2, GAMMA, BETA)[0])
    same_bits(group_norm_backward(export(x), export(x), saved, GAMMA)[0], group_norm_backward(x, x, saved, GAMMA)[0])


def test_a_read_only_result_is_refused():
    x = values(np.float32)
    out = np.zeros_like(x)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        group_norm_training(x, 2, out=out)


@pytest.mark.parametrize("role", ["x", "residual", "dy"])
def test_out_that_overlaps_an_input(role):
    room = values(np.float32, (5, 6, 7))
    before = room.copy()
    part, out, other = room[:4], room[1:5], values(np.float32, (4, 6, 7), 1)
    saved = group_norm_training(other, 2)[1]
    call = {"x": lambda: group_norm_training(part, 2, out=out),
            "residual": lambda: group_norm_inference(other, 2, residual=part, out=out),
            "dy": lambda: group_norm_backward(part, other, saved, out=out)}[role]
    with pytest.raises(ValueError, match=f"out overlaps {role} without being the same array"):
        call()
    np.testing.assert_array_equal(room, before)
