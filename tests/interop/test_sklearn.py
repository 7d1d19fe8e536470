"""ChannelScaler: scikit-learn's own checks, higher ranks, and data on which StandardScaler loses digits."""

import pickle

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'fastbn[sklearn]'")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from fastbn.sklearn import ChannelScaler  # noqa: E402
from tests import oracle  # noqa: E402
from tests.compare import close, same_bits  # noqa: E402


# None of these is expected to fail. check_array_api_input skips itself unless SCIPY_ARRAY_API is set.
@parametrize_with_checks([ChannelScaler(), ChannelScaler(with_mean=False), ChannelScaler(with_std=False, axis=-1)])
def test_checks_of_sklearn(estimator, check):
    check(estimator)


def data(shape, dtype=np.float64, mean=3.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 2 + mean).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("with_mean", "with_std"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("shape", "axis"), [((50, 4), 1), ((50, 4), -1), ((9, 4, 5, 6), 1), ((9, 5, 6, 4), -1),
                                             ((9, 5, 4, 6), 2), ((7, 4, 3), 1), ((2, 4, 2, 3, 2), 1)])
def test_any_rank(shape, axis, with_mean, with_std, dtype):
    x = data(shape, dtype)
    scaler = ChannelScaler(with_mean=with_mean, with_std=with_std, axis=axis)
    y = scaler.fit_transform(x)
    mean, var = oracle.moments(x, axis)
    np.testing.assert_allclose(scaler.mean_, mean.astype(float), rtol=1e-12)
    np.testing.assert_allclose(scaler.var_, var.astype(float), rtol=1e-12)
    assert scaler.n_features_in_ == 4
    assert scaler.n_samples_seen_ == shape[0]
    wide = x.astype(np.longdouble)
    centred = wide - oracle.along(mean, x, axis, np.longdouble) if with_mean else wide
    exact = centred / oracle.along(np.sqrt(var), x, axis, np.longdouble) if with_std else centred
    close(y, exact, dtype)
    close(scaler.inverse_transform(y), wide, dtype, units=8)


@pytest.mark.parametrize("split", [(1,), (3, 4, 8), tuple(range(1, 20))], ids=lambda s: f"{len(s)}cuts")
@pytest.mark.parametrize("ratio", [1.0, 1e4], ids="{:g}".format)
def test_parts(split, ratio):
    x = data((20, 3, 4, 5), mean=2 * ratio)
    x[10:] += 1
    scaler = ChannelScaler()
    for part in np.split(x, split):
        assert scaler.partial_fit(part) is scaler
    whole = ChannelScaler().fit(x)
    np.testing.assert_allclose(scaler.mean_, whole.mean_, rtol=1e-12)
    np.testing.assert_allclose(scaler.var_, whole.var_, rtol=1e-12)
    assert scaler.n_samples_seen_ == whole.n_samples_seen_ == 20
    scaler.fit(x[:5])
    same_bits(scaler.mean_, ChannelScaler().fit(x[:5]).mean_)
    assert scaler.n_samples_seen_ == 5


@pytest.mark.parametrize("shape", [(12, 3), (12, 3, 4, 2)], ids=str)
def test_weights_are_repetitions(shape):
    x = data(shape)
    weights = np.array([0, 1, 2, 3] * 3)
    weighted = ChannelScaler().fit(x, sample_weight=weights)
    repeated = ChannelScaler().fit(np.repeat(x, weights, axis=0))
    parts = ChannelScaler().partial_fit(x[:5], sample_weight=weights[:5]).partial_fit(x[5:], sample_weight=weights[5:])
    for scaler in (weighted, parts):
        np.testing.assert_allclose(scaler.mean_, repeated.mean_, rtol=1e-12)
        np.testing.assert_allclose(scaler.var_, repeated.var_, rtol=1e-12)
        assert scaler.n_samples_seen_ == repeated.n_samples_seen_ == 18
    for wrong, message in (
            (weights[:3], "sample_weight"), (-weights, "sample_weight"), (0 * weights, "zero")):
        scaler = ChannelScaler()
        with pytest.raises(ValueError, match=message):
            scaler.fit(x, sample_weight=wrong)
        assert not hasattr(scaler, "mean_")


def relative(got, exact):
    return float(np.abs(got / exact - 1).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_beside_standard_scaler(dtype):
    # On ordinary data they agree, with weights and without.
    x = data((1000, 4), dtype)
    weights = np.random.default_rng(1).uniform(0, 2, 1000)
    ours, theirs = (cls().fit(x, sample_weight=weights) for cls in (ChannelScaler, StandardScaler))
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-6)
    np.testing.assert_allclose(ours.var_, theirs.var_, rtol=1e-6)
    ours, theirs = ChannelScaler().fit(x), StandardScaler().fit(x)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-6)
    np.testing.assert_allclose(ours.scale_, theirs.scale_, rtol=1e-6)
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), rtol=0, atol=1e-5)


