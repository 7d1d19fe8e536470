"""The report on a layer."""

import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn.layers.report import divergence


def batches(count, size=50, channels=3, dtype=np.float64, mean=0.0):
    rng = np.random.default_rng(4)
    return [(mean + rng.standard_normal((size, channels))).astype(dtype) for _ in range(count)]


def healthy(channels=8, dtype=np.float32):
    bn = BatchNorm(channels, dtype=dtype)
    for x in batches(3, channels=channels, dtype=dtype):
        bn(x)
    return bn


FLAGS = ("dead", "nan", "negative", "saturated")
SPOILED = {
    "gamma 0": ("gamma", 0.0, {"dead"}),
    "variance 0": ("running_var", 0.0, {"dead"}),
    "variance far below eps": ("running_var", 1e-9, {"dead"}),
    "variance near eps": ("running_var", 1e-6, set()),
    "NaN gamma": ("gamma", np.nan, {"nan"}),
    "NaN beta": ("beta", np.nan, {"nan"}),
    "NaN mean": ("running_mean", np.nan, {"nan"}),
    "NaN variance": ("running_var", np.nan, {"nan"}),
    "negative variance": ("running_var", -1e-3, {"negative"}),
    "large gamma": ("gamma", 1e37, {"saturated"}),
    "large mean": ("running_mean", -1e37, {"saturated"}),
    "Inf mean": ("running_mean", -np.inf, {"saturated"}),
    "Inf variance": ("running_var", np.inf, {"saturated"}),
    "large, but far from the end": ("gamma", 1e20, set()),
}


@pytest.mark.parametrize("name", SPOILED)
def test_flags(name):
    attribute, value, flags = SPOILED[name]
    bn = healthy()
    assert bn.report().healthy
    getattr(bn, attribute)[5] = value
    report = bn.report()
    for flag in FLAGS:
        assert np.flatnonzero(getattr(report, flag)).tolist() == ([5] if flag in flags else []), flag
    assert report.healthy is (not flags)
    assert ("(channel 5)" in repr(report)) is bool(flags)


def test_what_is_large_depends_on_the_dtype():
    bn = healthy(dtype=np.float64)
    bn.running_mean[0] = 1e37
    assert bn.report().healthy
    bn.running_mean[0] = 1e306
    assert bn.report().saturated.tolist() == [True] + [False] * 7


def test_a_layer_without_parameters():
    bn = BatchNorm(3, affine=False, dtype=np.float64)
    bn(batches(1)[0])
    report = bn.report()
    assert report.healthy
    np.testing.assert_allclose(report.scale, 1 / np.sqrt(bn.running_var + bn.eps), rtol=1e-15)


def test_a_layer_without_averages():
    with pytest.raises(RuntimeError, match="track_running_stats=False has no statistics to report"):
        BatchNorm(3, track_running_stats=False).report()


# ---- effective sample size ----

def kish(weights, sizes):
    return sum(weights) ** 2 / sum(w * w for w in weights), sum(weights) ** 2 / sum(
        w * w / n for w, n in zip(weights, sizes, strict=True))


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0, None])
def test_effective_sizes_of_averages(momentum):
    sizes = (10, 40, 7, 100, 2)
    bn = BatchNorm(3, momentum=momentum)
    for k, n in enumerate(sizes, 1):
        bn(batches(1, n)[0])
        m = 1 / k if momentum is None else momentum
        weights = [1 / k] * k if momentum is None else [m * (1 - m) ** (k - 1 - i) for i in range(k)]
        report = bn.report()
        right = kish(weights, sizes[:k])
        assert report.effective_batches == pytest.approx(right[0], rel=1e-12)
        assert report.effective_samples == pytest.approx(right[1], rel=1e-12)


def test_effective_sizes_of_exact_averages():
    bn = BatchNorm(3, averaging="exact")
    for n in (10, 40, 7):
        bn(batches(1, n)[0])
    report = bn.report()
    assert report.effective_samples == pytest.approx(57, rel=1e-12)
    assert report.effective_batches == pytest.approx(57 ** 2 / (10 ** 2 + 40 ** 2 + 7 ** 2), rel=1e-12)


def test_effective_sizes_in_the_limit():
    bn = BatchNorm(1)
    for x in batches(400, 8, 1):
        bn(x)
    report = bn.report()
    assert report.effective_batches == pytest.approx(1.9 / 0.1, rel=1e-12)
    assert report.effective_samples == pytest.approx(8 * 19, rel=1e-12)


def test_the_effective_size_is_that_of_the_noise():
    # The running mean of draws of variance 1 has variance 1 / effective_samples: seen in many channels.
    bn = BatchNorm(20000, dtype=np.float64, debias=True)
    rng = np.random.default_rng(0)
    for n in (4, 2, 8, 3):
        bn(rng.standard_normal((n, 20000)))
    report = bn.report()
    assert report.mean.var() * report.effective_samples == pytest.approx(1, rel=0.05)     # 5 standard errors


def test_effective_sizes_after_loading():
    bn, other = BatchNorm(3), BatchNorm(3)
    for x in batches(5):
        bn(x)
    other.load_state_dict(bn.state_dict())
    assert other.report().effective_batches == pytest.approx(bn.report().effective_batches, rel=1e-12)
    assert np.isnan(other.report().effective_samples)       # a state has no batch sizes
    state = bn.state_dict()
    del state["num_batches_tracked"]
    other.load_state_dict(state)
    assert np.isnan(other.report().effective_batches)
    assert "3 channels, 0 batches, of unknown weight" in repr(other.report())
    # A batch that replaces everything makes it known again.
    other.momentum = 1.0
    other(batches(1)[0])
    assert (other.report().effective_batches, other.report().effective_samples) == (1, 50)
    fresh = BatchNorm(3)
    fresh.load_state_dict(BatchNorm(3).state_dict())
    assert fresh.report().effective_batches == 0
    assert "no statistics yet" in repr(fresh.report())


