"""Layers with several channel axes."""

import pickle

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, adapt
from tests.compare import close, same_bits

SHAPE, AXES = (6, 2, 3, 4), (1, 2)


def pair(axis=AXES, **options):
    """A layer with several axes, and one of reshaped arrays."""
    layers = [BatchNorm(6, axis=axis, **options), BatchNorm(6, **options)]
    for bn in layers:
        bn.gamma[:], bn.beta[:] = np.linspace(-1, 2, 6), np.linspace(0, 1, 6)
    return layers


def arrays(dtype=np.float32, count=3):
    rng = np.random.default_rng(0)
    return [rng.normal(1, 2, SHAPE).astype(dtype) for _ in range(count)]


def flat(x):
    return x.reshape(6, 6, 4)


def same(bn, other):
    for name in ("running_mean", "running_var", "grad_gamma", "grad_beta"):
        a, b = getattr(bn, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            same_bits(a, b)


@pytest.mark.parametrize("mode", ["train", "eval", "freeze"])
def test_a_step(mode, activation, with_residual):
    bn, other = pair()
    x, residual, dy = arrays()
    for layer, first in ((bn, x), (other, flat(x))):
        layer(first)
        getattr(layer, mode)()
    y = bn(x, residual if with_residual else None, activation)
    right = other(flat(x), flat(residual) if with_residual else None, activation) if mode == "train" else None
    if right is None:
        keep = flat(x), flat(residual)      # evaluation keeps no reference
        right = other(keep[0], keep[1] if with_residual else None, activation)
    same_bits(flat(y), right)
    got, expected = bn.backward(dy), other.backward(flat(dy))
    for a, b in zip(*(g if with_residual else (g,) for g in (got, expected)), strict=True):
        same_bits(flat(a), b)
    same(bn, other)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("padding", ["zero", "keep"])
@pytest.mark.parametrize("axis", [(1, 2), (2, 1)])
def test_masks_of_positions(mode, padding, axis):
    bn, other = pair(axis)
    if axis == (2, 1):
        order = np.arange(6).reshape(2, 3).T.ravel()
        bn.gamma[:], bn.beta[:] = other.gamma[order], other.beta[order]
    x, residual, dy = arrays()
    mask = np.random.default_rng(1).random((6, 4)) < 0.6
    getattr(bn, mode)(), getattr(other, mode)()
    for out in (None, np.full(SHAPE, 7, np.float32), np.full(SHAPE[::-1], 7, np.float32).T):
        keep = flat(x), flat(residual)
        y = bn(x, residual, "relu", out, mask=mask, padding=padding)
        right = other(keep[0], keep[1], "relu", None if out is None else np.full((6, 6, 4), 7, np.float32), mask=mask,
                      padding=padding)
        close(flat(np.ascontiguousarray(y)), right.astype(np.longdouble), np.float32, 8)
        (dx, dr), (right_dx, right_dr) = bn.backward(dy), other.backward(flat(dy))
        close(flat(np.ascontiguousarray(dx)), right_dx.astype(np.longdouble), np.float32, 16)
        same_bits(flat(np.ascontiguousarray(dr)), right_dr)


def test_lengths():
    bn, other = pair()
    x, _, dy = arrays()
    lengths = [4, 1, 0, 2, 3, 4]
    same_bits(flat(bn(x, lengths=lengths)), other(flat(x), lengths=lengths))
    same_bits(flat(bn.backward(dy)), other.backward(flat(dy)))
    same(bn, other)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("padding", ["zero", "keep"])
def test_masks_by_channel(mode, padding):
    bn, other = pair()
    x, residual, dy = arrays()
    mask = x > -1
    getattr(bn, mode)(), getattr(other, mode)()
    for out in (None, np.full(SHAPE, 7, np.float32), np.full(SHAPE[::-1], 7, np.float32).T):
        keep = flat(x), flat(residual)
        y = bn(x, residual, "relu", out, mask=mask, padding=padding)
        right = other(keep[0], keep[1], "relu", None if out is None else np.full((6, 6, 4), 7, np.float32),
                      mask=flat(mask), padding=padding)
        same_bits(flat(np.ascontiguousarray(y)), right)
        for a, b in zip(bn.backward(dy), other.backward(flat(dy)), strict=True):
            same_bits(flat(np.ascontiguousarray(a)), b)
    with pytest.raises(ValueError, match=r"mask has shape \(6, 2, 2, 4\), which does not broadcast"):
        bn(x, mask=mask[:, :, :2])


def test_micro_batches():
    bn, other = pair()
    x, _, dy = arrays()
    whole, right = bn.accumulate([x[:2], x[2:]]), other.accumulate([flat(x)[:2], flat(x)[2:]])
    for part in (slice(0, 2), slice(2, 6)):
        same_bits(whole(x[part]).reshape(-1, 6, 4), right(flat(x)[part]))
    got = whole.backward([dy[:2], dy[2:]])
    expected = right.backward([flat(dy)[:2], flat(dy)[2:]])
    for a, b in zip(got, expected, strict=True):
        same_bits(a.reshape(b.shape), b)
    same(bn, other)


def test_population_statistics_and_report():
    bn, other = pair()
    x = arrays()[0]
    same_bits(bn.report(x).drift, other.report(flat(x)).drift)
    [stats] = fastbn.population_statistics(bn, [x, x + 1], bn)
    [right] = fastbn.population_statistics(other, [flat(x), flat(x) + 1], other)
    same_bits(stats.mean, right.mean)
    same(bn, other)


def test_the_number_of_channels_along_each_axis():
    bn = BatchNorm((2, 3), axis=(1, 2))
    assert (bn.num_features, bn.axis) == (6, (1, 2))
    assert repr(bn) == "BatchNorm((2, 3), axis=(1, 2))"
    x = arrays()[0]
    same_bits(bn(x), BatchNorm(6, axis=(1, 2))(x))
    message = r"x has shape \(6, 3, 2, 4\), which is \(3, 2\) channels along axes \(1, 2\); expected \(2, 3\)"
    wrong = x.transpose(0, 2, 1, 3)
    for layer in (bn, bn.eval()):
        with pytest.raises(ValueError, match=message):
            layer(wrong)
    with pytest.raises(ValueError, match=r"which is \(2, 3\) channels along axes \(1, 2\); expected 5"):
        BatchNorm(5, axis=(1, 2))(x)


def test_vectors_by_axis():
    bn = BatchNorm((2, 3), axis=(1, 2), dtype=np.float64)
    x = arrays(np.float64)[0]
    bn(x)
    np.testing.assert_allclose(bn.running_mean.reshape(2, 3), 0.1 * x.mean(axis=(0, 3)), rtol=1e-12)
    bn.gamma.reshape(2, 3)[1, 2] = 0
    assert bn.gamma[5] == 0


def test_each_axis_is_checked_in_every_call():
    bn = BatchNorm((2, 3), axis=(1, 2)).eval()
    x = np.ones((4, 3, 2, 5), np.float32)
    message = r"which is \(3, 2\) channels along axes \(1, 2\); expected \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        bn.report(x)
    with adapt(bn, n0=1), pytest.raises(ValueError, match=message):
        bn(x)


def test_frozen_is_refused():
    with pytest.raises(ValueError, match=r"axis is \(1, 2\); expected one axis, because a ChannelAffine has one"):
        BatchNorm(6, axis=(1, 2)).frozen()


def test_settings_pickles_and_files(tmp_path):
    bn, _ = pair()
    bn(arrays()[0])
    assert repr(bn) == "BatchNorm(6, axis=(1, 2))"
    bn.save(tmp_path / "layer.npz")
    for other in (pickle.loads(pickle.dumps(bn)), BatchNorm.load(tmp_path / "layer.npz")):
        assert other.axis == (1, 2)
        same_bits(other.eval()(arrays()[0]), bn.eval()(arrays()[0]))


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"axis": ()}, ValueError, r"axis is \(\); expected one or more axes"),
    ({"axis": (1, 1)}, ValueError, r"axis is \(1, 1\); expected each axis once"),
    ({"axis": (1, "2")}, TypeError, "axis must be an integer, got '2'"),
    ({"num_features": (2, 3)}, ValueError, r"axis is 1; expected 2 axes, one for each number in num_features"),
    ({"num_features": (2, 3), "axis": (1, 2, 3)}, ValueError, r"axis is \(1, 2, 3\); expected 2 axes"),
    ({"num_features": ()}, ValueError, "num_features is empty"),
    ({"num_features": (2, 0), "axis": (1, 2)}, ValueError, "num_features must be at least 1, got 0"),
])
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        BatchNorm(**{"num_features": 6} | arguments)


def test_tensors():
    torch = pytest.importorskip("torch")
    bn, other = pair()
    x = arrays()[0]
    y = bn(torch.from_numpy(x))
    assert isinstance(y, torch.Tensor)
    same_bits(flat(y.numpy()), other(flat(x)))
    assert tuple(bn.backward(torch.from_numpy(x)).shape) == SHAPE
