"""Exact mean and variance of floating-point numbers, as fractions."""

from fractions import Fraction

import numpy as np


def values(parts, axis=1):
    """Return the values of each channel of several arrays, as lists of fractions."""
    moved = [np.moveaxis(np.asarray(part, np.float64), axis, 0) for part in parts]
    return [[Fraction(float(v)) for part in moved for v in part[c].ravel()] for c in range(len(moved[0]))]


def population(parts, axis=1, ddof=0):
    """Return mean and variance of each channel of several arrays, as lists of fractions.

    All values are integers times a common power of two, and sums of integers are exact.
    """
    moved = [np.moveaxis(np.asarray(part, np.float64), axis, 0) for part in parts]
    means, variances = [], []
    for c in range(len(moved[0])):
        fraction, exponent = np.frexp(np.concatenate([part[c].ravel() for part in moved]))
        least = int(exponent.min())
        digits = np.ldexp(fraction, 53).astype(np.int64).tolist()
        integers = [d << k for d, k in zip(digits, (exponent - least).tolist(), strict=True)]
        n, total, unit = len(integers), sum(integers), Fraction(2) ** (least - 53)
        squares = sum(v * v for v in integers)
        means.append(Fraction(total, n) * unit)
        variances.append(Fraction(n * squares - total * total, n * (n - ddof)) * unit**2)
    return means, variances


def relative(got, exact):
    """Return the largest relative error of an array, computed exactly."""
    pairs = zip(np.asarray(got, np.float64).tolist(), exact, strict=True)
    return float(max(abs(Fraction(g) - e) / abs(e) for g, e in pairs))