def test_where_the_mean_is_a_million_deviations():
    x = (np.random.default_rng(0).standard_normal((20_000, 3)) + 1e6).astype(np.float32)
    mean, var = oracle.moments(x, 1)
    exact = (x.astype(np.longdouble) - mean) / np.sqrt(var)
    ours, theirs = ChannelScaler().fit(x), StandardScaler().fit(x)
    assert relative(ours.var_, var) < 1e-12
    close(ours.transform(x), exact, np.float32)
    parts, their_parts = ChannelScaler(), StandardScaler()
    for part in np.split(x, 200):
        parts.partial_fit(part)
        their_parts.partial_fit(part)
    assert relative(parts.var_, var) < 0.1 * relative(their_parts.var_, var)
    assert relative(ours.var_, var) < 0.1 * relative(theirs.var_, var)
    # scikit-learn 1.9 subtracts the mean as float32 holds it, to 1/32; 1.6 that of float64.
    assert np.abs(theirs.transform(x) - exact).max() < 1 / 32


@pytest.mark.parametrize("value", [0.0, 0.1, 1.1e7, -1e-30, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_channels(dtype, value):
    x = np.full((1001, 2), value, dtype)
    x[:, 1] = np.arange(1001)
    for scaler in (ChannelScaler().fit(x), ChannelScaler().partial_fit(x[:300]).partial_fit(x[300:])):
        same_bits(scaler.var_[:1], np.zeros(1))
        same_bits(scaler.scale_[:1], np.ones(1))
        same_bits(scaler.transform(x)[:, 0], np.zeros(1001, dtype))
        same_bits(scaler.inverse_transform(scaler.transform(x))[:, 0], x[:, 0] + 0)


def test_in_a_pipeline():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 200)
    x = rng.standard_normal((200, 5)) * [1, 1e3, 1e-3, 1, 1] + 1e4 + 2 * np.outer(target, [1, 0, 0, 0, 0])
    pipeline = make_pipeline(ChannelScaler(), LogisticRegression())
    assert pipeline.fit(x, target).score(x, target) > 0.8
    search = GridSearchCV(pipeline, {"channelscaler__with_std": [True, False]}, cv=3).fit(x, target)
    assert set(search.cv_results_["param_channelscaler__with_std"]) == {True, False}
    restored = pickle.loads(pickle.dumps(pipeline))
    same_bits(restored.predict_proba(x), pipeline.predict_proba(x))
    scaler = ChannelScaler(axis=-1, with_mean=False)
    assert clone(scaler).get_params() == {
        "axis": -1, "copy": True, "nan_policy": "omit", "with_mean": False, "with_std": True}


def test_names_of_columns():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(data((10, 2)), columns=["a", "b"])
    scaler = ChannelScaler().set_output(transform="pandas").fit(frame)
    assert list(scaler.transform(frame).columns) == list(scaler.get_feature_names_out()) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names should match"):
        scaler.transform(frame.rename(columns={"a": "c"}))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(dtype):
    x = data((30, 3, 4), dtype)
    assert ChannelScaler().fit_transform(x).dtype == dtype
    assert ChannelScaler().fit_transform(np.arange(12).reshape(4, 3)).dtype == np.float64


def nan():
    x = data((4, 3, 2))
    x[1, 1, 1] = np.nan
    return x


@pytest.mark.parametrize(("options", "x", "error", "message"), [
    ({"nan_policy": "raise"}, nan(), ValueError, "Input X contains NaN"),
    ({"nan_policy": "propagate"}, nan(), ValueError, "nan_policy must be one of 'omit', 'raise', got 'propagate'"),
    ({"copy": None}, nan(), TypeError, "copy must be True or False, got None"),
    ({}, np.array([[1.0], [np.inf]]), ValueError, "Input X contains infinity"),
    ({}, np.zeros((0, 3)), ValueError, "0 sample"),
    ({"axis": 0}, data((4, 3)), ValueError, r"axis is 0, along which the samples of X with shape \(4, 3\) lie"),
    ({"axis": -2}, data((4, 3)), ValueError, "axis is -2, along which the samples"),
    ({"axis": 2}, data((4, 3)), ValueError, "axis 2 is out of range"),
    ({"axis": 1.0}, data((4, 3)), TypeError, "axis must be an integer"),
    ({"with_std": 1}, data((4, 3)), TypeError, "with_std must be True or False, got 1"),
    ({"with_mean": None}, data((4, 3)), TypeError, "with_mean must be True or False, got None"),
], ids=lambda v: str(v)[:20] if isinstance(v, (dict, str)) else None)
def test_what_is_refused(options, x, error, message):
    scaler = ChannelScaler(**options)
    with pytest.raises(error, match=message):
        scaler.fit(x)
    assert not hasattr(scaler, "mean_")


def test_other_numbers_of_channels_change_nothing():
    scaler = ChannelScaler(axis=-1)
    with pytest.raises(NotFittedError):
        scaler.transform(data((4, 5, 3)))
    x = data((4, 5, 3))
    before = scaler.fit(x).mean_
    for call in (scaler.partial_fit, scaler.transform, scaler.inverse_transform):
        with pytest.raises(ValueError, match=r"X has shape \(4, 5, 2\), which is 2 channels along axis -1; expected 3"):
            call(x[..., :2])
    same_bits(scaler.mean_, before)
    assert scaler.n_samples_seen_ == 4
