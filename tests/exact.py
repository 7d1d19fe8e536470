"""Mean and variance of floating-point numbers as rational numbers, without any rounding."""

from fractions import Fraction

import numpy as np


def values(parts, axis=1):
    """All values of some arrays by channel, as lists of fractions."""
    moved = [np.moveaxis(np.asarray(part, np.float64), axis, 0) for part in parts]
    return [[Fraction(float(v)) for part in moved for v in part[c].ravel()] for c in range(len(moved[0]))]


def population(parts, axis=1, ddof=0):
    """Mean and variance of each channel of some arrays together, as lists of fractions."""
    channels = values(parts, axis)
    means = [sum(v) / len(v) for v in channels]
    return means, [sum((x - m) ** 2 for x in v) / (len(v) - ddof) for v, m in zip(channels, means, strict=True)]


def relative(got, exact):
    """The largest relative error of an array, worked out exactly."""
    pairs = zip(np.asarray(got, np.float64).tolist(), exact, strict=True)
    return float(max(abs(Fraction(g) - e) / abs(e) for g, e in pairs))
