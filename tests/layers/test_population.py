"""Running statistics over a data set: exact, for all layers or for none, with everything else as it was."""

import io
import sys

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, ChannelStats, population_statistics
from tests.cases import axis_of
from tests.layers.trained import assert_same, snapshot
from tests.statistics import rational as exact

SIZES = (64, 2, 7, 33, 5)


def drifting(mean=0.0, std=1.0, step=5.0, channels=3, dtype=np.float64):
    """Batches of uneven size whose mean moves by some deviations from one to the next."""
    rng = np.random.default_rng(1)
    return [(mean + std * (k * step + rng.standard_normal((n, channels)))).astype(dtype)
            for k, n in enumerate(SIZES)]


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize(("mean", "std", "step"), [(0.0, 1.0, 5.0), (1e4, 1.0, 0.0), (1e4, 1.0, 5.0), (-3e3, 0.4, 0.1)])
def test_float64_layers_are_exact(mean, std, step, unbiased):
    batches = drifting(mean, std, step)
    bn = BatchNorm(3, dtype=np.float64, unbiased=unbiased)
    [stats] = population_statistics(bn, batches, bn)
    means, variances = exact.population(batches, ddof=int(unbiased))
    assert exact.relative(bn.running_mean, means) <= 1e-12
    assert exact.relative(bn.running_var, variances) <= 1e-12
    np.testing.assert_array_equal(bn.running_var, stats.var(ddof=int(unbiased)))
    assert int(np.max(stats.count)) == sum(SIZES)


def test_an_average_of_batch_variances_would_be_far_off():
    batches = drifting(step=5.0)
    bn, average = BatchNorm(3, dtype=np.float64), BatchNorm(3, dtype=np.float64, averaging="cumulative")
    population_statistics(bn, batches, bn)
    for x in batches:
        average(x)
    true = [float(v) for v in exact.population(batches, ddof=1)[1]]
    assert (average.running_var < 0.1 * np.array(true)).all()
    np.testing.assert_allclose(bn.running_var, true, rtol=1e-12)


def test_float32_layers_are_the_exact_result_rounded(layout):
    axis = axis_of(layout)
    rng = np.random.default_rng(3)
    batches = [(100 + k + rng.standard_normal((n, 3, 4, 5))).astype(np.float32) for k, n in enumerate((4, 1, 6))]
    batches = batches if axis == 1 else [np.moveaxis(x, 1, -1) for x in batches]
    bn = BatchNorm(3, axis=axis)
    population_statistics(bn, batches, bn)
    means, variances = exact.population(batches, axis, ddof=1)
    np.testing.assert_array_equal(bn.running_mean, np.array([float(m) for m in means], np.float32))
    np.testing.assert_array_equal(bn.running_var, np.array([float(v) for v in variances], np.float32))


class Network:
    """Two layers, the first in place; it remembers what the second one saw."""

    def __init__(self, **options):
        self.first, self.second = BatchNorm(3, dtype=np.float64), BatchNorm(4, dtype=np.float64, **options)
        self.weight = np.random.default_rng(5).standard_normal((3, 4))
        self.seen = []

    def __call__(self, x):
        x = x.copy()
        h = np.maximum(self.first(x, out=x), 0) @ self.weight
        self.seen.append(h)
        return self.second(h)


def test_every_layer_sees_batches_normalized_by_their_own_statistics():
    batches = drifting()
    net = Network()
    net.first.running_mean[...] = 1e6        # which no batch is normalized by
    population_statistics([net.first, net.second], batches, net)
    for layer, parts in ((net.first, batches), (net.second, net.seen)):
        means, variances = exact.population(parts, ddof=1)
        assert exact.relative(layer.running_mean, means) <= 1e-12
        assert exact.relative(layer.running_var, variances) <= 1e-12
    x_hat = (batches[1] - batches[1].mean(0)) / np.sqrt(batches[1].var(0) + 1e-5)
    np.testing.assert_allclose(net.seen[1], np.maximum(x_hat, 0) @ net.weight, rtol=1e-9)


def test_a_layer_that_runs_twice_a_batch_sees_both():
    bn = BatchNorm(3, dtype=np.float64)
    batches = drifting()
    [stats] = population_statistics(bn, batches, lambda x: (bn(x), bn(x + 1)))
    assert int(np.max(stats.count)) == 2 * sum(SIZES)
    assert bn.num_batches_tracked == 2 * len(SIZES)
    assert exact.relative(bn.running_var, exact.population([*batches, *(x + 1 for x in batches)], ddof=1)[1]) <= 1e-12


