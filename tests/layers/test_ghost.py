"""A layer with a virtual batch size: one update of the running averages for all groups."""

import pickle

import numpy as np
import pytest

from fastbn import BatchNorm, SyncBatchNorm, population_statistics
from fastbn.functional import batch_norm_training
from tests import oracle
from tests.cases import axis_of
from tests.compare import close, same_bits
from tests.layers.trained import assert_same, batches, snapshot, trained

SIZE = 6    # of 16 samples: groups of 6, 6 and 4


def parts():
    return [slice(0, 6), slice(6, 12), slice(12, 16)]


def test_training(layout, dtype, activation, with_residual):
    bn = trained(layout, dtype)
    bn.virtual_batch_size = SIZE
    x, r, dy = batches(layout, dtype)[1:]
    r = r if with_residual else None
    y, _ = batch_norm_training(
        x, bn.gamma, bn.beta, axis=bn.axis, residual=r, activation=activation, virtual_batch_size=SIZE)
    same_bits(bn(x, r, activation), y)
    got = bn.backward(dy)
    dx = got[0] if with_residual else got
    total = np.zeros((2, 5), np.longdouble)
    for part in parts():
        of = oracle.forward(x[part], bn.gamma, bn.beta, axis=bn.axis, relu=activation == "relu",
                            residual=r[part] if with_residual else None)
        right = oracle.backward(dy[part], x[part], of, bn.gamma, axis=bn.axis, relu=activation == "relu")
        close(dx[part], right.dx, dtype, 16)
        total += [right.dgamma, right.dbeta]
    close(bn.grad_gamma, total[0], dtype, 16)
    close(bn.grad_beta, total[1], dtype, 16)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_averages(momentum, unbiased, layout, dtype):
    bn = BatchNorm(5, axis=axis_of(layout), momentum=momentum, unbiased=unbiased, dtype=dtype, virtual_batch_size=SIZE)
    mean, var = np.zeros(5, np.longdouble), np.ones(5, np.longdouble)
    for k, x in enumerate(batches(layout, dtype), 1):
        bn(x)
        m = v = 0
        for part in parts():
            a, b = oracle.moments(x[part], axis_of(layout))
            n = x[part].size // 5
            m, v = m + a * n / 144, v + b * (n / (n - 1) if unbiased else 1) * n / 144
        factor = 1 / k if momentum is None else momentum
        mean, var = (1 - factor) * mean + factor * m, (1 - factor) * var + factor * v
        assert bn.num_batches_tracked == k
    rtol = 1e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(bn.running_mean, mean.astype(float), rtol=rtol)
    np.testing.assert_allclose(bn.running_var, var.astype(float), rtol=rtol)


def test_exact_averages_include_the_differences_between_groups():
    bn = BatchNorm(1, averaging="exact", virtual_batch_size=2, dtype=np.float64)
    x = np.array([[1.0], [3.0], [101.0], [105.0], [50.0], [70.0]])
    bn(x)
    np.testing.assert_allclose(bn.running_mean, x.mean(), rtol=1e-14)
    np.testing.assert_allclose(bn.running_var, x.var(ddof=1), rtol=1e-14)


def test_evaluation_takes_any_batch():
    bn, plain = trained(), trained()
    bn.virtual_batch_size = SIZE
    x = batches()[0]
    same_bits(bn.eval()(x[:1, :, :1, :1]), plain.eval()(x[:1, :, :1, :1]))
    bn = BatchNorm(5, track_running_stats=False, virtual_batch_size=1).eval()
    same_bits(bn(x[:, :, 0, 0]), BatchNorm(5)(x[:, :, 0, 0]))


def test_a_group_of_one_value_is_an_error():
    bn = BatchNorm(3, virtual_batch_size=4)
    before = snapshot(bn)
    with pytest.raises(ValueError, match="virtual_batch_size 4 makes a group of one sample"):
        bn(np.ones((9, 3)))
    assert_same(bn, before)


def test_in_place():
    bn, other = trained(), trained()
    bn.virtual_batch_size = other.virtual_batch_size = SIZE
    x = batches()[0]
    work = x.copy()
    same_bits(bn(work, out=work), other(x))
    with pytest.raises(RuntimeError, match="written over the x"):
        bn.backward(x)
    bn(x)
    other(x)
    dy = batches()[1].copy()
    same_bits(bn.backward(dy, out=dy), other.backward(batches()[1]))


def test_tensors_of_half_precision():
    x = batches()[0].astype(np.float16)
    bn = BatchNorm(5, virtual_batch_size=SIZE)
    y = bn(x)
    for part in parts():
        close(y[part], oracle.forward(x[part]).y, np.float16, 4)


