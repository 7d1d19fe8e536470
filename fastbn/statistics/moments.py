"""Count, mean, M2 and extrema of channels, and the one formula that puts two of them together."""

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
    """Of some values of every channel; all vectors are (C,), float64.

    The mean has a second word, what its rounding left over: between parts whose means are 1e6 standard deviations the
    distance would otherwise lose ten digits.
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    mean_low: NDArray[np.float64]
    m2: NDArray[np.float64]
    min: NDArray[np.float64] | None = None
    max: NDArray[np.float64] | None = None

    @classmethod
    def none(cls, channels: int, extrema: bool) -> Moments:
        """Return those of no values."""
        count, mean, mean_low, m2 = np.zeros((4, channels))
        return cls(count, mean, mean_low, m2, *(
            (np.full(channels, np.inf), np.full(channels, -np.inf)) if extrema else ()))

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the vectors that there are, by name."""
        named = {field: getattr(self, field) for field in FIELDS}
        return {name: vector for name, vector in named.items() if vector is not None}

    def copied(self) -> Moments:
        """Return the same in memory of its own."""
        return Moments(**{name: vector.copy() for name, vector in self.arrays().items()})

    def same(self, other: Moments) -> bool:
        """Whether all vectors are equal, NaN being equal to NaN."""
        a, b = self.arrays(), other.arrays()
        return a.keys() == b.keys() and all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)

    def moved(self, origin: NDArray[Any]) -> Moments:
        """Return those of the values plus `origin`, (C,), integers of 64 bits, which take two float64; no extrema."""
        high, low = (origin >> 32).astype(np.float64) * 2.0**32, (origin & 0xFFFFFFFF).astype(np.float64)
        centre, rest = two_sum(high, low)
        mean, left = two_sum(centre, self.mean)
        mean, mean_low = two_sum(mean, left + rest + self.mean_low)
        return Moments(self.count, mean, mean_low, self.m2)

    def repeated(self, times: int, channels: int) -> Moments:
        """Return those of as many copies of all values; a single channel stands for `channels` that are alike."""
        alike = {name: np.broadcast_to(vector, channels).copy() for name, vector in self.arrays().items()}
        alike["count"] *= times
        alike["m2"] *= times
        return Moments(**alike)

    def merged(self, other: Moments) -> Moments:
        """Return those of both, after Chan, Golub and LeVeque (1983)."""
        first, second = self.count == 0, other.count == 0
        if first.all() or second.all():
            out = (other if first.all() else self).copied()
        else:
            with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel, without a warning
                count = self.count + other.count
                weight = other.count / count
                delta = distance(self, other)
                mean, mean_low = two_sum(self.mean, delta * weight + self.mean_low)
                m2 = self.m2 + other.m2 + delta * (self.count * weight) * delta
                far = np.isinf(delta) & np.isfinite(self.mean) & np.isfinite(other.mean)
                if far.any():       # the means are further apart than the largest float64, but what lies between is not
                    mean[far] = (self.mean * (1 - weight) + other.mean * weight)[far]
                    mean_low[far] = 0.0
            out = Moments(count, mean, mean_low, m2)
            for channels, there in ((second, self), (first, other)):
                if channels.any():
                    for name in ("mean", "mean_low", "m2"):
                        getattr(out, name)[channels] = getattr(there, name)[channels]
        out.min = out.max = None
        if self.min is not None and self.max is not None and other.min is not None and other.max is not None:
            out.min, out.max = np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        return out

    def without(self, part: Moments) -> Moments:
        """Return those of the rest, `part` being a part of the values; the extrema of a rest are not known.

        Raises
        ------
        ValueError
            If the part has more values than there are.
        """
        # Sums of weights leave roundings.
        near = np.abs(self.count - part.count) <= 2.0**-49 * self.count
        count = np.where(near, 0.0, self.count - part.count)
        if (count < 0).any():
            wrong = int(np.argmax(count < 0))
            raise ValueError(f"the part has more values in channel {wrong} than the whole: "
                             f"{float(part.count[wrong]):g}, of {float(self.count[wrong]):g}")
        left = count > 0
        with np.errstate(all="ignore"):
            ratio = np.divide(part.count, count, out=np.zeros_like(count), where=left)
            delta = distance(part, self)
            mean, mean_low = two_sum(self.mean, delta * ratio + self.mean_low)
            m2 = self.m2 - part.m2 - delta * (self.count * ratio) * delta
            if (left & (m2 < -1e-6 * (self.m2 + part.m2 + delta * part.count * delta))).any():
                raise ValueError("the part spreads further than the whole; it is no part of it")
        m2 = np.where(m2 < 0, 0.0, m2)      # by rounding; NaN stays
        return Moments(count, *(np.where(left, vector, 0.0) for vector in (mean, mean_low, m2)))


FIELDS = tuple(field.name for field in dataclasses.fields(Moments))


def distance(first: Moments, second: Moments) -> NDArray[np.float64]:
    """Return how far the mean of the second lies above that of the first, both words."""
    return (second.mean - first.mean) + (second.mean_low - first.mean_low)


def two_sum(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a + b and what its rounding left over (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def check_parts(arrays: Mapping[str, Any]) -> Moments:
    """Return moments of given vectors, or raise an error that names the one that does not fit.

    Raises
    ------
    TypeError
        For a name that is none, or values that are no numbers.
    ValueError
        For shapes that do not fit, counts or sums of squares below zero, and extrema the wrong way round.
    """
    unknown = sorted(set(arrays) - set(FIELDS))
    if unknown:
        raise TypeError(f"there is no {listed(unknown)}; expected {', '.join(FIELDS)}")
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
        raise ValueError(f"mean has shape {shape}; expected (C,), one value a channel")
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
        raise ValueError(f"{'max' if 'min' in found else 'min'} is missing; expected both extrema, or neither")
    if "min" in found and (found["min"] > found["max"])[~none].any():
        raise ValueError("min is above max")
    return Moments(**found)
