"""Scaling of channels as a transformer of scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

try:
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
except ImportError as error:
    raise ImportError(
        f"fastbn.sklearn needs scikit-learn 1.6 or newer: pip install 'fastbn[sklearn]' ({error})") from None

from fastbn import _layout
from fastbn._checks import check_flag, check_integer
from fastbn.affine import ChannelAffine
from fastbn.stats import ChannelStats

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from sklearn.utils import Tags  # type: ignore[import-untyped]

DTYPES = (np.float64, np.float32, np.float16)      # kept; others become the first


class ChannelScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Bring every channel to mean 0 and standard deviation 1: y = (x - mean_) / scale_.

    On (samples, features) it does what `sklearn.preprocessing.StandardScaler` does, from statistics that are right to
    a relative 1e-12 where the mean is within 1e4 standard deviations of zero; and it takes images, sequences and
    volumes, whose other axes are samples too. Mean and variance are those of `ChannelStats`, so `partial_fit` on parts
    gives what `fit` on all gives.

    Parameters
    ----------
    with_mean : bool
        Whether to subtract the mean.
    with_std : bool
        Whether to divide by the standard deviation.
    axis : int
        The channel axis: 1 for (N, C) and NCHW, -1 for NHWC. Not 0, along which the samples lie.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (C,)
    var_ : ndarray of float64, shape (C,)
        The biased variance.
    scale_ : ndarray of float64, shape (C,)
        What `transform` divides by: the square root of var_, but 1 for a constant channel, or without `with_std`.
    stats_ : ChannelStats
        What mean_ and var_ were made of.
    n_features_in_ : int
        The number of channels.
    feature_names_in_ : ndarray of str
        Only if X had names for them.
    n_samples_seen_ : int or float
        The number of samples, or the sum of their weights.

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

    def __init__(self, *, with_mean: bool = True, with_std: bool = True, axis: int = 1) -> None:
        self.with_mean = with_mean
        self.with_std = with_std
        self.axis = axis

    def fit(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> ChannelScaler:  # noqa: N803
        """Learn mean and variance of each channel of `X`, and forget what was learned before.

        Parameters
        ----------
        X : array_like, shape (N, C) or of more dimensions
            Of finite numbers. float64, float32 and float16 are taken as they are, others converted to float64.
        y : None
            Ignored.
        sample_weight : array_like, shape (N,), optional
            How often each sample counts; zero or more.

        Returns
        -------
        ChannelScaler
            Itself.

        Raises
        ------
        TypeError, ValueError
            If `X` or a parameter is not what it must be.
        """
        array = self._checked(X, reset=True)
        stats = ChannelStats(array.shape[self.axis], axis=self.axis)
        return self._learned(stats, 0, array, sample_weight)

    def partial_fit(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None,  # noqa: N803
    ) -> ChannelScaler:
        """Add the values of `X` to what was learned before.

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
            Itself.

        Raises
        ------
        TypeError, ValueError
            As in `fit`; nothing has changed then.
        """
        if not hasattr(self, "stats_"):
            return self.fit(X, sample_weight=sample_weight)
        array = self._checked(X, reset=False)
        return self._learned(self.stats_.copy(), self.n_samples_seen_, array, sample_weight)

    def transform(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Return (X - mean_) / scale_.

        Parameters
        ----------
        X : array_like
            With as many channels as those learned from, and any number of dimensions from two on.

        Returns
        -------
        ndarray, shape and dtype of X
            float64 if X is neither float32 nor float16.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError, ValueError
            As in `fit`.
        """
        check_is_fitted(self)
        zero = np.zeros_like(self.mean_)
        transform = ChannelAffine(self.mean_ if self.with_mean else zero, 1 / self.scale_, zero, axis=self.axis)
        return transform(self._checked(X, reset=False))

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Return X * scale_ + mean_, which undoes `transform`.

        Parameters
        ----------
        X : array_like
            As in `transform`.

        Returns
        -------
        ndarray, shape and dtype of X

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As in `transform`.
        """
        check_is_fitted(self)
        zero = np.zeros_like(self.mean_)
        transform = ChannelAffine(zero, self.scale_, self.mean_ if self.with_mean else zero, axis=self.axis)
        return transform(self._checked(X, reset=False))

    def _checked(self, X: ArrayLike, reset: bool) -> NDArray[Any]:  # noqa: N803
        check_flag(self.with_mean, "with_mean")
        check_flag(self.with_std, "with_std")
        check_integer(self.axis, "axis")
        array: NDArray[Any] = check_array(X, dtype=DTYPES, allow_nd=True, estimator=self, input_name="X")
        axis = _layout.axis_of(self.axis, array.ndim)
        if axis == 0:
            raise ValueError(
                f"axis is {self.axis}, along which the samples of X with shape {array.shape} lie; expected another")
        if array.ndim == 2:
            validate_data(self, X, reset=reset, skip_check_array=True)      # names and number of features
            return array
        if reset:
            self.n_features_in_ = array.shape[axis]
        elif array.shape[axis] != self.n_features_in_:
            raise ValueError(f"X has shape {array.shape}, which is {array.shape[axis]} channels along axis "
                             f"{self.axis}; expected {self.n_features_in_}")
        return array

    def _learned(
        self, stats: ChannelStats, seen: float, array: NDArray[Any], sample_weight: ArrayLike | None,
    ) -> ChannelScaler:
        # What can fail comes first. Lists and single numbers become arrays here.
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, array, dtype=np.float64)
            if not np.any(sample_weight):
                raise ValueError("sample_weight has only zero weights; expected a positive one")
        variance = stats.update(array, sample_weight=sample_weight).var()
        self.stats_ = stats
        self.n_samples_seen_ = seen + (len(array) if sample_weight is None else float(np.sum(sample_weight)))
        self.mean_ = stats.mean.copy()
        self.var_ = variance
        # A constant channel has a variance of exactly zero, whatever its value.
        self.scale_ = np.where((self.var_ > 0) & self.with_std, np.sqrt(self.var_), 1.0)
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags
