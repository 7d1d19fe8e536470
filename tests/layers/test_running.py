"""How running averages follow batches: EMA, equal weights, all values exactly; debiased; and what NaN does to them."""

import contextlib
import copy
import pickle

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm
from fastbn.checkpoints import convert
from fastbn.checkpoints.formats import files
from tests.cases import axis_of
from tests.compare import same_bits
from tests.layers.trained import STATE, assert_same, batches, snapshot
from tests.statistics import rational as exact

SIZES = (40, 2, 9, 25, 6, 3)


def drifting(dtype=np.float64, layout="planes", mean=50.0, step=3.0):
    rng = np.random.default_rng(2)
    batches = [(mean + k * step + rng.standard_normal((n, 3, 2, 2))).astype(dtype) for k, n in enumerate(SIZES)]
    return batches if layout == "planes" else [np.ascontiguousarray(np.moveaxis(x, 1, -1)) for x in batches]


def trained(batches, **options):
    bn = BatchNorm(3, dtype=options.pop("dtype", np.float64), **options)
    for x in batches:
        bn(x)
    return bn


# ---- arguments ----

def test_what_averaging_says():
    assert BatchNorm(3).averaging == "ema"
    assert BatchNorm(3, momentum=None).averaging == "cumulative"
    cumulative = BatchNorm(3, averaging="cumulative")
    assert (cumulative.averaging, cumulative.momentum) == ("cumulative", None)
    total = BatchNorm(3, averaging="exact", nan_policy="raise")
    assert total.averaging == "exact"
    assert repr(total) == "BatchNorm(3, averaging='exact', nan_policy='raise')"
    assert repr(BatchNorm(3, debias=True)) == "BatchNorm(3, debias=True)"
    assert repr(cumulative) == "BatchNorm(3, momentum=None)"


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"averaging": "mean"}, ValueError, "averaging must be one of 'ema', 'cumulative', 'exact', got 'mean'"),
    ({"averaging": None}, TypeError, "averaging must be one of .*, got None"),
    ({"debias": 1}, TypeError, "debias must be True or False, got 1"),
    ({"debias": True, "averaging": "exact"}, ValueError, "debias must be False with averaging='exact'"),
    ({"debias": True, "momentum": None}, ValueError, "debias must be False with averaging='cumulative'"),
    ({"averaging": "exact", "track_running_stats": False}, ValueError, "track_running_stats must be True with avera"),
    ({"debias": True, "track_running_stats": False}, ValueError, "track_running_stats must be True with debias=True"),
    ({"nan_policy": "skip"}, ValueError, "nan_policy must be one of 'propagate', 'raise', 'skip_update', got 'skip'"),
    ({"nan_policy": True}, TypeError, "nan_policy must be one of"),
], ids=str)
def test_constructor_errors(options, error, message):
    with pytest.raises(error, match=message):
        BatchNorm(3, **options)


# ---- exact and cumulative ----

@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_exact_is_mean_and_variance_of_all_values(mean, unbiased, layout):
    batches = drifting(layout=layout, mean=mean, step=0.01)
    bn = BatchNorm(3, axis=axis_of(layout), averaging="exact", unbiased=unbiased, dtype=np.float64)
    for k, x in enumerate(batches, 1):
        bn(x)
        means, variances = exact.population(batches[:k], bn.axis, ddof=int(unbiased))
        assert exact.relative(bn.running_var, variances) <= 1e-12
        assert exact.relative(bn.running_mean, means) <= 1e-12
        assert bn.num_batches_tracked == k


def test_exact_in_float32(layout):
    batches = drifting(np.float32, layout)
    bn = trained(batches, axis=axis_of(layout), averaging="exact", dtype=np.float32)
    means, variances = exact.population(batches, bn.axis, ddof=1)
    assert exact.relative(bn.running_mean, means) <= 2.0 ** -24
    assert exact.relative(bn.running_var, variances) <= 1e-6