@pytest.mark.parametrize("training", [True, False])
def test_the_rest_is_as_before(training):
    bn = BatchNorm(3, dtype=np.float64).train(training)
    x, dy = drifting()[:1] * 2
    bn(x)
    dx = bn.backward(dy)
    gradients = bn.grad_gamma, bn.grad_beta
    population_statistics(bn, drifting(), bn)
    assert bn.training is training
    assert bn.grad_gamma is gradients[0]
    assert bn.grad_beta is gradients[1]
    assert bn.num_batches_tracked == len(SIZES)
    if training:        # in evaluation mode backward reads the running averages, which are others now
        np.testing.assert_array_equal(bn.backward(dy), dx)
    np.testing.assert_array_equal(bn.gamma, 1)


def test_the_arrays_stay_the_same_objects():
    bn = BatchNorm(3)
    mean, var = bn.running_mean, bn.running_var
    population_statistics(bn, drifting(), bn)
    assert bn.running_mean is mean
    assert bn.running_var is var


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_do_not_depend_on_threads(threads):
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((8, 16, 40, 40), np.float32) for _ in range(2)]
    one, other = BatchNorm(16, num_threads=1), BatchNorm(16, num_threads=threads)
    for bn in (one, other):
        population_statistics(bn, batches, bn)
    np.testing.assert_array_equal(one.running_var, other.running_var)


def test_training_goes_on_from_there():
    batches = drifting()
    total, ema = (BatchNorm(3, dtype=np.float64, averaging=a) for a in ("exact", "ema"))
    more = drifting(mean=7.0)[0]
    for bn in (total, ema):
        [stats] = population_statistics(bn, batches[:3], bn)
        stats.update(more)          # the caller's own
        bn(more)
    assert exact.relative(total.running_var, exact.population([*batches[:3], more], ddof=1)[1]) <= 1e-12
    before = [float(v) for v in exact.population(batches[:3], ddof=1)[1]]
    np.testing.assert_allclose(ema.running_var, 0.9 * np.array(before) + 0.1 * more.var(0, ddof=1), rtol=1e-12)


def test_debias_finds_nothing_to_correct():
    bn = BatchNorm(3, dtype=np.float64, debias=True)
    population_statistics(bn, drifting(), bn)
    x = drifting()[3]
    plain = BatchNorm(3, dtype=np.float64).eval()
    plain.running_mean[...], plain.running_var[...] = bn.running_mean, bn.running_var
    np.testing.assert_array_equal(bn.eval()(x), plain(x))


def test_micro_batches_count_as_one_batch():
    bn = BatchNorm(3, dtype=np.float64)
    batches = drifting()

    def forward(x):
        whole = bn.accumulate([x[:1], x[1:]])
        whole(x[:1])

    population_statistics(bn, batches, forward)
    assert bn.num_batches_tracked == len(SIZES)
    assert exact.relative(bn.running_var, exact.population(batches, ddof=1)[1]) <= 1e-12


# ---- errors: all or nothing ----

def failing(layers, k):
    def forward(x):
        for layer in layers:
            layer(x)
        failing.count += 1
        if failing.count == k:
            raise KeyError("the data set ended badly")
    failing.count = 0
    return forward


def test_an_error_on_the_way_changes_nothing():
    layers = [BatchNorm(3, averaging="exact"), BatchNorm(3).eval()]
    layers[0](drifting()[0])
    before = [(layer.training, layer.num_batches_tracked) for layer in layers]
    states = [layer.state_dict() for layer in layers]
    with pytest.raises(KeyError, match="ended badly"):
        population_statistics(layers, drifting(), failing(layers, 3))
    for layer, old, state in zip(layers, before, states, strict=True):
        assert (layer.training, layer.num_batches_tracked) == old
        assert layer._follower is layer._running
        for name, value in layer.state_dict().items():
            np.testing.assert_array_equal(value, state[name])


def with_nan(x):
    x = x.copy()
    x[1, 2] = np.nan
    return x


BAD = {
    "no layers": (lambda bn: ([], drifting(), bn), ValueError, "bn_layers is empty"),
    "layer": (lambda bn: (3, drifting(), bn), TypeError, "bn_layers must be a BatchNorm or an iterable.*got int"),
    "layers": (lambda bn: ([bn, "bn"], drifting(), bn), TypeError, r"bn_layers\[1\] must be a BatchNorm.*, got str"),
    "twice": (lambda bn: ([bn, bn], drifting(), bn), ValueError, r"bn_layers\[1\] appears twice"),
    "untracked": (lambda bn: ([bn, BatchNorm(3, track_running_stats=False)], drifting(), bn), ValueError,
                  r"bn_layers\[1\] keeps no running averages"),
    "batches": (lambda bn: (bn, 3, bn), TypeError, "batches must be an iterable, got int"),
    "forward": (lambda bn: (bn, drifting(), None), TypeError, "forward must be callable, got NoneType"),
    "no batches": (lambda bn: (bn, [], bn), ValueError, r"bn_layers\[0\] saw no values in training mode"),
    "unused": (lambda bn: ([bn, BatchNorm(3)], drifting(), bn), ValueError, r"bn_layers\[1\] saw no values"),
    "evaluated": (lambda bn: (bn, drifting(), lambda x: bn.eval()(x)), ValueError, r"bn_layers\[0\] saw no values"),
    "one value": (lambda bn: (bn, [x[:1] for x in drifting()], bn), ValueError, "one value per channel"),
    "NaN": (lambda bn: (bn, [with_nan(x) for x in drifting()], bn), ValueError,
            r"bn_layers\[0\] has a running_mean that is not finite in float32 in channel 2$"),
    "overflow": (lambda bn: (bn, drifting(std=1e25), bn), ValueError, "not finite in float32 in channels 0, 1, 2"),
}


