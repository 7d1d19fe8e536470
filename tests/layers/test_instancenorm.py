"""The layer InstanceNorm: instances and running averages, gradients, state, attributes, copies."""

import copy
import pickle
import warnings

import numpy as np
import pytest

from fastbn import BatchNorm, InstanceNorm, population_statistics
from fastbn.functional import instance_norm_backward, instance_norm_training
from tests.compare import same_bits
from tests.groups import exact, inputs

SHAPE = (4, 6, 5, 3)
RUNNING = ("running_mean", "running_var")


def layer(i, **options):
    norm = InstanceNorm(6, axis=i.axis, affine=True, dtype=i.gamma.dtype, **options)
    norm.gamma[...], norm.beta[...] = i.gamma, i.beta
    return norm


@pytest.mark.parametrize(("training", "track"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("layout", ["planes", "rows"])
@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"activation": "silu"}, {"residual": True},
                                     {"residual": True, "activation": "relu"}], ids=str)
def test_it_computes_what_the_functions_do(layout, options, training, track, dtype):
    i = inputs(SHAPE, layout, dtype)
    options = options | ({"residual": i.residual} if "residual" in options else {})
    norm = layer(i, track_running_stats=track).train(training)
    want, saved = instance_norm_training(i.x, i.gamma, i.beta, axis=i.axis, **options)
    same_bits(norm(i.x, **options), want)
    right = instance_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    dx = norm.backward(i.dy)
    if "residual" in options:
        dx, dresidual = dx
        same_bits(dresidual, right[3])
    same_bits(dx, right[0])
    same_bits(norm.grad_gamma, right[1].astype(i.gamma.dtype))
    same_bits(norm.grad_beta, right[2].astype(i.gamma.dtype))
    assert norm.num_batches_tracked == int(track)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.3, 1.0, 0.0, None])
def test_running_averages(momentum, unbiased):
    norm = InstanceNorm(6, momentum=momentum, track_running_stats=True, unbiased=unbiased, dtype=np.float64)
    mean, var = np.zeros(6), np.ones(6)
    for step in range(5):
        x = inputs((2 + step, 6, 5), "planes", np.float64, mean=step, seed=step).x
        of = exact(x, 6)
        factor = 1 / (step + 1) if momentum is None else momentum
        mean = (1 - factor) * mean + factor * of.mean.mean(0)
        var = (1 - factor) * var + factor * of.var.mean(0) * (5 / 4 if unbiased else 1)
        norm(x)
    np.testing.assert_allclose(norm.running_mean, mean.astype(float), rtol=1e-13)
    np.testing.assert_allclose(norm.running_var, var.astype(float), rtol=1e-13)
    assert norm.num_batches_tracked == 5


def test_effective_samples():
    norm = InstanceNorm(6, momentum=None, track_running_stats=True)
    norm(np.ones((4, 6, 5), np.float32))
    norm(np.ones((4, 6, 5), np.float32))
    report = norm.report()
    assert (report.effective_batches, report.effective_samples) == (2, 2 * 4 * 5)


@pytest.mark.parametrize("unbiased", [True, False])
def test_drift_is_that_of_the_statistics_of_samples(unbiased):
    # Samples that differ in mean and variance: the statistics of all values are no measure for them.
    rng = np.random.default_rng(0)
    x = rng.normal(rng.normal(0, 9, (4, 3, 1)), rng.uniform(1, 5, (4, 3, 1)), (4, 3, 50))
    norm = InstanceNorm(3, track_running_stats=True, momentum=1.0, unbiased=unbiased, dtype=np.float64)
    norm(x)
    report = norm.report(x)
    assert (report.drift < 1e-14).all()
    np.testing.assert_allclose(report.live.mean, x.mean(axis=2).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(report.live.var(), x.var(axis=2).mean(axis=0), rtol=1e-14)
    assert (report.live.count == 50).all()
    moved = norm.report(x + 7)
    np.testing.assert_allclose(moved.drift, 49 / (norm.running_var + norm.eps) / 2, rtol=1e-12)
    x[0, 1, 3] = np.nan
    assert np.isnan(norm.report(x).drift).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="one value per channel of each sample"):
        norm.report(x[:, :, :1])
    with pytest.raises(ValueError, match="x has 0 values per channel; expected two or more"):
        norm.report(x[:0])


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"activation": "silu"}, {"residual": True},
                                     {"residual": True, "activation": "relu"}], ids=str)
