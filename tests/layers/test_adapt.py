"""Test-time adaptation: blends against their definition, gradients against finite differences, and what is restored."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, BatchRenorm, adapt
from tests import oracle
from tests.cases import array, axis_of, case
from tests.compare import close, same_bits

C = 5
SHAPE = case(6, C, 4, 3)
FUSED = [(False, None), (True, None), (False, "relu"), (True, "relu"), (False, "silu")]
fused = pytest.mark.parametrize("fused", FUSED, ids=["linear", "residual", "relu", "residual+relu", "silu"])


def layer(axis=1, dtype=np.float64, kind=BatchNorm, **options):
    bn = kind(C, axis=axis, dtype=dtype, **options)
    bn.gamma[:], bn.beta[:] = [1, -2, 0.5, 3, 0.1], [0, 1, -1, 0.5, 2]
    bn.running_mean[:], bn.running_var[:] = [0, 1, 2, 3, 4], [1, 2, 3, 4, 5]
    return bn.eval()


def arrays(layout="planes", dtype=np.float64):
    return [array(SHAPE, layout, dtype, mean=2, std=3, seed=s) for s in range(3)]


def blended(bn, x, n0, n=6):
    """The definition."""
    mean, var = (v.astype(float) for v in oracle.moments(x, bn.axis))
    return (n0 * bn.running_mean + n * mean) / (n0 + n), (n0 * bn.running_var + n * var) / (n0 + n)


@pytest.mark.parametrize("kind", [BatchNorm, BatchRenorm])
@pytest.mark.parametrize("n0", [0, 0.5, 16])
def test_definition(n0, kind, layout, dtype, activation, with_residual):
    bn = layer(axis_of(layout), dtype, kind)
    x, residual, _ = arrays(layout, dtype)
    residual = residual if with_residual else None
    mean, var = blended(bn, x, n0)
    right = oracle.forward(
        x, bn.gamma, bn.beta, axis=bn.axis, mean=mean, var=var, residual=residual, relu=activation == "relu")
    out = np.empty_like(x)
    with adapt(bn, n0=n0):
        y = bn(x, residual, activation, out)
    assert y is out
    close(y, right.y, dtype, 4, size=np.abs(right.z).max() + (np.abs(residual).max() if with_residual else 0))


@pytest.mark.parametrize(("dtype", "ratio"), [
    (np.float32, 1.0), (np.float32, 1e2), (np.float32, 1e4), (np.float32, 1e6), (np.float64, 1.0), (np.float64, 1e2)])
@pytest.mark.parametrize("n0", [0, 16])
def test_accuracy(n0, dtype, ratio, layout):
    bn = layer(axis_of(layout), dtype)
    x = array(SHAPE, layout, dtype, mean=ratio)
    bn.running_mean[:] = ratio
    mean, var = oracle.moments(x, bn.axis)
    mean = (n0 * bn.running_mean.astype(oracle.WIDE) + 6 * mean) / (n0 + 6)
    var = (n0 * bn.running_var.astype(oracle.WIDE) + 6 * var) / (n0 + 6)
    with adapt(bn, n0=n0):
        close(bn(x), oracle.forward(x, bn.gamma, bn.beta, axis=bn.axis, mean=mean, var=var).y, dtype, 4)


@fused
def test_without_prior_it_is_training(fused, layout):
    bn = layer(axis_of(layout))
    bn.running_mean[:] = np.nan     # has no weight
    x, residual, dy = arrays(layout)
    residual = residual if fused[0] else None
    results = []
    with adapt(bn, n0=0):
        for training in (False, True):
            y = bn.train(training)(x, residual, fused[1])
            gradients = bn.backward(dy)
            results.append((y, *(gradients if fused[0] else [gradients]), bn.grad_gamma, bn.grad_beta))
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_with_an_infinite_prior_it_is_evaluation(layout, dtype):
    bn = layer(axis_of(layout), dtype)
    x, _, dy = arrays(layout, dtype)
    want, dx = bn(x), bn.backward(dy)
    with adapt(bn, n0=math.inf):
        same_bits(bn(x), want)
        same_bits(bn.backward(dy), dx)
    with adapt(bn, n0=1e12):
        np.testing.assert_allclose(bn(x), want, rtol=0, atol=1e-5)
        np.testing.assert_allclose(bn.backward(dy), dx, rtol=0, atol=1e-5)


def masks(name, shape, axis):
    """Arguments of a call, and which values count."""
    positions = tuple(np.delete(shape, axis))
    if name is None:
        return {}, np.ones(shape, bool)
    if name == "values":
        mask = np.random.default_rng(3).random(shape) < 0.6
        return {"mask": mask}, mask
    mask, options = np.random.default_rng(3).random(positions) < 0.6, {}
    if name == "lengths":
        options["lengths"] = [4, 0, 2]
        mask = np.broadcast_to(np.arange(positions[1]) < np.array([4, 0, 2])[:, None], positions)
    return options or {"mask": mask}, np.broadcast_to(np.expand_dims(mask, axis), shape)


@pytest.mark.parametrize("name", [None, "lengths", "positions", "values"])
@fused
def test_finite_differences(fused, name, layout):
    bn, (with_residual, activation) = layer(axis_of(layout)), fused
    x, residual, dy = (array(case(3, C, 4), layout, np.float64, mean=2, std=3, seed=s) for s in range(3))
    options, counted = masks(name, x.shape, bn.axis)
    arguments = [x, bn.gamma, bn.beta, *([residual] if with_residual else [])]

    def loss():
        y = bn(x, residual if with_residual else None, activation, **options)
        return float((y * dy).sum())

    with adapt(bn, n0=2):
        n = np.moveaxis(counted, bn.axis, -1).any(1).sum(0)         # samples with a value that counts
        y = bn(x, residual if with_residual else None, activation, **options)
        for c in range(C):
            values = np.take(x, c, bn.axis)[np.take(counted, c, bn.axis)]
            mean = (2 * bn.running_mean[c] + n[c] * values.mean()) / (2 + n[c])
            var = (2 * bn.running_var[c] + n[c] * values.var()) / (2 + n[c])
            if activation is None and not with_residual:
                want = (values - mean) / np.sqrt(var + bn.eps) * bn.gamma[c] + bn.beta[c]
                got = np.take(y, c, bn.axis)[np.take(counted, c, bn.axis)]
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
        dx = bn.backward(dy)
        gradients = [dx[0] if with_residual else dx, bn.grad_gamma, bn.grad_beta, *(dx[1:] if with_residual else [])]
        assert not gradients[0][~counted].any()
        step = 1e-5
        for values, gradient in zip(arguments, gradients, strict=True):
            gradient = gradient.copy()
            for index in np.ndindex(values.shape):
                kept = values[index]
                values[index] = kept + step
                above = loss()
                values[index] = kept - step
                below = loss()
                values[index] = kept
                assert (above - below) / (2 * step) == pytest.approx(float(gradient[index]), abs=1e-7)


def test_gradients_reach_the_parameters_of_earlier_layers():
    # A network of two layers, as in TENT: the gradient of the first gamma passes the blend of the second layer.
    rng = np.random.default_rng(0)
    first, second, weight = layer(), layer(), rng.normal(size=(C, C))
    x, dy = rng.normal(2, 3, (2, 8, C))

    def loss():
        return (second(first(x) @ weight) * dy).sum()

    with adapt([first, second], n0=4):
        hidden = first(x) @ weight
        second(hidden)
        first.backward(second.backward(dy) @ weight.T)
        gradient, step = first.grad_gamma.copy(), 1e-6
        for c in range(C):
            first.gamma[c] += step
            above = loss()
            first.gamma[c] -= 2 * step
            below = loss()
            first.gamma[c] += step
            assert (above - below) / (2 * step) == pytest.approx(gradient[c], abs=1e-7)


def test_everything_is_as_before():
    bn = layer()
    x, _, dy = arrays()
    want, state = bn(x), bn.state_dict()
    with adapt([bn], n0=4):
        assert abs(bn(x) - want).max() > 0.1
        bn.backward(dy)
        for name, value in bn.state_dict().items():
            same_bits(value, state[name])
        for other in (copy.copy(bn), pickle.loads(pickle.dumps(bn))):       # independent layers
            same_bits(other(x), want)
        once = bn(x)
        with adapt(bn, n0=0):
            assert abs(bn(x) - once).max() > 0.1
        same_bits(bn(x), once)
        same_bits(bn.frozen()(x), want)
    same_bits(bn(x), want)
    block = adapt(bn, n0=4)
    same_bits(bn(x), want)
    with block:
        once = bn(x)
        with block:
            same_bits(bn(x), once)
        same_bits(bn(x), once)
    same_bits(bn(x), want)
    with block:
        same_bits(bn(x), once)
    with pytest.raises(ZeroDivisionError), adapt(bn, n0=4):
        raise ZeroDivisionError
    same_bits(bn(x), want)


def test_training_is_as_always():
    bn, other = layer().train(), layer().train()
    x, _, dy = arrays()
    with adapt(bn, n0=4):
        same_bits(bn(x), other(x))
        same_bits(bn.backward(dy), other.backward(dy))
    same_bits(bn.running_var, other.running_var)


def test_single_values_and_empty_batches():
    bn = layer()
    with adapt(bn, n0=3):
        x = np.full((1, C), 7.0)
        mean, var = 0.75 * bn.running_mean + 0.25 * 7, 0.75 * bn.running_var
        np.testing.assert_allclose(bn(x)[0], (7 - mean) / np.sqrt(var + 1e-5) * bn.gamma + bn.beta, atol=1e-13)
        empty = np.ones((0, C, 3))
        assert bn(empty).shape == bn.backward(empty).shape == (0, C, 3)
        assert not bn(np.ones((2, C)), mask=[False, False]).any()
    with adapt(bn, n0=0):
        with pytest.raises(ValueError, match=r"single value of x counts in channels 0, 1, 2, 3, 4.*an n0 above 0"):
            bn(x)
        assert bn(np.ones((0, C))).shape == (0, C)


def test_a_nan_stays_in_its_channel_and_x_must_live():
    bn = layer()
    x, _, dy = arrays()
    want = x.copy()
    want[0, 2] = np.nan
    with adapt(bn, n0=3):
        clean = bn(x)
        y = bn(want)
        assert np.isnan(y[:, 2]).all()
        same_bits(np.delete(y, 2, 1), np.delete(clean, 2, 1))
        bn(x.copy())
        with pytest.raises(RuntimeError, match="x of the last forward pass no longer exists"):
            bn.backward(dy)
        bn(x, out=x)
        with pytest.raises(RuntimeError, match="written over the x"):
            bn.backward(dy)


@pytest.mark.parametrize("kind", [BatchNorm, BatchRenorm])
@pytest.mark.parametrize("steps", [4, 7])
def test_n_is_the_number_of_samples_however_sequences_are_stored(kind, steps):
    # Three sequences, one of which is empty: n is 2, jagged, or padded to any number of steps.
    bn, lengths = layer(-1, kind=kind), [4, 0, 2]
    padded = np.random.default_rng(0).normal(1, 2, (3, steps, C))
    counted = np.arange(steps) < np.array(lengths)[:, None]
    values = padded[counted]
    with adapt(bn, n0=3):
        mean, var = blended(bn, values, 3, n=2)
        want = (values - mean) / np.sqrt(var + bn.eps) * bn.gamma + bn.beta
        for y in (bn((values, np.array([0, 4, 4, 6])))[0], bn(padded, lengths=lengths)[counted],
                  bn(padded, mask=counted)[counted], bn(padded, mask=np.repeat(counted[..., None], C, -1))[counted]):
            np.testing.assert_allclose(y, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ["silu", ("elu", 0.5)])
def test_activations_without_a_backward_pass_as_in_evaluation(activation, layout, dtype):
    bn = layer(axis_of(layout), dtype)
    x, residual, dy = arrays(layout, dtype)
    with adapt(bn, n0=2):
        linear = bn(x, residual).astype(float)
        z = linear / (1 + np.exp(-linear)) if activation == "silu" else np.where(
            linear > 0, linear, 0.5 * np.expm1(linear))
        np.testing.assert_allclose(bn(x, residual, activation), z, rtol=0, atol=1e-11 if dtype == np.float64 else 1e-4)
        with pytest.raises(RuntimeError, match="after a residual, where backward supports only relu"):
            bn.backward(dy)


def test_bits_for_any_number_of_threads():
    x = array(case(8, 64, 40, 40), "planes")
    results = []
    for threads in (1, 2, 3):
        bn = BatchNorm(64, num_threads=threads).eval()
        with adapt(bn, n0=4):
            results.append((bn(x), bn.backward(x), bn.grad_gamma))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            same_bits(a, b)


@pytest.mark.parametrize(("layers", "n0", "error", "message"), [
    (lambda: layer(), -1, ValueError, "n0 must be 0 or more, got -1"),
    (lambda: layer(), math.nan, ValueError, "n0 must be 0 or more, got nan"),
    (lambda: layer(), "4", TypeError, "n0 must be a number, got '4'"),
    (lambda: [], 4, ValueError, "bn_layers is empty"),
    (lambda: [1], 4, TypeError, r"bn_layers\[0\] must be a BatchNorm or BatchRenorm, got int"),
    (lambda: [BatchNorm(3, track_running_stats=False)], 4, ValueError, r"bn_layers\[0\] keeps no running averages"),
    (lambda: [layer()] * 2, 4, ValueError, r"bn_layers\[1\] appears twice"),
])
def test_errors(layers, n0, error, message):
    with pytest.raises(error, match=message):
        adapt(layers(), n0=n0)


def test_samples_along_another_axis():
    bn, x = layer(0), np.random.default_rng(0).normal(1, 2, (C, 7, 3))      # C, N, positions
    other = layer(1)
    with adapt([bn, other], n0=3):
        np.testing.assert_allclose(bn(x), other(x.swapaxes(0, 1)).swapaxes(0, 1), rtol=0, atol=1e-12)


def test_a_decorator():
    bn, x = layer(), arrays()[0]

    @adapt(bn, n0=2)
    def adapted():
        return bn(x)

    assert abs(adapted() - bn(x)).max() > 0.1


def test_a_call_that_is_refused_changes_nothing():
    bn = layer()
    x, _, dy = arrays()
    with adapt(bn, n0=4):
        bn(x)
        dx = bn.backward(dy)
        for bad in (
                lambda: bn(x[:, :3]), lambda: bn(x, out=x[:3]), lambda: bn(x, x, "swish"), lambda: bn(x, lengths=3)):
            with pytest.raises((TypeError, ValueError)):
                bad()
        same_bits(bn.backward(dy), dx)


def test_adaptive_batch_norm_is_population_statistics_of_the_target():
    # Li et al. (2016): the statistics of a whole domain, in all layers, with the parameters of the source.
    target = np.random.default_rng(0).normal(7, 3, (50, C))
    bn = layer(unbiased=False)
    fastbn.population_statistics(bn, np.split(target, 5), bn)
    other = layer()
    with adapt(other, n0=0):
        np.testing.assert_allclose(bn(target), other(target), rtol=0, atol=1e-12)


def test_a_layer_that_keeps_its_output_keeps_x_here():
    x, dy = np.random.default_rng(0).normal(3, 2, (2, 6, 3))
    bn, other = BatchNorm(3, keep="output").eval(), BatchNorm(3).eval()
    with adapt([bn, other], n0=2):
        same_bits(bn(x), other(x))
        same_bits(bn.backward(dy), other.backward(dy))
        bn(x, out=x)
        with pytest.raises(RuntimeError, match="a result was written over"):
            bn.backward(dy)
