"""Slow convolutions that follow the definition, and layers to test folding with."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest

from fastbn import BatchNorm
from tests.compare import close, unit

KERNELS = {1: (3,), 2: (3, 2), 3: (2, 1, 3)}
SIZES = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}


def conv(x, weight, bias=None, *, groups=1, stride=1, padding=0, dilation=1):
    """Compute one output at a time: x is (N, I, *spatial), weight (O, I / groups, *kernel), all in longdouble."""
    rank = x.ndim - 2
    x = np.pad(x, [(0, 0)] * 2 + [(padding, padding)] * rank)
    reach = [dilation * (k - 1) + 1 for k in weight.shape[2:]]
    size = [(s - r) // stride + 1 for s, r in zip(x.shape[2:], reach, strict=True)]
    outputs, inputs = weight.shape[:2]
    y = np.zeros((len(x), outputs, *size), np.longdouble)
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        for at in np.ndindex(*size):
            window = tuple(slice(a * stride, a * stride + r, dilation) for a, r in zip(at, reach, strict=True))
            taps = x[(slice(None), slice(first, first + inputs), *window)]
            y[(slice(None), o, *at)] = (taps * weight[o]).sum(axis=tuple(range(1, taps.ndim)))
            if bias is not None:
                y[(slice(None), o, *at)] += bias[o]
    return y


def conv_transposed(x, weight, bias=None, *, groups=1, stride=1, padding=0, output_padding=0, dilation=1):
    """Compute one input at a time: weight is (I, O / groups, *kernel)."""
    inputs, outputs = x.shape[1], weight.shape[1]
    full = [(s - 1) * stride + dilation * (k - 1) + 1 for s, k in zip(x.shape[2:], weight.shape[2:], strict=True)]
    y = np.zeros((len(x), groups * outputs, *(f + output_padding for f in full)), np.longdouble)
    for i, o in itertools.product(range(inputs), range(outputs)):
        for at, tap in itertools.product(np.ndindex(*x.shape[2:]), np.ndindex(*weight.shape[2:])):
            to = tuple(a * stride + t * dilation for a, t in zip(at, tap, strict=True))
            y[(slice(None), i // (inputs // groups) * outputs + o, *to)] += x[(slice(None), i, *at)] * weight[i, o][tap]
    y = y[(..., *(slice(padding, f + output_padding - padding) for f in full))]
    return y if bias is None else y + np.reshape(bias, (-1, *(1,) * (x.ndim - 2)))


def linear(x, weight, bias=None):
    return x @ weight.T + (0 if bias is None else bias)


def normalized(x, bn):
    """Apply a BatchNorm at inference, by its definition."""
    mean, var, gamma, beta = (np.reshape(np.asarray(v, np.longdouble), (-1, *(1,) * (x.ndim - 2)))
                              for v in (bn.running_mean, bn.running_var, bn.gamma, bn.beta))
    return (x - mean) / np.sqrt(var + np.longdouble(bn.eps)) * gamma + beta


def norm(channels, dtype=np.float64, zero_variance=False, eps=1e-5, seed=0):
    rng = np.random.default_rng(seed)
    bn = BatchNorm(channels, dtype=dtype, eps=eps)
    bn.gamma, bn.beta, bn.running_mean = (rng.normal(0.5, 1, channels).astype(dtype) for _ in range(3))
    bn.running_var = rng.uniform(0.1, 4, channels).astype(dtype)
    if zero_variance:
        bn.running_var[::2] = 0
    return bn


def parameters(shape, outputs, dtype, bias, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype(dtype), rng.standard_normal(outputs).astype(dtype) if bias else None


class Layout(NamedTuple):
    """The number of input channels, output channels and groups."""

    inputs: int
    outputs: int
    groups: int

    def shape(self, kernel, transposed):
        first, second = (self.inputs, self.outputs) if transposed else (self.outputs, self.inputs)
        return first, second // self.groups, *kernel


LAYOUTS = {"full": Layout(3, 4, 1), "one channel": Layout(1, 1, 1), "groups": Layout(4, 6, 2),
           "depthwise": Layout(4, 4, 4), "depthwise, doubled": Layout(3, 6, 3)}
layouts = pytest.mark.parametrize("name", LAYOUTS)
ranks = pytest.mark.parametrize("rank", KERNELS)
both = pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
# Each folded parameter is off by up to half a unit, and an output is a sum of some tens of products.
UNITS = 16


def inputs(layout, rank, seed=2):
    return np.random.default_rng(seed).standard_normal((2, layout.inputs, *SIZES[rank])).astype(np.longdouble)


def close_to(got, exact, dtype, units=UNITS):
    """Assert that the output for folded parameters is close, in units of rounding of their dtype."""
    close(got, exact, np.longdouble, units * unit(dtype) / unit(np.longdouble))