@pytest.mark.parametrize("layout", ["planes", "rows"])
def test_evaluation_by_running_averages_is_that_of_batch_norm(layout, options, dtype):
    i = inputs(SHAPE, layout, dtype)
    options = options | ({"residual": i.residual} if "residual" in options else {})
    norm = layer(i, track_running_stats=True)
    norm(i.x)
    bn = BatchNorm(6, axis=i.axis, dtype=dtype)
    bn.load_state_dict(norm.state_dict())
    norm.eval(), bn.eval()
    same_bits(norm(i.x, **options), bn(i.x, **options))
    got, right = (layer.backward(i.dy) for layer in (norm, bn))
    for a, b in zip(got if isinstance(got, tuple) else (got,), right if isinstance(right, tuple) else (right,),
                    strict=True):
        same_bits(a, b)
    same_bits(norm.grad_gamma, bn.grad_gamma)
    same_bits(norm.grad_beta, bn.grad_beta)
    np.testing.assert_array_equal(norm.frozen()(i.x), norm(i.x))
    single = i.x[:1, :1, :1] if layout == "rows" else i.x[:1, :, :1, :1]
    assert norm(single).shape == single.shape       # one value per instance is enough


def test_gradients_of_evaluation_are_those_of_constants():
    i = inputs(SHAPE, "planes", np.float64)
    norm = layer(i, track_running_stats=True)
    norm(i.x)
    norm.eval()(i.x)
    scale = i.gamma / np.sqrt(norm.running_var + norm.eps)
    np.testing.assert_allclose(norm.backward(i.dy), i.dy * scale[:, None, None], rtol=1e-13)


def test_debias():
    norm = InstanceNorm(6, track_running_stats=True, debias=True, dtype=np.float64)
    x = inputs(SHAPE, "planes", np.float64).x
    norm(x)
    y = norm.eval()(x)
    of = exact(x, 6)
    mean, var = of.mean.mean(0), of.var.mean(0) * (15 / 14)
    want = (x - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    np.testing.assert_allclose(y, want.astype(float), rtol=0, atol=1e-12)


@pytest.mark.parametrize("out", [True, False])
def test_nan_policy(out):
    x = inputs(SHAPE, "planes").x.copy()
    x[1, 2, 0, 0] = np.nan
    written = np.full_like(x, 7) if out else None
    norm = InstanceNorm(6, track_running_stats=True, nan_policy="raise")
    with pytest.raises(ValueError, match="not finite in float32 in channel 2; nan_policy='raise'"):
        norm(x, out=written)
    assert written is None or (written == 7).all()
    assert norm.num_batches_tracked == 0
    norm.nan_policy = "skip_update"
    with pytest.warns(RuntimeWarning, match="not finite .* in channel 2"):
        y = norm(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norm(x)
    assert np.isnan(y[1, 2]).all()
    assert np.isfinite(y[0]).all()
    assert not norm.running_mean.any()
    norm.nan_policy = "propagate"
    norm(x)
    assert np.isnan(norm.running_mean).tolist() == [c == 2 for c in range(6)]


@pytest.mark.parametrize("out", [True, False])
def test_nan_policy_without_running_averages_is_that_of_batch_norm(out):
    x = inputs(SHAPE, "planes").x.copy()
    good = x.copy()
    x[1, 2, 0, 0] = np.nan
    for norm in (InstanceNorm(6, nan_policy="raise"), BatchNorm(6, track_running_stats=False, nan_policy="raise")):
        written = np.full_like(x, 7) if out else None
        with pytest.raises(ValueError, match="not finite in float32 in channel 2; nan_policy='raise'"):
            norm(x, out=written)
        assert written is None or (written == 7).all()
        same_bits(norm(good, out=written), type(norm)(6, track_running_stats=False)(good))
    norm = InstanceNorm(6, nan_policy="skip_update")
    assert np.isnan(norm(x)).any()      # without a warning, because no average is left out: pytest makes them errors


@pytest.mark.parametrize("shape", [(0, 6, 4), (2, 6, 0)], ids=str)
def test_empty_batches_are_counted_and_move_nothing(shape):
    norm = InstanceNorm(6, track_running_stats=True)
    x = np.empty(shape, np.float32)
    assert norm(x).shape == norm.backward(x).shape == shape
    assert norm.num_batches_tracked == 1
    assert norm.running_mean.tolist() == [0] * 6
    assert norm.running_var.tolist() == [1] * 6


@pytest.mark.parametrize(("options", "names"), [
    ({}, set()), ({"affine": True}, {"weight", "bias"}), ({"scale": True}, {"weight"}),
    ({"track_running_stats": True}, {*RUNNING, "num_batches_tracked"}),
    ({"affine": True, "track_running_stats": True}, {"weight", "bias", *RUNNING, "num_batches_tracked"})], ids=str)
def test_state(options, names):
    i = inputs(SHAPE, "planes")
    norm = InstanceNorm(6, **options)
    norm(i.x)
    assert set(norm.state_dict()) == names
    other = InstanceNorm(6, **options)
    other.load_state_dict(norm.state_dict())
    same_bits(other.eval()(i.x), norm.eval()(i.x))
    assert other.num_batches_tracked == norm.num_batches_tracked
    with pytest.raises(ValueError, match="state also has extra"):
        other.load_state_dict(norm.state_dict() | {"extra": np.ones(6)})


@pytest.mark.parametrize(("layer", "text"), [
    (InstanceNorm(3), "InstanceNorm(3)"),
    (InstanceNorm(3, 1e-3, None, True, True, axis=-1),
     "InstanceNorm(3, eps=0.001, momentum=None, affine=True, track_running_stats=True, axis=-1)"),
    (InstanceNorm(3, scale=True, unbiased=False).eval(),
     "InstanceNorm(3, affine=True, center=False, unbiased=False, training=False)"),
])
def test_repr(layer, text):
    assert repr(layer) == text


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda norm: pickle.loads(pickle.dumps(norm))])
def test_copies_are_independent(duplicate):
    i = inputs(SHAPE, "planes")
    norm = layer(i, track_running_stats=True)
    norm(i.x)
    other = duplicate(norm)
    before = other.running_mean.copy()
    norm(i.dy)
    norm.gamma[...] = 0
    same_bits(other.running_mean, before)
    same_bits(other.gamma, i.gamma)
    with pytest.raises(RuntimeError, match="backward needs a forward pass"):
        other.backward(i.dy)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"axis": 0}, ValueError, "axis must be that of the channels, and 0 is that of the samples; got 0"),
    ({"momentum": 2}, ValueError, "momentum must be between 0 and 1, got 2"),
    ({"affine": None}, TypeError, "affine must be True or False, got None"),
    ({"track_running_stats": 1}, TypeError, "track_running_stats must be True or False, got 1"),
    ({"debias": True}, ValueError, "track_running_stats must be True with debias=True, got False"),
    ({"nan_policy": "omit"}, ValueError, "nan_policy must be one of"),
])
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        InstanceNorm(6, **options)