def test_exact_forwards_are_those_of_any_layer():
    batches = drifting(np.float32)
    total, ema = BatchNorm(3, averaging="exact"), BatchNorm(3)
    for x in batches:
        same_bits(total(x), ema(x))
        same_bits(total.backward(x), ema.backward(x))


def test_cumulative_is_momentum_none():
    batches = drifting()
    one, other = trained(batches, averaging="cumulative"), trained(batches, momentum=None)
    for name in STATE:
        same_bits(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.running_var, np.mean([x.var((0, 2, 3), ddof=1) for x in batches], 0), rtol=1e-12)


@pytest.mark.parametrize("averaging", ["ema", "cumulative", "exact"])
def test_reset_begins_anew(averaging):
    batches = drifting()
    bn = trained(batches, averaging=averaging)
    mean = bn.running_mean
    bn.reset_running_stats()
    assert_same(bn, snapshot(BatchNorm(3, dtype=np.float64)))
    assert bn.running_mean is mean
    for x in batches[2:]:
        bn(x)
    assert_same(bn, snapshot(trained(batches[2:], averaging=averaging)))


@pytest.mark.parametrize("averaging", ["ema", "exact"])
def test_an_empty_batch_counts_and_moves_nothing(averaging):
    bn = trained(drifting(), averaging=averaging)
    before = snapshot(bn)
    bn(np.empty((0, 3, 2, 2)))
    assert_same(bn, before | {"count": len(SIZES) + 1})


def test_an_empty_batch_has_no_share_in_a_mean_over_batches():
    # PyTorch counts it, and the batches after it weigh less than those before: the first one, but half.
    batches = drifting()
    bn = BatchNorm(3, averaging="cumulative", dtype=np.float64)
    for x in batches:
        bn(np.empty((0, 3, 2, 2)))
        bn(x)
    assert_same(bn, snapshot(trained(batches, averaging="cumulative")))


@pytest.mark.parametrize("options", [{"debias": True}, {"debias": True, "momentum": 0.5}, {"momentum": None},
                                     {"averaging": "exact"}, {"debias": True, "nan_policy": "skip_update"}], ids=str)
@pytest.mark.parametrize("empty", [0, 1, 5])
def test_empty_batches_have_no_share_after_loading(options, empty):
    # Of mean 5 and 7; with or without what fastbn has beyond PyTorch's state.
    bn = BatchNorm(1, dtype=np.float64, **options)
    for value in (5.0, 7.0):
        for _ in range(empty):
            bn(np.empty((0, 1)))
        bn(np.array([[value - 1], [value + 1]]))
        if "nan_policy" in options:
            with pytest.warns(RuntimeWarning, match="not finite") if value == 5 else contextlib.nullcontext():
                bn(np.array([[np.nan], [1.0]]))
    weights = {0.1: (0.9, 1), 0.5: (0.5, 1), None: (1, 1)}[bn.momentum if bn.averaging == "ema" else None]
    right = np.average([5, 7], weights=weights)
    state = bn.state_dict()
    for names in (set(state), {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}):
        other = BatchNorm(1, dtype=np.float64, **options)
        other.load_state_dict({name: value for name, value in state.items() if name in names})
        np.testing.assert_allclose(other.frozen().mean, right, rtol=1e-14)
        np.testing.assert_allclose(bn.frozen().mean, right, rtol=1e-14)


def test_debias_counts_no_empty_batch():
    bn = BatchNorm(1, dtype=np.float64, debias=True)
    bn(np.array([[4.0], [6.0]]))
    bn(np.empty((0, 1)))
    state = bn.state_dict()
    del state["initial_weight"]
    other = BatchNorm(1, dtype=np.float64, debias=True)
    other.load_state_dict(state)
    np.testing.assert_allclose(other.frozen().mean, 5, rtol=1e-14)
    assert other.num_batches_tracked == 1


def test_exact_keeps_both_words_of_a_mean():
    rng = np.random.default_rng(5)
    batches = [1e8 + rng.standard_normal((n, 3, 2, 2)) for n in (5, 2, 9)]
    bn = trained(batches, averaging="exact")
    _, var = exact.population(batches, ddof=1)
    assert exact.relative(bn.running_var, var) < 1e-12


