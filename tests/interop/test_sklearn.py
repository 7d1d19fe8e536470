"""ChannelScaler: the checks of scikit-learn, more dimensions, and data on which StandardScaler loses digits."""

import pickle
import warnings

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", reason='scikit-learn is not installed: pip install ".[sklearn]"')

import scipy.sparse  # noqa: E402
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
from tests.interop.parameters import with_lists  # noqa: E402


def expected(estimator):
    """Return the checks that are expected to fail, with reasons; none since scikit-learn 1.7."""
    if sklearn.__version__.startswith("1.6.") and estimator.with_mean:
        return {"check_sample_weight_equivalence_on_sparse_data": "sparse matrices, in spite of the tag that says no"}
    return {}


# check_array_api_input skips itself unless SCIPY_ARRAY_API is set.
@with_lists
@parametrize_with_checks(
    [ChannelScaler(), ChannelScaler(with_mean=False), ChannelScaler(with_std=False, axis=-1),
     ChannelScaler(nan_policy="raise")], expected_failed_checks=expected)
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
def test_agreement_with_standard_scaler(dtype):
    # On ordinary data, with and without weights.
    x = data((1000, 4), dtype)
    weights = np.random.default_rng(1).uniform(0, 2, 1000)
    ours, theirs = (cls().fit(x, sample_weight=weights) for cls in (ChannelScaler, StandardScaler))
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-6)
    np.testing.assert_allclose(ours.var_, theirs.var_, rtol=1e-6)
    ours, theirs = ChannelScaler().fit(x), StandardScaler().fit(x)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-6)
    np.testing.assert_allclose(ours.scale_, theirs.scale_, rtol=1e-6)
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), rtol=0, atol=1e-5)


def test_a_mean_of_a_million_standard_deviations():
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
    # scikit-learn 1.9 subtracts the mean in float32, with an error of up to 1/32; 1.6 in float64.
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
    ({"axis": 0}, data((4, 3)), ValueError, r"axis is 0, the axis of the samples of X with shape \(4, 3\)"),
    ({"axis": -2}, data((4, 3)), ValueError, "axis is -2, the axis of the samples"),
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


# Values and their standardized values. Squares, sums or 1 / scale_ are outside the range of the dtype.
SIZES = {
    "float32 subnormal": (np.float32([[1e-40], [3e-40]]), [-1, 1]),
    "float32 small": (np.float32([[1e-36], [3e-36], [5e-36]]), [-1.5**0.5, 0, 1.5**0.5]),
    "float32 least": (np.float32([[1e-45], [3e-45], [4e-45]]), None),
    "float32 largest": (np.float32([[3e38], [-3e38]]), [1, -1]),
    "float16 least": (np.float16([[6e-8], [1.8e-7]]), [-1, 1]),
    "float16 largest": (np.float16([[65504], [-65504]]), [1, -1]),
    "float64 1e301": (np.array([[1e301], [3e301]]), [-1, 1]),
    "float64 largest": (np.array([[1.7e308], [-1.7e308], [1.7e308], [-1.7e308]]), [1, -1, 1, -1]),
    "float64 1e154": (np.array([[-1e154], [0], [1e154]]), [-1.5**0.5, 0, 1.5**0.5]),
    "float64 1e-200": (np.array([[1e-200], [3e-200]]), [-1, 1]),
    "float64 one rounding apart": (np.array([[1e-150], [np.nextafter(1e-150, 1)]]), [-1, 1]),
    "zeros and 1e-300": (np.array([[0], [1e-300]]), [-1, 1]),
}


@pytest.mark.parametrize("how", ["fit", "partial_fit", "weighted"])
@pytest.mark.parametrize("name", SIZES)
def test_any_size(name, how):
    x, right = SIZES[name]
    if right is None:
        wide = x.astype(np.longdouble)
        right = ((wide - wide.mean()) / wide.std()).ravel().astype(float)
    scaler = ChannelScaler()
    ordinary = np.hstack([x, np.arange(len(x))[:, None]]).astype(x.dtype)       # together with another channel
    if how == "partial_fit":
        for row in ordinary[::-1]:
            scaler.partial_fit(row[None])
        y = scaler.transform(ordinary)[:, 0]
    else:
        y = scaler.fit(ordinary, sample_weight=np.full(len(x), 0.5) if how == "weighted" else None).transform(ordinary)
        y = y[:, 0]
    assert y.dtype == ordinary.dtype
    np.testing.assert_allclose(y, right, rtol=0, atol=4 * np.finfo(x.dtype).eps * np.abs(right).max())
    assert scaler.scale_[1] == pytest.approx(np.arange(len(x)).std(), rel=1e-12)
    if how == "fit":
        back = scaler.inverse_transform(scaler.transform(ordinary))[:, :1]
        np.testing.assert_allclose(back, x, rtol=8 * np.finfo(x.dtype).eps, atol=float(np.abs(x).max()) * 2.0**-52)
        if x.dtype != np.float16:
            sparse = ChannelScaler(with_mean=False)
            scaled = sparse.fit_transform(scipy.sparse.csc_array(ordinary))
            np.testing.assert_allclose(sparse.scale_, scaler.scale_, rtol=1e-12)
            np.testing.assert_allclose(scaled.toarray(), ordinary / scaler.scale_, rtol=4 * np.finfo(x.dtype).eps)
            np.testing.assert_allclose(
                sparse.inverse_transform(scaled).toarray(), ordinary, rtol=4 * np.finfo(x.dtype).eps)


