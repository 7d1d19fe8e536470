"""ChannelScaler on sparse matrices, and copies of dense and sparse ones."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason='scikit-learn is not installed: pip install ".[sklearn]"')

import scipy.sparse

from fastbn.sklearn import ChannelScaler

FORMATS = [scipy.sparse.csr_array, scipy.sparse.csc_array, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("make", FORMATS, ids=lambda f: f.__name__)
def test_sparse(make, dtype, weighted):
    rng = np.random.default_rng(3)
    stored = rng.random((3000, 7)) < [0, 1, 0.5, 0.1, 0.01, 1, 0.9]
    x = ((rng.standard_normal((3000, 7)) * 9 + 1e3) * stored).astype(dtype)
    x[:, 5] = 4
    weights = rng.random(3000) if weighted else None
    sparse = make(x)
    before = sparse.copy()
    scaler = ChannelScaler(with_mean=False)
    y = scaler.fit(sparse, sample_weight=weights).transform(sparse)
    dense = ChannelScaler(with_mean=False).fit(x, sample_weight=weights)
    parts = ChannelScaler(with_mean=False)
    for part in (slice(0, 1000), slice(1000, 1001), slice(1001, None)):
        parts.partial_fit(make(x[part]), sample_weight=None if weights is None else weights[part])
    for one in (scaler, parts):
        np.testing.assert_allclose(one.mean_, dense.mean_, rtol=1e-12)
        np.testing.assert_allclose(one.var_, dense.var_, rtol=1e-11)
        np.testing.assert_allclose(one.n_samples_seen_, dense.n_samples_seen_)
        assert one.scale_[[0, 5]].tolist() == [1, 1]
    assert type(y) is make
    assert y.dtype == (np.float64 if dtype == np.int32 else dtype)
    assert y.nnz == sparse.nnz
    np.testing.assert_allclose(y.toarray(), dense.transform(x), rtol=1e-6)
    np.testing.assert_allclose(scaler.inverse_transform(y).toarray(), x, rtol=1e-6)
    assert (sparse != before).nnz == 0


def test_values_without_weight_do_not_affect_the_exponent():
    x, weights = scipy.sparse.csr_array([[1e-250], [3e-250], [1e300]]), [1.0, 1.0, 0.0]
    scaler = ChannelScaler(with_mean=False).fit(x, sample_weight=weights)
    np.testing.assert_allclose(scaler.scale_, [1e-250], rtol=1e-12)
    np.testing.assert_allclose(scaler.transform(x).toarray()[:2], [[1.0], [3.0]], rtol=1e-12)


def test_duplicate_entries_and_nan():
    twice = scipy.sparse.csr_array((np.array([1.0, 2.0, 5.0]), np.array([0, 0, 1]), np.array([0, 2, 3, 3])), (3, 2))
    scaler = ChannelScaler(with_mean=False).fit(twice)
    assert scaler.mean_ == pytest.approx([1, 5 / 3], rel=1e-15)
    assert scaler.var_ == pytest.approx([2, 50 / 9], rel=1e-15)
    missing = scipy.sparse.csc_array(np.array([[np.nan, 1.0], [2.0, 0.0], [4.0, 0.0], [0.0, 1.0]]))
    scaler.fit(missing)
    assert scaler.mean_.tolist() == [2, 0.5]
    assert scaler.n_samples_seen_.tolist() == [3, 4]
    assert np.isnan(scaler.transform(missing).toarray()).sum() == 1
    with pytest.raises(ValueError, match="contains NaN"):
        ChannelScaler(with_mean=False, nan_policy="raise").fit(missing)


@pytest.mark.parametrize("call", ["fit", "partial_fit", "transform", "inverse_transform"])
def test_sparse_matrices_cannot_be_centred(call):
    x = scipy.sparse.csr_array(np.eye(3))
    scaler = ChannelScaler() if "fit" in call else ChannelScaler().fit(np.eye(3))
    with pytest.raises(ValueError, match=r"Cannot center sparse matrices.*with_mean=False"):
        getattr(scaler, call)(x)
    assert hasattr(scaler, "mean_") == ("fit" not in call)


@pytest.mark.parametrize("make", [np.array, *FORMATS], ids=lambda f: f.__name__)
def test_copy(make):
    given = np.arange(12.0).reshape(4, 3)
    scaler = ChannelScaler(with_mean=False).fit(given)
    x = make(given)
    want = scaler.transform(x)
    assert want is not x
    plain = np.asarray if make is np.array else make.toarray
    for own, options in ((True, {"copy": False}), (False, {})):
        x = make(given)
        y = scaler.set_params(copy=own).transform(x, **options)
        np.testing.assert_array_equal(plain(y), plain(want))
        np.testing.assert_array_equal(plain(x), plain(want))
    back = scaler.inverse_transform(x)
    np.testing.assert_allclose(plain(back), given, rtol=1e-15)
    read_only = given.copy()
    read_only.flags.writeable = False
    scaler.transform(read_only)     # writes a new array
    np.testing.assert_array_equal(read_only, given)