# ---- debias ----

@pytest.mark.parametrize("momentum", [0.1, 0.01, 1.0])
@pytest.mark.parametrize("batches", [1, 2, 6])
def test_debiased_evaluation(momentum, batches):
    seen = drifting()[:batches]
    bn, plain = (trained(seen, momentum=momentum, debias=debias) for debias in (True, False))
    for name in STATE:
        same_bits(getattr(bn, name), getattr(plain, name))
    # Weights that sum to 1: those of the batches, without that of the initial values.
    weights = [momentum * (1 - momentum) ** (batches - 1 - k) for k in range(batches)]
    mean = np.average([x.mean((0, 2, 3)) for x in seen], axis=0, weights=weights)
    var = np.average([x.var((0, 2, 3), ddof=1) for x in seen], axis=0, weights=weights)
    x = drifting()[3]
    right = (x - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    np.testing.assert_allclose(bn.eval()(x), right, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(bn.frozen()(x), right, rtol=1e-10, atol=1e-11)
    dx = bn.backward(x)
    np.testing.assert_allclose(dx, x / np.sqrt(var[:, None, None] + 1e-5), rtol=1e-10)


def test_a_debiased_relu_with_a_residual_goes_back():
    bn = trained(drifting()[:1], debias=True).eval()
    x, r = drifting()[0], -drifting()[0]
    y = bn(x, residual=r, activation="relu")
    dx, dr = bn.backward(np.ones_like(x))
    np.testing.assert_array_equal(dr, (y > 0).astype(float))
    np.testing.assert_allclose(dx, dr / np.sqrt(x.var((0, 2, 3), ddof=1) + 1e-5)[:, None, None], rtol=1e-12)


def test_debiased_before_any_batch():
    bn = BatchNorm(3, dtype=np.float64, debias=True).eval()
    x = drifting()[0]
    same_bits(bn(x), BatchNorm(3, dtype=np.float64).eval()(x))
    still = BatchNorm(3, dtype=np.float64, debias=True, momentum=0.0)
    still(x)
    same_bits(still.eval()(x), bn(x))


def test_a_debiased_variance_is_never_negative_by_rounding():
    bn = BatchNorm(3, debias=True, momentum=0.3)
    for _ in range(5):
        bn(np.full((4, 3), 7, np.float32))
        var = bn._running.evaluation()[1]
        assert (var >= 0).all()
        assert (var < 1e-6).all()
    bn.running_var[1] = -1          # not a rounding, and not hidden
    assert bn._running.evaluation()[1][1] == -1


def test_debias_after_loading():
    seen, x = drifting()[:3], drifting()[4]
    bn = trained(seen, debias=True)
    state = bn.state_dict()
    assert state["initial_weight"] == pytest.approx(0.9 ** 3, rel=1e-15)
    right = bn.eval()(x)
    other = BatchNorm(3, dtype=np.float64, debias=True).eval()
    other.load_state_dict(state)
    same_bits(other(x), right)
    # By the counter, as from PyTorch:
    del state["initial_weight"]
    other.load_state_dict(state)
    np.testing.assert_allclose(other(x), right, rtol=1e-12, atol=1e-12)
    # Averages without a counter are taken as they are, and initial ones too.
    del state["num_batches_tracked"]
    other.load_state_dict(state)
    same_bits(other(x), trained(seen).eval()(x))
    fresh = BatchNorm(3, dtype=np.float64)
    other.load_state_dict(fresh.state_dict())
    same_bits(other(x), fresh.eval()(x))
    other.train()(x)
    assert other.state_dict()["initial_weight"] == 0.9


def test_debias_follows_a_momentum_that_changes():
    bn = BatchNorm(3, dtype=np.float64, debias=True)
    for momentum, x in zip((0.1, 0.5, 0.2), drifting(), strict=False):
        bn.momentum = momentum
        bn(x)
    assert bn.state_dict()["initial_weight"] == pytest.approx(0.9 * 0.5 * 0.8, rel=1e-15)


# ---- state ----

EXTRA = {"exact": {"exact_count", "exact_mean", "exact_mean_low", "exact_m2"}, "debias": {"initial_weight"}}
OPTIONS = {"exact": {"averaging": "exact"}, "debias": {"debias": True}}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("duplicate", ["state", "pickle", "copy", ".npz", ".safetensors"])
def test_training_goes_on_to_the_same_bits(kind, duplicate, tmp_path):
    batches = drifting(np.float32)
    bn = trained(batches[:4], dtype=np.float32, **OPTIONS[kind])
    state = bn.state_dict()
    assert set(state) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"} | EXTRA[kind]
    if duplicate == "state":
        other = BatchNorm(3, **OPTIONS[kind])
        other.load_state_dict(state)
    elif duplicate.startswith("."):
        path = tmp_path / f"layer{duplicate}"
        bn.save(path, prefix="bn.")
        other = BatchNorm.load(path, prefix="bn.")
        assert repr(other) == repr(bn)
    else:
        other = pickle.loads(pickle.dumps(bn)) if duplicate == "pickle" else copy.deepcopy(bn)
    for x in batches[4:]:
        bn(x)
        other(x)
    for name, value in bn.state_dict().items():
        same_bits(other.state_dict()[name], value)
    same_bits(other.eval()(batches[0]), bn.eval()(batches[0]))


@pytest.mark.parametrize("convention", ["torch", "keras"])
def test_files_of_other_conventions_have_their_names_alone(convention, tmp_path):
    trained(drifting(), averaging="exact", nan_policy="skip_update").save(
        tmp_path / "layer.npz", convention=convention, keep_variance=True)
    assert len(np.load(tmp_path / "layer.npz")) == {"torch": 5, "keras": 4}[convention]
    other = BatchNorm.load(tmp_path / "layer.npz", convention=convention, keep_variance=True)
    assert other.averaging == "exact"
    assert other.nan_policy == "skip_update"


@pytest.mark.parametrize(("name", "text"), [
    ("averaging", "mean"), ("averaging", "cumulative"), ("debias", "1"), ("nan_policy", "skip")])
def test_bad_metadata_of_a_file(name, text, tmp_path):
    state = BatchNorm(3).state_dict()
    files.write(tmp_path / "layer.npz", state, {f"fastbn.{name}": text})
    with pytest.raises(ValueError, match=f"layer.npz: metadata has '{text}' as fastbn.{name}"):
        BatchNorm.load(tmp_path / "layer.npz")


def test_settings_given_to_load_come_first(tmp_path):
    trained(drifting(), averaging="exact", nan_policy="raise").save(tmp_path / "layer.npz")
    bn = BatchNorm.load(tmp_path / "layer.npz", averaging="ema", nan_policy="propagate")
    assert repr(bn) == repr(BatchNorm(3, dtype=np.float64))


def test_a_conversion_keeps_the_extra_entries_to_fastbn():
    state = trained(drifting(np.float32), averaging="exact", dtype=np.float32).state_dict()
    assert set(convert(state, "fastbn", "fastbn")) == set(state)
    assert set(convert(state, "fastbn", "torch")) == set(state) - EXTRA["exact"]
    with pytest.raises(ValueError, match="state also has 'exact_count'"):
        convert(state, "torch", "fastbn")


def test_extra_entries_may_be_missing_or_without_need():
    batches = drifting()
    bn = trained(batches[:3], averaging="exact")
    plain = BatchNorm(3, dtype=np.float64)
    plain.load_state_dict(bn.state_dict())
    same_bits(plain.running_var, bn.running_var)
    # Without them: evaluation by what was loaded, then anew.
    bn.load_state_dict(trained(batches).state_dict())
    same_bits(bn.running_var, trained(batches).running_var)
    for x in batches[3:]:
        bn(x)
    assert exact.relative(bn.running_var, exact.population(batches[3:], ddof=1)[1]) <= 1e-12
    assert bn.num_batches_tracked == len(SIZES) + 3


BAD = {
    "part": (lambda s: s.pop("exact_m2"), ValueError, "state is missing exact_m2; expected all of exact_c.*, or none"),
    "shape": (lambda s: s.update(exact_mean=np.ones(4)), ValueError, r"exact_mean has shape \(4,\); expected \(3,\)"),
    "NaN": (lambda s: s.update(exact_m2=np.full(3, np.nan)), ValueError, "exact_m2 has values that are not finite"),
    "m2": (lambda s: s.update(exact_m2=-np.ones(3)), ValueError, "exact_m2 has negative values, down to -1"),
    "count": (lambda s: s.update(exact_count=np.full(3, 2.5)), ValueError, "channel 0 has 2.5"),
    "counts": (lambda s: s.update(exact_count=np.arange(3.0) - 1), ValueError, "channel 0 has -1"),
    "dtype": (lambda s: s.update(exact_count=np.ones(3, int)), TypeError, "exact_count has dtype int64"),
    "weight": (lambda s: s.update(initial_weight=1.5), ValueError, "initial_weight must be between 0 and 1, got 1.5"),
    "weight NaN": (lambda s: s.update(initial_weight=np.nan), ValueError, "initial_weight must be between 0 and 1"),
    "weights": (lambda s: s.update(initial_weight=np.ones(3)), TypeError, "initial_weight must be one floating-point"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_state_changes_nothing(name, tmp_path):
    change, error, message = BAD[name]
    options = {"debias": True} if name.startswith("weight") else {"averaging": "exact"}
    state = trained(drifting(), **options).state_dict()
    change(state)
    bn = trained(drifting()[:2], **options)
    before = bn.state_dict()
    with pytest.raises(error, match=message):
        bn.load_state_dict(state)
    for key, value in before.items():
        same_bits(bn.state_dict()[key], value)
    np.savez(tmp_path / "layer.npz", **state)
    with pytest.raises(ValueError, match=r"layer\.npz: .*exact_|layer\.npz: .*initial_weight"):
        BatchNorm.load(tmp_path / "layer.npz", **options)


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"momentum": None}, {"averaging": "exact"}], ids=str)
def test_averages_move_as_a_whole_if_numpy_raises_on_underflow(options):
    # The variance of 2.5e-43 is below the smallest normal float32.
    x = np.array([[1e-21], [2e-21]])
    bn, other = BatchNorm(1, **options), BatchNorm(1, **options)
    with np.errstate(all="raise"):
        bn(x)
        bn.accumulate([x])
        fastbn.population_statistics(bn, [x], bn)
    fastbn.population_statistics(other, [x], other)
    assert bn.running_var[0] > 0
    assert_same(bn, snapshot(other))


@pytest.mark.parametrize("options", [{}, {"averaging": "exact"}, {"nan_policy": "skip_update"}], ids=str)
def test_a_variance_beyond_float64_raises_no_floating_point_error(options):
    # The biased variance is 1.44e308; the unbiased one, and the sum of squares, exceed float64.
    bn = BatchNorm(1, dtype=np.float64, **options)
    skips = "nan_policy" in options
    with (np.errstate(all="raise"),
          pytest.warns(RuntimeWarning, match="not finite") if skips else contextlib.nullcontext()):
        y = bn(np.array([[-1.2e154], [1.2e154]]))
    assert y.ravel().tolist() == [-1, 1]
    assert bn.num_batches_tracked == (0 if skips else 1)
    assert bn.running_var[0] == (1 if skips else np.inf)


@pytest.mark.parametrize("options", [{}, {"averaging": "exact"}, {"momentum": None}], ids=str)
def test_a_full_counter_is_refused_before_the_averages_move(options):
    bn = BatchNorm(5, **options)
    bn.num_batches_tracked = 2**63 - 1
    before, x = snapshot(bn), batches()[0]
    for call in (lambda: bn(x), lambda: bn.accumulate([x]), lambda: bn(x, out=x)):
        with pytest.raises(ValueError, match=f"num_batches_tracked is {2**63 - 1}, and training cannot count another"):
            call()
    assert_same(bn, before)
    same_bits(x, batches()[0])
    bn.eval()(x)
