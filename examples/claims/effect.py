"""Effect sizes over seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike


UNKNOWN = "unknown, because not all seeds have a value"


class Effect(NamedTuple):
    """The difference of two measurements over the same seeds.

    Attributes
    ----------
    difference : float
        Mean of the first less that of the second.
    low, high : float
        Its 95 % confidence interval, by Student's t of the differences.
    size : float
        Mean of the differences divided by their standard deviation, which is Cohen's d of paired samples; 0 if all of
        them are 0.
    """

    difference: float
    low: float
    high: float
    size: float

    def text(self, unit: str = "", digits: int = 1) -> str:
        """Return the difference with its interval and its size as text."""
        if math.isnan(self.difference):
            return UNKNOWN
        low, high = (f"{bound:+.{digits}f}" for bound in (self.low, self.high))
        return f"{self.difference:+.{digits}f}{unit} (95 % interval {low} to {high}, d = {self.size:.1f})"

    def factor(self) -> str:
        """Return the effect on binary logarithms as a factor."""
        if math.isnan(self.difference):
            return UNKNOWN
        mean, low, high = (f"{2**value:.2g}" for value in (self.difference, self.low, self.high))
        return f"{mean} (95 % interval {low} to {high})"


def paired(first: ArrayLike, second: ArrayLike) -> Effect:
    """Return the effect of two measurements, one value for each seed; of NaN if a value is missing.

    Examples
    --------
    >>> from examples.claims.effect import paired
    >>> effect = paired([5.0, 6.0, 7.0], [1.0, 3.0, 2.0])
    >>> effect.difference, effect.size
    (4.0, 4.0)
    >>> effect.text()
    '+4.0 (95 % interval +1.5 to +6.5, d = 4.0)'
    """
    d = np.asarray(first, float) - np.asarray(second, float)
    mean, spread = float(d.mean()), float(d.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(d) - 1)) * spread / np.sqrt(len(d))
    return Effect(mean, mean - half, mean + half, mean / spread if spread else mean * np.inf if mean else 0.0)


def span(values: ArrayLike) -> str:
    """Return the mean and the range over seeds as text.

    Examples
    --------
    >>> from examples.claims.effect import span
    >>> span([40, 60]), span([4.0, 4.0])
    ('50 (40 to 60)', '4')
    """
    v = np.asarray(values, float)
    if np.isnan(v).any():
        return UNKNOWN
    mean = f"{v.mean():,.0f}" if v.mean() >= 100 else f"{v.mean():.3g}"
    return f"{v.mean():g}" if v.min() == v.max() else f"{mean} ({v.min():,g} to {v.max():,g})"


def table(rows: Mapping[str, Sequence[str]]) -> str:
    """Return the rows of a table in Markdown, without its head."""
    return "\n".join(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())