@pytest.mark.parametrize("policy", ["propagate", "raise", "skip_update"])
def test_a_nan_in_one_group(policy):
    bn = BatchNorm(5, virtual_batch_size=SIZE, nan_policy=policy)
    x = batches()[0].copy()
    x[7, 2] = np.nan
    out = x.copy()
    if policy == "raise":
        with pytest.raises(ValueError, match="not finite in float32 in channel 2"):
            bn(x, out=out)
        np.testing.assert_array_equal(out, x)
        return
    if policy == "skip_update":
        with pytest.warns(RuntimeWarning, match="channel 2"):
            y = bn(x)
        assert not bn.running_mean.any()
    else:
        y = bn(x)
        assert np.isnan(bn.running_mean).tolist() == [False, False, True, False, False]
    bad = np.isnan(y)
    assert bad[6:12, 2].all()
    assert bad.sum() == 6 * 9


def test_population_statistics_normalize_by_groups():
    bn = BatchNorm(5, virtual_batch_size=SIZE, dtype=np.float64)
    seen = []
    data = batches(dtype=np.float64)
    [stats] = population_statistics(bn, data, lambda x: seen.append(bn(x)))
    same_bits(seen[0], batch_norm_training(data[0], virtual_batch_size=SIZE)[0])
    m, v = oracle.moments(np.concatenate(data), 1)
    np.testing.assert_allclose(stats.mean, m.astype(float), rtol=1e-13)
    np.testing.assert_allclose(stats.var(), v.astype(float), rtol=1e-13)


@pytest.mark.parametrize("marks", [{"mask": np.ones(16, bool)[:, None, None]}, {"lengths": [3] * 16}])
def test_masks_are_refused_in_training(marks):
    bn = trained()
    bn.virtual_batch_size = SIZE
    x = batches()[0]
    with pytest.raises(ValueError, match="virtual_batch_size is 6; expected None with mask and lengths in training"):
        bn(x, **marks)
    bn.eval()(x, **marks)


def test_jagged_batches_are_refused_in_training():
    bn = BatchNorm(3, virtual_batch_size=2)
    jagged = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 2, 6])
    with pytest.raises(ValueError, match="virtual_batch_size is 2; expected None with jagged x in training"):
        bn(jagged)
    assert bn.num_batches_tracked == 0
    y, _ = bn.freeze()(jagged)
    same_bits(bn.eval()(jagged)[0], y)


def test_micro_batches_are_refused():
    bn = trained()
    bn.virtual_batch_size = SIZE
    with pytest.raises(ValueError, match="virtual_batch_size is 6; expected None with accumulate in training"):
        bn.accumulate(batches())


def test_the_setting(tmp_path):
    bn = BatchNorm(3, virtual_batch_size=32)
    assert repr(bn) == "BatchNorm(3, virtual_batch_size=32)"
    assert pickle.loads(pickle.dumps(bn)).virtual_batch_size == 32
    bn.save(tmp_path / "layer.safetensors")
    assert BatchNorm.load(tmp_path / "layer.safetensors").virtual_batch_size == 32
    with pytest.raises(TypeError, match=r"virtual_batch_size must be an integer, got 1\.5"):
        bn.virtual_batch_size = 1.5
    with pytest.raises(ValueError, match="virtual_batch_size must be at least 1, got 0"):
        bn.virtual_batch_size = 0
    with pytest.raises(ValueError, match="on_single must be 'raise' with a virtual_batch_size, got 'zero'"):
        bn.on_single = "zero"
    with pytest.raises(ValueError, match="virtual_batch_size must be None with on_single='zero', got 3"):
        BatchNorm(3, virtual_batch_size=3, on_single="zero")


@pytest.mark.parametrize("axis", [0, (0, 1)])
def test_channels_along_the_samples_are_refused(axis):
    sizes = 3 if axis == 0 else (3, 2)
    with pytest.raises(ValueError, match="expected another one than axis 0 with virtual_batch_size, which groups"):
        BatchNorm(sizes, axis=axis, virtual_batch_size=2)
    bn = BatchNorm(sizes, axis=axis)
    with pytest.raises(ValueError, match="expected another one than axis 0"):
        bn.virtual_batch_size = 2
    assert bn.virtual_batch_size is None
    bn = BatchNorm(3, virtual_batch_size=2)
    with pytest.raises(ValueError, match="expected another one than axis 0"):
        bn.axis = 0
    assert bn.axis == 1


def test_a_sync_batch_norm_has_none():
    pytest.importorskip("mpi4py")
    with pytest.raises(ValueError, match="virtual_batch_size must be None in a SyncBatchNorm"):
        SyncBatchNorm(3, virtual_batch_size=4)
