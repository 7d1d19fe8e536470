"""Standardization of channels as a transformer of scikit-learn."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from fastbn._core.extras import hint

try:
    from scipy.sparse import issparse  # type: ignore[import-untyped]
    from sklearn.base import (  # type: ignore[import-untyped]
        BaseEstimator,
        OneToOneFeatureMixin,
        TransformerMixin,
    )
    from sklearn.utils.validation import (  # type: ignore[import-untyped]
        _check_sample_weight,
        check_array,
        check_is_fitted,
        validate_data,
    )
except ImportError as _error:
    raise ImportError(f"fastbn.sklearn needs scikit-learn 1.6 or newer: {hint('sklearn')} ({_error})") from None

from fastbn._core import views
from fastbn._core.checks import NO_ACTIVATION, channels, check_choice, check_flag, check_integer, counted
from fastbn._core.dispatch import kernels
from fastbn.statistics import sparse as _sparse
from fastbn.statistics.channel_stats import ChannelStats
from fastbn.statistics.extrema import reduced
from fastbn.statistics.scaled import Scaled, power_of_two

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from sklearn.utils import Tags  # type: ignore[import-untyped]
    from typing_extensions import Self

__all__ = ["ChannelScaler"]

DTYPES = (np.float64, np.float32, np.float16)      # any other dtype is converted to float64
# Constants between 1 / LIMIT and LIMIT neither overflow nor underflow in the dtype of the transform.
LIMITS: dict[np.dtype[Any], float] = {
    np.dtype(np.float16): 2.0**100, np.dtype(np.float32): 2.0**100, np.dtype(np.float64): 2.0**1000}


class _Sparse(Protocol):
    # A sparse array or matrix of SciPy, which has no types.
    def tocsc(self) -> Any: ...


if TYPE_CHECKING:
    class _Transformer:
        # The methods that scikit-learn, which has no types, defines for a transformer.
        def fit_transform(self, X: Any, y: object = None, **fit_params: Any) -> Any: ...  # noqa: N803
        def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]: ...
        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Self: ...
        def set_output(self, *, transform: Literal["default", "pandas", "polars"] | None = None) -> Self: ...
        def __sklearn_tags__(self) -> Any: ...
else:
    class _Transformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
        pass


class ChannelScaler(_Transformer):
    """Standardize each channel to mean 0 and standard deviation 1: y = (x - `mean_`) / `scale_`.

    On arrays of shape (samples, features) and on sparse matrices it computes the same as
    `sklearn.preprocessing.StandardScaler`, with a relative error of the variance of at most 1e-12 if the mean is within
    1e4 standard deviations of zero. It also accepts images, sequences and volumes, and takes the statistics over all
    axes but the channel axis. Calls of `partial_fit` on parts give the same result as `fit` on all data. Values may
    have any magnitude of float64.

    Parameters
    ----------
    copy : bool
        If False, `transform` and `inverse_transform` overwrite X if it is an array of float64, float32 or float16.
    with_mean : bool
        Whether to subtract the mean. Must be False for sparse matrices, which would become dense.
    with_std : bool
        Whether to divide by the standard deviation.
    axis : int
        The channel axis: 1 for (N, C) and NCHW, -1 for NHWC. It cannot be 0, the axis of the samples.
    nan_policy : {"omit", "raise"}
        "omit" ignores NaN in `fit` and keeps them in `transform`, as StandardScaler does; "raise" makes them an error.

    Attributes
    ----------
    mean_, mean_low_ : ndarray of float64, shape (C,)
        The mean, NaN in a channel without values, and its second word, the rounding error of the first.
    var_ : ndarray of float64, shape (C,)
        The biased variance; Inf or 0 if it is outside the range of float64.
    scale_ : ndarray of float64, shape (C,)
        The divisor of `transform`: the standard deviation; 1 for a constant channel, and without `with_std`.
    stats_ : ChannelStats
        The statistics of ``X / 2**exponent_``.
    exponent_ : ndarray of int, shape (C,)
        Zero, except in channels whose squares are outside the range of float64.
    n_features_in_ : int
        The number of channels.
    feature_names_in_ : ndarray of str
        The names of the features, if X has them.
    n_samples_seen_ : int or float, or ndarray, shape (C,)
        The number of samples, or the sum of their weights. An array if NaN were omitted and the channels differ: the
        number of values in a channel, divided by that in a sample.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.sklearn import ChannelScaler
    >>> images = np.arange(24.0).reshape(2, 3, 2, 2)
    >>> scaler = ChannelScaler().fit(images)
    >>> scaler.mean_, scaler.var_
    (array([ 7.5, 11.5, 15.5]), array([37.25, 37.25, 37.25]))
    >>> bool(np.allclose(scaler.inverse_transform(scaler.transform(images)), images))
    True
    """

    mean_: NDArray[np.float64]
    mean_low_: NDArray[np.float64]
    var_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    stats_: ChannelStats
    exponent_: NDArray[np.int64]
    n_features_in_: int
    feature_names_in_: NDArray[np.object_]
    n_samples_seen_: Any

    def __init__(
        self, *, copy: bool = True, with_mean: bool = True, with_std: bool = True, axis: int = 1,
        nan_policy: Literal["omit", "raise"] = "omit",
    ) -> None:
        self.copy = copy
        self.with_mean = with_mean
        self.with_std = with_std
        self.axis = axis
        self.nan_policy = nan_policy

    def fit(self, X: ArrayLike | _Sparse, y: object = None, sample_weight: ArrayLike | None = None) -> ChannelScaler:  # noqa: N803
        """Compute the mean and variance of each channel, and discard earlier ones.

        Parameters
        ----------
        X : array_like, shape (N, C) or of more dimensions, or a CSR or CSC array or matrix
            Finite numbers, and NaN if `nan_policy` is "omit". Dtypes other than float64, float32 and float16 are
            converted to float64. The zeros that a sparse matrix does not store count as well.
        y : None
            Ignored.
        sample_weight : array_like, shape (N,), optional
            Weight of each sample, zero or more.

        Returns
        -------
        ChannelScaler
            This object.

        Raises
        ------
        TypeError, ValueError
            If `X` or a parameter is invalid.
        """
        return self._learn(self._checked(X, reset=True), sample_weight, further=False)

    def partial_fit(
        self, X: ArrayLike | _Sparse, y: object = None, sample_weight: ArrayLike | None = None,  # noqa: N803
    ) -> ChannelScaler:
        """Update the mean and variance of each channel with further samples.

        Parameters
        ----------
        X : array_like
            As in `fit`, with as many channels as before.
        y : None
            Ignored.
        sample_weight : array_like, shape (N,), optional
            As in `fit`.

        Returns
        -------
        ChannelScaler
            This object.

        Raises
        ------
        TypeError, ValueError
            As in `fit`; the statistics are unchanged then.
        """
        if not hasattr(self, "stats_"):
            return self.fit(X, sample_weight=sample_weight)
        return self._learn(self._checked(X, reset=False), sample_weight, further=True)

    def transform(self, X: ArrayLike | _Sparse, copy: bool | None = None) -> Any:  # noqa: N803
        """Return (X - `mean_`) / `scale_`.

        Parameters
        ----------
        X : array_like, or a CSR or CSC array or matrix
            With two or more dimensions, and as many channels as in `fit`.
        copy : bool, optional
            As in the class, for this call.

        Returns
        -------
        ndarray or sparse matrix, shape, format and dtype of X
            float64 if X is neither float32 nor float16.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError, ValueError
            As in `fit`.
        """
        return self._transformed(X, copy, inverse=False)

    def inverse_transform(self, X: ArrayLike | _Sparse, copy: bool | None = None) -> Any:  # noqa: N803
        """Return X * `scale_` + `mean_`, the inverse of `transform`.

        Parameters
        ----------
        X : array_like, or a CSR or CSC array or matrix
            As in `transform`.
        copy : bool, optional
            As in `transform`.

        Returns
        -------
        ndarray or sparse matrix, shape, format and dtype of X

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As in `transform`.
        """
        return self._transformed(X, copy, inverse=True)

    def _transformed(self, X: ArrayLike | _Sparse, copy: bool | None, inverse: bool) -> Any:  # noqa: N803
        check_is_fitted(self)
        copies = check_flag(self.copy if copy is None else copy, "copy")
        array = self._checked(X, reset=False)
        if issparse(array):
            scale = self.scale_[_sparse.column_of(array)]
            data = array.data.astype(np.float64)
            with np.errstate(over="ignore", under="ignore"):
                return _sparse.with_data(array, data * scale if inverse else data / scale, copies)
        none = np.zeros_like(self.mean_)
        mean, low = (self.mean_, self.mean_low_) if self.with_mean else (none, none)
        out = None if copies or not array.flags.writeable else array
        axis = views.axis_of(self.axis, array.ndim)
        return _standardize(array, axis, mean, low, self.scale_, inverse=inverse, out=out)

    def _checked(self, X: Any, reset: bool) -> Any:  # noqa: N803
        for name in ("copy", "with_mean", "with_std"):
            check_flag(getattr(self, name), name)
        check_integer(self.axis, "axis")
        check_choice(self.nan_policy, "nan_policy", ("omit", "raise"))
        sparse = issparse(X)
        if sparse and self.with_mean:
            raise ValueError("Cannot center sparse matrices, because the result would be dense: pass "
                             "`with_mean=False` instead")
        options: dict[str, Any] = {
            "accept_sparse": ("csr", "csc"), "dtype": DTYPES[:2] if sparse else DTYPES, "allow_nd": True,
            "ensure_all_finite": True if self.nan_policy == "raise" else "allow-nan"}
        array: Any = check_array(X, estimator=self, input_name="X", **options)
        axis = views.axis_of(self.axis, array.ndim)
        if axis == 0:
            raise ValueError(
                f"axis is {self.axis}, the axis of the samples of X with shape {array.shape}; expected another")
        if array.ndim == 2:
            validate_data(self, X, reset=reset, skip_check_array=True)      # names and number of features
            return array
        if reset:
            self.n_features_in_ = array.shape[axis]
        elif array.shape[axis] != self.n_features_in_:
            raise ValueError(f"X has shape {array.shape}, which is {counted(array.shape[axis], 'channel')} along axis "
                             f"{self.axis}; expected {self.n_features_in_}")
        return array

    def _learn(self, array: Any, sample_weight: ArrayLike | None, further: bool) -> ChannelScaler:
        # Everything that can fail comes before the first assignment.
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, array, dtype=np.float64)
            if not np.any(weights):
                raise ValueError("sample_weight has only zero weights; expected a positive one")
        part = self._statistics(array, weights)
        seen = _samples_seen(part.stats.count, array, weights)
        if further:
            part = Scaled(self.stats_, self.exponent_) + part
            seen = _common(self.n_samples_seen_ + seen)
        self.stats_, self.exponent_, self.n_samples_seen_ = part.stats, part.exponent, seen
        self.mean_, self.mean_low_ = part.mean()
        self.var_ = part.var()
        # A constant channel has a sum of squares of exactly zero, whatever its value.
        std = np.maximum(part.std(), np.finfo(np.float64).smallest_subnormal)
        self.scale_ = np.where((part.stats.m2 == 0) & (part.stats.count > 0), 1.0, std)
        if not self.with_std:
            self.scale_ = np.ones_like(std)
        rough = np.flatnonzero(self.scale_ < np.finfo(np.float64).tiny)
        if rough.size:
            warnings.warn(f"{channels(rough.tolist())} of X: the standard deviation is below the smallest normal "
                          "float64, and results have few digits", RuntimeWarning, stacklevel=3)
        return self

    def _statistics(self, array: Any, weights: NDArray[np.float64] | None) -> Scaled:
        # The values and the dtype of the array or sparse matrix have been checked.
        axis = views.axis_of(self.axis, array.ndim)

        def read(exponent: NDArray[np.int64] | None) -> ChannelStats:
            if issparse(array):
                x = array if exponent is None else _sparse.with_data(
                    array, power_of_two(array.data, -exponent[_sparse.column_of(array)]), copy=True)
                return ChannelStats.from_arrays(**_sparse.moments(x, weights).arrays(), axis=self.axis)
            x = array if exponent is None else power_of_two(array, -_along(exponent, axis, array.ndim))
            return ChannelStats(array.shape[axis], axis=self.axis).update(
                x, sample_weight=weights, nan_policy="propagate" if self.nan_policy == "raise" else "omit")

        def size() -> NDArray[np.float64]:
            if issparse(array):
                return _sparse.sizes(array, weights)
            x = array if weights is None else array[weights > 0]
            low, high = reduced(x, axis, np.fmin), reduced(x, axis, np.fmax)
            largest: NDArray[np.float64] = np.maximum(np.abs(low), np.abs(high))
            return largest

        if array.dtype != np.float64:       # squares of other dtypes are within the range of float64
            return Scaled(read(None), np.zeros(array.shape[axis], np.int64))
        return Scaled.of(read, size)

    def __sklearn_tags__(self) -> Tags:
        tags: Any = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.nan_policy == "omit"
        tags.input_tags.sparse = not self.with_mean
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags


def _samples_seen(count: NDArray[np.float64], array: Any, weights: NDArray[np.float64] | None) -> Any:
    """Return the number of samples or the sum of their weights; an array if the channels differ."""
    total = array.shape[0] if weights is None else float(np.sum(weights))
    positions = 1 if issparse(array) else array[:1].size // len(count)
    seen = count / max(1, positions)
    if (np.abs(seen - total) <= 1e-12 * total).all():       # sums of weights are rounded
        return total
    return _common(seen.astype(np.int64) if weights is None and positions == 1 else seen)


def _common(seen: Any) -> Any:
    """Return the number that all channels have, or the array if they differ."""
    return seen if np.ndim(seen) == 0 or (seen != seen[0]).any() else seen[0]


def _along(vector: NDArray[Any], axis: int, ndim: int) -> NDArray[Any]:
    """Return a channel vector in a shape that broadcasts against an array."""
    return vector.reshape([-1 if k == axis else 1 for k in range(ndim)])


def _standardize(
    array: NDArray[Any],
    axis: int,
    mean: NDArray[np.float64],
    low: NDArray[np.float64],
    scale: NDArray[np.float64],
    *,
    inverse: bool,
    out: NDArray[Any] | None,
) -> NDArray[Any]:
    """Return (array - mean - low) / scale, or its inverse. `out` is None or the array itself."""
    limit = LIMITS[array.dtype.newbyteorder("=")]
    far = (scale < 1 / limit) | (scale > limit)
    if array.dtype != np.float64 and (far.any() or (np.abs(mean) > limit).any()):
        wide = _standardize(array.astype(np.float64), axis, mean, low, scale, inverse=inverse, out=None)
        with np.errstate(over="ignore", under="ignore"):
            return wide.astype(array.dtype)
    exponent = np.where(far, np.frexp(scale)[1], 0)
    mean, low, scale = (power_of_two(vector, -exponent) for vector in (mean, low, scale))
    none = np.zeros_like(mean)
    if inverse:     # (y + low / scale) * scale + mean
        constants = kernels.Constants(len(mean), -low / scale, None, scale, mean, 0.0)
    else:
        constants = kernels.Constants(len(mean), mean, None, 1 / scale, none, 0.0, low=low)
    spread = _along(exponent, axis, array.ndim)
    x = power_of_two(array, -spread) if far.any() and not inverse else array
    y: NDArray[Any] = kernels.apply(x, axis, constants, None, out if x is array else None, NO_ACTIVATION, None)
    return power_of_two(y, spread) if far.any() and inverse else y