# ---- drift ----

def kullback_leibler(m, v, mean, var):
    """The integral of the definition: Gauss-Hermite quadrature is exact for polynomials, as the logarithms are here."""
    nodes, weights = np.polynomial.hermite.hermgauss(6)
    x = m + np.sqrt(2 * v) * nodes

    def log_density(mu, sigma2):
        return -(x - mu) ** 2 / (2 * sigma2) - np.log(2 * np.pi * sigma2) / 2

    return weights @ (log_density(m, v) - log_density(mean, var)) / np.sqrt(np.pi)


@pytest.mark.parametrize(("m", "v", "mean", "var"), [
    (0.0, 1.0, 0.0, 1.0), (1.0, 1.0, 0.0, 1.0), (0.0, 4.0, 0.0, 1.0), (0.0, 0.25, 0.0, 1.0), (3.0, 0.1, -2.0, 7.0),
    (0.0, 1.001, 0.0, 1.0), (0.0, 1.49, 0.0, 1.0), (0.0, 1.51, 0.0, 1.0), (0.0, 0.51, 0.0, 1.0), (0.0, 1e-8, 0.0, 1e8),
])
def test_divergence_is_the_integral(m, v, mean, var):
    got = divergence(*(np.array([a]) for a in (m, v, mean, var)))[0]
    assert got == pytest.approx(kullback_leibler(m, v, mean, var), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("difference", [1e-3, 1e-6, -1e-6])
def test_near_variances_keep_their_difference(difference):
    with localcontext() as context:
        context.prec = 50
        ratio = Decimal(1 + difference)
        right = float((ratio - 1 - ratio.ln()) / 2)
    got = divergence(np.zeros(1), np.array([1 + difference]), np.zeros(1), np.ones(1))[0]
    assert got == pytest.approx(right, rel=1e-9)


def test_drift_of_a_batch(layout):
    axis = {"planes": 1, "rows": -1}[layout]
    rng = np.random.default_rng(6)
    x = rng.standard_normal((30, 3, 10)) + np.array([0.0, 2.0, 0.0])[:, None]
    x[:, 2] *= 3
    bn = BatchNorm(3, axis=axis, dtype=np.float64)
    before = {name: value.copy() for name, value in bn.state_dict().items()}
    report = bn.report(x if axis == 1 else np.moveaxis(x, 1, -1))
    right = [kullback_leibler(x[:, c].mean(), x[:, c].var(ddof=1) + 1e-5, 0.0, 1 + 1e-5) for c in range(3)]
    np.testing.assert_allclose(report.drift, right, rtol=1e-10)
    assert f"{np.median(right):.3g} nats in the median, {max(right):.3g} at most (channel 2)" in repr(report)
    assert int(np.max(report.live.count)) == 300
    assert BatchNorm(2, axis=-1).report(np.eye(2)).live.axis == -1
    for name, value in bn.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert bn._tape is None


def test_drift_from_what_evaluation_normalizes_by():
    bn = BatchNorm(3, dtype=np.float64, debias=True)
    x = batches(1)[0]
    bn(x)
    np.testing.assert_allclose(bn.report(x).drift, 0, atol=1e-14)
    plain = BatchNorm(3, dtype=np.float64)
    plain(x + 5)
    assert (plain.report(x + 5).drift > 5).all()


def test_drift_of_constant_and_spoiled_channels():
    bn = BatchNorm(3, dtype=np.float64, unbiased=False)
    bn.running_var[...] = [1, 0, np.nan]
    x = np.zeros((4, 3))
    drift = bn.report(x).drift
    assert drift[0] == pytest.approx((1e-5 / (1 + 1e-5) - 1 - np.log(1e-5 / (1 + 1e-5))) / 2, rel=1e-12)
    assert drift[1] == 0
    assert np.isnan(drift[2])
    bn.running_var[...] = np.nan
    assert "drift of the batch: unknown" in repr(bn.report(x))


@pytest.mark.parametrize(("x", "error", "message"), [
    (np.ones((1, 3)), ValueError, "x has 1 value per channel"),
    (np.ones((0, 3)), ValueError, "x has 0 values per channel"),
    (np.ones((4, 2)), ValueError, "2 channels along axis 1; expected 3"),
    (np.ones((4, 3), int), TypeError, "x has dtype int64"),
])
def test_bad_batches(x, error, message):
    with pytest.raises(error, match=message):
        BatchNorm(3).report(x)


def test_text():
    bn = BatchNorm(20, momentum=0.5)
    for x in batches(2, 10, 20):
        bn(x)
    bn.gamma[:12] = 0
    assert str(bn.report()) == (
        "20 channels, 2 batches, worth 1.8 batches or 18 values per channel\n"
        "dead: 12 (channels 0, 1, 2, 3, 4, 5, 6, 7 and 4 more)\nNaN: none\nnegative variance: none\nsaturated: none")


def test_without_matplotlib_a_picture_is_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "fastbn.layers.report_picture", raising=False)
    with pytest.raises(ImportError, match=r'plot needs matplotlib.*pip install "\.\[population\]"'):
        healthy().report().plot(tmp_path / "layer.png")
    assert not list(tmp_path.iterdir())
