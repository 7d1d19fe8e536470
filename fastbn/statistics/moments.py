"""Count, mean, M2 and extrema of channels, and the formula that merges two of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclasses.dataclass(slots=True, eq=False)
class Moments:
    """The moments of some values of each channel.

    The mean has two words, so that the difference of two means keeps its digits: at 1e6 standard deviations from zero
    it would lose ten of them.

    Attributes
    ----------
    count, mean, mean_low, m2 : ndarray of float64, shape (C,)
    min, max : ndarray of float64, shape (C,), or None
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    mean_low: NDArray[np.float64]
    m2: NDArray[np.float64]
    min: NDArray[np.float64] | None = None
    max: NDArray[np.float64] | None = None

    @classmethod
    def empty(cls, channels: int, extrema: bool) -> Moments:
        """Return the moments of no values."""
        count, mean, mean_low, m2 = np.zeros((4, channels))
        return cls(count, mean, mean_low, m2, *(
            (np.full(channels, np.inf), np.full(channels, -np.inf)) if extrema else ()))

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the vectors by name, without those that are None."""
        named = {field: getattr(self, field) for field in FIELDS}
        return {name: vector for name, vector in named.items() if vector is not None}

    def copied(self) -> Moments:
        """Return a copy."""
        return Moments(**{name: vector.copy() for name, vector in self.arrays().items()})

    def equals(self, other: Moments) -> bool:
        """Return whether all vectors are equal; NaN equals NaN."""
        a, b = self.arrays(), other.arrays()
        return a.keys() == b.keys() and all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)

    def with_nan(self) -> Moments:
        """Return the same moments, with NaN where a mean is not finite: an Inf counts alike wherever it stands."""
        beyond = ~np.isfinite(self.mean)
        if beyond.any():
            self.mean[beyond] = self.mean_low[beyond] = self.m2[beyond] = np.nan
        return self

    def shifted(self, origin: NDArray[Any]) -> Moments:
        """Return the moments of the values plus integers of 64 bits, (C,), without extrema."""
        # Such an integer is the exact sum of two float64.
        high, low = (origin >> 32).astype(np.float64) * 2.0**32, (origin & 0xFFFFFFFF).astype(np.float64)
        centre, rest = two_sum(high, low)
        mean, left = two_sum(centre, self.mean)
        mean, mean_low = two_sum(mean, left + rest + self.mean_low)
        return Moments(self.count, mean, mean_low, self.m2)

    def repeated(self, times: int, channels: int) -> Moments:
        """Return the moments of `times` copies of all values; a single channel is repeated `channels` times."""
        alike = {name: np.broadcast_to(vector, channels).copy() for name, vector in self.arrays().items()}
        alike["count"] *= times
        alike["m2"] *= times
        return Moments(**alike)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets of values, after Chan, Golub and LeVeque (1983)."""
        first, second = self.count == 0, other.count == 0
        if first.all() or second.all():
            out = (other if first.all() else self).copied()
        else:
            with np.errstate(all="ignore"):     # an infinity gives NaN in its channel, without a warning
                count = self.count + other.count
                weight = other.count / count
                delta = distance(self, other)
                mean, mean_low = two_sum(self.mean, delta * weight + self.mean_low)
                m2 = self.m2 + other.m2 + delta * (self.count * weight) * delta
                far = np.isinf(delta) & np.isfinite(self.mean) & np.isfinite(other.mean)
                if far.any():       # the difference of the means overflows, but not the mean of both
                    mean[far] = (self.mean * (1 - weight) + other.mean * weight)[far]
                    mean_low[far] = 0.0
            out = Moments(count, mean, mean_low, m2)
            for channels, source in ((second, self), (first, other)):
                if channels.any():
                    for name in ("mean", "mean_low", "m2"):
                        getattr(out, name)[channels] = getattr(source, name)[channels]
        out.min = out.max = None
        if self.min is not None and self.max is not None and other.min is not None and other.max is not None:
            out.min, out.max = np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        return out

    def without(self, part: Moments) -> Moments:
        """Return the moments of the remaining values after the removal of a part, without extrema.

        Raises
        ------
        ValueError
            If the part has more values or a larger spread than the whole.
        """
        # Counts may be sums of weights, which are rounded.
        near = np.abs(self.count - part.count) <= 2.0**-49 * self.count
        count = np.where(near, 0.0, self.count - part.count)
        if (count < 0).any():
            wrong = int(np.argmax(count < 0))
            raise ValueError(f"other has more values in channel {wrong} than the whole: "
                             f"{float(part.count[wrong]):g} > {float(self.count[wrong]):g}")
        left = count > 0
        with np.errstate(all="ignore"):
            ratio = np.divide(part.count, count, out=np.zeros_like(count), where=left)
            delta = distance(part, self)
            mean, mean_low = two_sum(self.mean, delta * ratio + self.mean_low)
            m2 = self.m2 - part.m2 - delta * (self.count * ratio) * delta
            if (left & (m2 < -1e-6 * (self.m2 + part.m2 + delta * part.count * delta))).any():
                raise ValueError("the part spreads further than the whole; it is not a part of it")
        m2 = np.where(m2 < 0, 0.0, m2)      # negative by rounding; NaN stays
        return Moments(count, *(np.where(left, vector, 0.0) for vector in (mean, mean_low, m2)))


FIELDS = tuple(field.name for field in dataclasses.fields(Moments))


def distance(first: Moments, second: Moments) -> NDArray[np.float64]:
    """Return the mean of the second minus that of the first, from both words."""
    return (second.mean - first.mean) + (second.mean_low - first.mean_low)


def two_sum(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a + b and its rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def check_parts(arrays: Mapping[str, Any]) -> Moments:
    """Return the moments of given vectors.

    Raises
    ------
    TypeError
        For an unknown name, or values that are not numbers.
    ValueError
        For a vector that is missing or of the wrong shape, a negative count or M2, or a minimum above the maximum.
    """
    unknown = sorted(set(arrays) - set(FIELDS))
    if unknown:
        raise TypeError(f"unknown {listed(unknown)}; expected {', '.join(FIELDS)}")
    found: dict[str, NDArray[np.float64]] = {}
    for name, value in arrays.items():
        if value is None:
            continue
        vector = np.asarray(value)
        if vector.dtype.kind not in "fiu":
            raise TypeError(f"{name} has dtype {vector.dtype}; expected numbers")
        found[name] = vector.astype(np.float64)
    for name in ("count", "mean", "m2"):
        if name not in found:
            raise ValueError(f"{name} is missing")
    shape = found["mean"].shape
    if len(shape) != 1 or not shape[0]:
        raise ValueError(f"mean has shape {shape}; expected (C,), one value per channel")
    if found["count"].shape == ():
        found["count"] = np.full(shape, found["count"])
    found.setdefault("mean_low", np.zeros(shape))
    for name, vector in found.items():
        if vector.shape != shape:
            raise ValueError(f"{name} has shape {vector.shape}; expected {shape}, that of mean")
    if not (np.isfinite(found["count"]).all() and (found["count"] >= 0).all()):
        raise ValueError("count must be finite and not negative")
    if (found["m2"] < 0).any():
        raise ValueError(f"m2 has negative values, down to {found['m2'].min()}")
    none = found["count"] == 0
    for name in ("mean", "mean_low", "m2"):
        found[name][none] = 0.0
    if ("min" in found) != ("max" in found):
        raise ValueError(f"{'max' if 'min' in found else 'min'} is missing; expected both extrema or neither")
    if "min" in found and (found["min"] > found["max"])[~none].any():
        raise ValueError("min is above max")
    return Moments(**found).with_nan()