def test_parts_of_different_sizes():
    parts = [np.array([[1e-200], [2e-200]]), np.zeros((2, 1)), np.array([[1.0], [3.0]]), np.array([[-1e200], [2e200]])]
    for order in (parts, parts[::-1]):
        scaler = ChannelScaler()
        for part in order:
            scaler.partial_fit(part)
        every = np.concatenate(parts).astype(np.longdouble)
        np.testing.assert_allclose(scaler.scale_, float(every.std()), rtol=1e-12)
        np.testing.assert_allclose(scaler.mean_, float(every.mean()), rtol=1e-12)
        assert scaler.n_samples_seen_ == 8


def test_a_subnormal_standard_deviation():
    with pytest.warns(RuntimeWarning, match="channel 1 of X: the standard deviation is below the smallest normal"):
        scaler = ChannelScaler().fit(np.array([[1.0, 1e-310], [2.0, 3e-310]]))
    assert scaler.scale_[1] == 1e-310
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChannelScaler().fit(np.array([[1.0, 1e-310], [2.0, 1e-310]]))       # constant: scale_ is 1


def test_the_second_word_of_the_mean():
    x = np.array([[0.1 + 0.2], [0.3]] * 50)
    scaler = ChannelScaler().fit(x)
    parts = ChannelScaler().partial_fit(x[:31]).partial_fit(x[31:])
    for same in (scaler, pickle.loads(pickle.dumps(scaler)), parts):
        np.testing.assert_allclose(same.transform(x).ravel(), [1, -1] * 50, rtol=1e-12)
        same_bits(same.inverse_transform(same.transform(x)), x)
    assert scaler.mean_low_[0] != 0
    assert scaler.stats_.to_arrays()["mean_low"].tolist() == scaler.mean_low_.tolist()


@pytest.mark.parametrize("ratio", [1e4, 1e8, 1e12], ids="{:g}".format)
def test_the_mean_costs_no_digits(ratio):
    x = np.random.default_rng(0).standard_normal((20_000, 3)) + ratio
    distances = (x - np.round(ratio)).astype(np.longdouble)      # exact, and about as large as the standard deviation
    mean, var = oracle.moments(distances, 1)
    scaler = ChannelScaler().fit(x)
    assert np.abs(scaler.transform(x) - (distances - mean) / np.sqrt(var)).max() < 4e-15
    same_bits(scaler.inverse_transform(scaler.transform(x)), x)


@pytest.mark.parametrize("shape", [(40, 3), (40, 3, 5), (40, 3, 2, 4)], ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_are_omitted_and_kept(shape, dtype):
    x = data(shape, dtype)
    missing = np.random.default_rng(1).random(shape) < 0.2
    missing[:, 2] = False
    x[missing] = np.nan
    scaler = ChannelScaler().fit(x)
    parts = ChannelScaler().partial_fit(x[:13]).partial_fit(x[13:])
    counts = np.moveaxis(~missing, 1, 0).reshape(3, -1).sum(axis=1)
    for c in range(3):
        values = x[:, c][~missing[:, c]].astype(np.longdouble)
        for one in (scaler, parts):
            assert one.mean_[c] == pytest.approx(float(values.mean()), rel=1e-12)
            assert one.var_[c] == pytest.approx(float(values.var()), rel=1e-12)
    y = scaler.transform(x)
    np.testing.assert_array_equal(np.isnan(y), missing)
    np.testing.assert_array_equal(np.isnan(scaler.inverse_transform(y)), missing)
    np.testing.assert_allclose(scaler.n_samples_seen_, counts / np.prod(shape[2:]))
    np.testing.assert_allclose(parts.n_samples_seen_, scaler.n_samples_seen_)
    assert scaler.fit(x[:, 2:]).n_samples_seen_ == 40
    if len(shape) == 2:
        theirs = StandardScaler().fit(x.astype(np.float64))
        wide = x.astype(np.float64)
        ours = ChannelScaler().fit(x)
        np.testing.assert_array_equal(ours.n_samples_seen_, theirs.n_samples_seen_)
        np.testing.assert_allclose(ours.transform(wide), theirs.transform(wide), rtol=1e-7)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_nan_as_in_standard_scaler(weighted, parts):
    rng = np.random.default_rng(3)
    x, weights = rng.normal(3, 2, (60, 4)), rng.random(60) + 0.1 if weighted else np.ones(60)
    x[rng.random(x.shape) < 0.4] = np.nan
    x[:, 3] = np.nan
    ours, theirs = ChannelScaler(), StandardScaler()
    for scaler in (ours, theirs):
        with np.errstate(invalid="ignore"):
            for rows in np.array_split(np.arange(60), parts):
                scaler.partial_fit(x[rows], sample_weight=weights[rows] if weighted else None)
    for name in ("mean_", "var_", "scale_", "n_samples_seen_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12)
    kept = np.ma.masked_invalid(x[:, :3])
    np.testing.assert_allclose(ours.mean_[:3], np.ma.average(kept, axis=0, weights=weights), rtol=1e-12)
    np.testing.assert_allclose(ours.n_samples_seen_[:3], (~kept.mask * weights[:, None]).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), rtol=1e-12, atol=1e-14)


def test_a_channel_of_nan_alone():
    x = np.array([[1.0, np.nan], [3.0, np.nan]])
    ours = ChannelScaler().fit(x)
    with np.errstate(invalid="ignore"):
        theirs = StandardScaler().fit(x)
    for name in ("mean_", "var_", "scale_", "n_samples_seen_"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(ours.transform(x), [[-1, np.nan], [1, np.nan]])
    ours.partial_fit(np.array([[5.0, 7.0], [7.0, 9.0]]))
    np.testing.assert_array_equal(ours.mean_, [4, 8])
    np.testing.assert_array_equal(ours.n_samples_seen_, [4, 2])