@pytest.mark.parametrize(("name", "value", "error", "message"), [
    ("num_features", 3, AttributeError, "num_features of an InstanceNorm cannot be assigned; make a new layer"),
    ("track_running_stats", True, AttributeError, "track_running_stats of an InstanceNorm cannot be assigned"),
    ("axis", 0, ValueError, "axis must be that of the channels"),
    ("running_mean", np.ones(3), ValueError, r"running_mean has shape \(3,\); expected \(6,\)"),
    ("epsilon", 1.0, AttributeError, "an InstanceNorm has no attribute epsilon; it is called eps"),
], ids=str)
def test_bad_assignments(name, value, error, message):
    norm = InstanceNorm(6)
    with pytest.raises(error, match=message):
        setattr(norm, name, value)


@pytest.mark.parametrize("training", [True, False])
def test_bad_calls(training):
    i = inputs(SHAPE, "planes")
    norm = layer(i, track_running_stats=True).train(training)
    norm(i.x)
    before = norm.state_dict()
    out = np.full_like(i.x, 7)
    for x, residual, message in ((i.x[:, :4], None, "x has shape .* 4 channels along axis 1; expected 6"),
                                 (i.x, i.residual[:2], "residual has shape")):
        with pytest.raises(ValueError, match=message):
            norm(x, residual, out=out[:, :4] if residual is None else out)
    if training:
        with pytest.raises(ValueError, match="one value per channel of each sample"):
            norm(i.x[:, :, :1, :1])
    else:
        norm.running_var[2] = -1
        with pytest.raises(ValueError, match=r"running_var has negative values, down to -1\.0, in channel 2"):
            norm(i.x, out=out)
        norm.running_var[2] = before["running_var"][2]
    assert (out == 7).all()
    for name, value in norm.state_dict().items():
        same_bits(value, before[name])
    norm.backward(i.dy)     # of the last pass that was not refused
    norm.running_mean = None
    with pytest.raises(ValueError, match="running_mean is None; expected both running averages, or neither"):
        norm(i.x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("track", [True, False])
def test_in_place(training, track):
    i = inputs(SHAPE, "planes")
    norm = layer(i, track_running_stats=track).train(training)
    x = i.x.copy()
    norm(x, out=x)
    with pytest.raises(RuntimeError, match="a result was written over the x"):
        norm.backward(i.dy)


def test_other_tools_refuse_it():
    norm = InstanceNorm(6, track_running_stats=True)
    with pytest.raises(TypeError, match="InstanceNorm"):
        population_statistics(norm, [], norm)


@pytest.mark.parametrize("averages", [False, True])
def test_evaluation_allows_any_activation_after_a_residual(averages):
    x, residual = np.random.default_rng(0).normal(0, 1, (2, 4, 3, 5))
    norm = InstanceNorm(3, affine=True, track_running_stats=averages).eval()
    y = norm(x, residual, "tanh")
    np.testing.assert_allclose(y, np.tanh(norm(x) + residual), rtol=1e-14)
    norm(x, residual, "tanh", out=np.empty_like(x))
    with pytest.raises(RuntimeError, match="was tanh, after a residual, where backward supports only relu"):
        norm.backward(x)
    with pytest.raises(ValueError, match="activation must be None or 'relu' after a residual in training, got 'tanh'"):
        norm.train()(x, residual, "tanh")
