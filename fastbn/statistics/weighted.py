"""The moments of weighted rows, by NumPy in two passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastbn.statistics.moments import Moments, two_sum
from fastbn.statistics.selection import refuse_nan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.statistics.selection import NanPolicy

SUM_ROWS = 1024     # most rows of one NumPy sum, whose rounding error grows with its length


def weighted_moments(
    rows: NDArray[np.float64], weights: NDArray[np.float64], nan_policy: NanPolicy, extrema: bool,
) -> Moments:
    """Return the moments of (rows, C) values with weights of shape (rows, 1) or (rows, C).

    With the pivot p = sum(w x) / sum(w) and d = x - p: mean = p + sum(w d) / sum(w), and
    M2 = sum(w d^2) - sum(w d)^2 / sum(w).

    Raises
    ------
    ValueError
        For a NaN, if the policy is "raise".
    """
    channels = rows.shape[1]
    out = Moments.empty(channels, extrema)
    for first in range(0, len(rows), SUM_ROWS):
        x, w = rows[first:first + SUM_ROWS], weights[first:first + SUM_ROWS]
        if not (w > 0).all():
            w = np.broadcast_to(w, x.shape)
            x = np.where(w > 0, x, 0.0)     # a value without a weight may be NaN
        missing = np.isnan(x)
        if missing.any():
            if nan_policy == "raise":
                refuse_nan(missing, 1)
            if nan_policy == "omit":
                w = np.where(missing, 0.0, w)
                x = np.where(missing, 0.0, x)
        total = w.sum(axis=0)
        count = np.array(np.broadcast_to(total, channels))
        some = count > 0
        low, high = (x.min(axis=0), x.max(axis=0)) if (w > 0).all() else (
            np.where(w > 0, x, np.inf).min(axis=0), np.where(w > 0, x, -np.inf).max(axis=0))
        with np.errstate(all="ignore"):     # an Inf gives NaN in its channel
            # Weights are divided first, because sum(w x) may overflow. Clipped, the pivot of a constant is exact.
            pivot = (np.divide(w, total, out=np.zeros(w.shape), where=total > 0) * x).sum(axis=0)
            pivot = np.where(some, np.clip(pivot, low, high), 0.0)
            d = x - pivot
            e = (w * d).sum(axis=0)
            step = np.divide(e, count, out=np.zeros(channels), where=some)
            squares = (w * d * d).sum(axis=0)
            m2 = np.where(np.isinf(squares), squares, squares - e * step)
            mean, mean_low = two_sum(pivot, step)
        part = Moments(count, mean, mean_low, np.where(m2 < 0, 0.0, m2)).with_nan()     # of sums that overflow
        if extrema:
            part.min, part.max = low, high
        out = out.merged(part)
    return out