@pytest.mark.parametrize("layer_dtype", [np.float32, np.float64])
def test_averages_are_finite_in_the_dtype_of_their_arrays(layer_dtype):
    bn = BatchNorm(3, dtype=layer_dtype)
    bn.running_mean, bn.running_var = np.zeros(3), np.ones(3)
    [stats] = population_statistics(bn, drifting(std=1e25), bn)
    np.testing.assert_array_equal(bn.running_var, stats.var(ddof=1))
    bn.running_var = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"bn_layers\[0\] has a running_var that is not finite in float32 in chan"):
        population_statistics(bn, drifting(std=1e25), bn)
    np.testing.assert_array_equal(bn.running_var, 1)


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_and_data_change_nothing(name):
    make, error, message = BAD[name]
    bn = BatchNorm(3)
    bn(drifting()[0])
    before = snapshot(bn)
    with pytest.raises(error, match=message):
        population_statistics(*make(bn))
    assert_same(bn, before)
    assert bn.training


def test_empty_batches_have_no_share_in_what_follows():
    layers = [BatchNorm(3, averaging="cumulative", dtype=np.float64) for _ in range(2)]
    first, second = drifting()[:2]
    empty = first[:0]
    population_statistics(layers[0], [first], layers[0])
    population_statistics(layers[1], [empty, first, empty, empty], layers[1])
    for bn in layers:
        bn(second)
    assert_same(layers[1], snapshot(layers[0]))


def test_nothing_but_batches_that_a_layer_skips():
    bn = BatchNorm(3, nan_policy="skip_update")
    with pytest.warns(RuntimeWarning, match="the running averages do not follow such batches"), \
            pytest.raises(ValueError, match=r"bn_layers\[0\] saw only values that it skips"):
        population_statistics(bn, [np.full((4, 3, 2, 2), np.nan)], bn)


def test_a_read_only_average_is_refused_before_any_layer_changes():
    layers = [BatchNorm(3), BatchNorm(3)]
    batches = drifting()

    def forward(x):
        for layer in layers:
            layer(x)
        layers[1].running_var.flags.writeable = x is not batches[-1]

    with pytest.raises(ValueError, match=r"bn_layers\[1\].running_var is read-only"):
        population_statistics(layers, batches, forward)
    np.testing.assert_array_equal(layers[0].running_mean, 0)
    assert layers[0].num_batches_tracked == 0


def test_policies_for_nan():
    batches = drifting()
    bad = [*batches[:2], with_nan(batches[2]), *batches[3:]]
    refusing = BatchNorm(3, dtype=np.float64, nan_policy="raise")
    with pytest.raises(ValueError, match="not finite in float64 in channel 2; nan_policy"):
        population_statistics(refusing, bad, refusing)
    np.testing.assert_array_equal(refusing.running_var, 1)
    skipping = BatchNorm(3, dtype=np.float64, nan_policy="skip_update")
    with pytest.warns(RuntimeWarning, match="channel 2; the running averages do not follow"):
        population_statistics(skipping, bad, skipping)
    assert skipping.num_batches_tracked == 4
    good = exact.population([*batches[:2], *batches[3:]], ddof=1)[1]
    assert exact.relative(skipping.running_var, good) <= 1e-12


# ---- progress ----

@pytest.mark.parametrize("progress", [0, "yes"])
def test_progress_is_a_flag_or_none(progress):
    bn = BatchNorm(3)
    with pytest.raises(TypeError, match="progress must be True or False"):
        population_statistics(bn, drifting(), bn, progress=progress)


def test_without_tqdm_a_bar_is_refused_only_where_it_was_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    bn = BatchNorm(3)
    population_statistics(bn, drifting(), bn)
    assert bn.num_batches_tracked == len(SIZES)
    with pytest.raises(ImportError, match=r'pip install "\.\[population\]"'):
        population_statistics(bn, drifting(), bn, progress=True)
    assert terminal.getvalue() == ""


def test_it_is_public():
    assert fastbn.population_statistics is population_statistics
    assert isinstance(population_statistics(bn := BatchNorm(3), drifting(), bn)[0], ChannelStats)
