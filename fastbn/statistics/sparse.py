"""Moments and scaling of the columns of sparse matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.statistics.moments import Moments
from fastbn.statistics.reduction import BLOCK_VALUES
from fastbn.statistics.weighted import weighted_moments

if TYPE_CHECKING:
    from numpy.typing import NDArray


def moments(x: Any, sample_weight: NDArray[np.float64] | None) -> Moments:
    """Return the moments of the columns of a CSR or CSC matrix, omitting NaN.

    Columns of similar length are gathered into blocks of weighted rows. The zeros that are not stored are merged last.

    Parameters
    ----------
    x : sparse matrix or array, shape (N, C)
    sample_weight : ndarray of float64, shape (N,), or None

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse
    >>> from fastbn.statistics.sparse import moments
    >>> found = moments(scipy.sparse.csr_array([[0.0, 2.0], [4.0, 2.0]]), None)
    >>> found.mean, found.m2
    (array([2., 2.]), array([8., 0.]))
    """
    x = by_column(x)
    rows, columns = x.shape
    weight = np.ones(rows) if sample_weight is None else sample_weight
    starts, lengths = x.indptr[:-1], np.diff(x.indptr)
    stored = np.zeros(columns)
    out = Moments.empty(columns, extrema=False)
    order = np.argsort(-lengths, kind="stable")[:np.count_nonzero(lengths)]
    first = 0
    while first < len(order):
        longest = lengths[order[first]]
        group = order[first:first + max(1, BLOCK_VALUES // longest)]
        steps = np.arange(longest)[:, None]
        present = steps < lengths[group]
        places = np.where(present, starts[group] + steps, 0)
        weights = np.where(present, weight[x.indices[places]], 0.0)
        stored[group] = weights.sum(axis=0)
        part = weighted_moments(x.data[places].astype(np.float64), weights, "omit", extrema=False)
        for name, vector in part.arrays().items():
            getattr(out, name)[group] = vector
        first += len(group)
    zeros = Moments.empty(columns, extrema=False)
    zeros.count = np.where(lengths == rows, 0.0, np.maximum(weight.sum() - stored, 0.0))
    return out.merged(zeros)


def by_column(x: Any) -> Any:
    """Return a CSC matrix without duplicate entries."""
    columns = x.tocsc()
    if not columns.has_canonical_format:
        columns = columns.copy() if columns is x else columns
        columns.sum_duplicates()
    return columns


def sizes(x: Any, sample_weight: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the largest absolute value of each column, ignoring NaN and values without a weight."""
    columns = by_column(x)
    out, data = np.zeros(columns.shape[1]), np.abs(columns.data).astype(np.float64)
    if sample_weight is not None:
        data[sample_weight[columns.indices] == 0] = 0.0
    np.fmax.at(out, column_of(columns), data)
    return out


def column_of(x: Any) -> NDArray[Any]:
    """Return the column of each stored value of a CSR or CSC matrix."""
    indices: NDArray[Any] = x.indices if x.format == "csr" else np.repeat(np.arange(x.shape[1]), np.diff(x.indptr))
    return indices


def with_data(x: Any, data: NDArray[Any], copy: bool) -> Any:
    """Return a matrix with other stored values, in the dtype of x: a copy with `copy`, else x itself."""
    out = x.copy() if copy else x
    with np.errstate(over="ignore", under="ignore"):
        out.data[...] = data
    return out
