"""Layer norm and RMS norm: their functions under common names, inputs, and the reference by the definition.

``python -m tests.trailing`` prints a hash of every result of some shapes, on the ISA level of the process.
"""

import json
import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fastbn import LayerNorm, RMSNorm, functional
from tests import row_norms
from tests.hashes import digest
from tests.oracle import WIDE

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
# (shape of x, normalized_shape)
SHAPES = (((5, 7), (7,)), ((6,), (6,)), ((3, 4, 6), (6,)), ((3, 4, 6), (4, 6)), ((2, 3, 4, 5), (3, 4, 5)),
          ((4, 6), (4, 6)), ((2, 3, 2, 3, 17), (3, 17)), ((9, 1), (1,)), ((3, 5, 130), (130,)), ((2, 3, 1030), (1030,)))
LARGE_SHAPES = (((40, 30, 65), (65,)), ((60, 8, 130), (8, 130)))


class Member(NamedTuple):
    """One member of the family; `layer` is its class."""

    name: str
    layer: Any
    about_zero: bool

    def train(self, x, shape, gamma=None, beta=None, **how):
        if self.about_zero:
            return functional.rms_norm_training(x, shape, gamma, **{"eps": 1e-5} | how)
        return functional.layer_norm_training(x, shape, gamma, beta, **how)

    def infer(self, x, shape, gamma=None, beta=None, **how):
        if self.about_zero:
            return functional.rms_norm_inference(x, shape, gamma, **{"eps": 1e-5} | how)
        return functional.layer_norm_inference(x, shape, gamma, beta, **how)

    def gradients(self, dy, x, saved, gamma=None, **how):
        """dx, dgamma, dbeta (None for RMS norm) and perhaps dresidual."""
        if self.about_zero:
            dx, dgamma, *rest = functional.rms_norm_backward(dy, x, saved, gamma, **how)
            return dx, dgamma, None, *rest
        return functional.layer_norm_backward(dy, x, saved, gamma, **how)


MEMBERS = {"layer norm": Member("layer norm", LayerNorm, False), "RMS norm": Member("RMS norm", RMSNorm, True)}


class Inputs(NamedTuple):
    """The arguments of a forward and a backward pass."""

    x: Any
    dy: Any
    residual: Any
    gamma: Any
    beta: Any
    shape: Any


def inputs(shape, normalized, dtype=np.float32, *, mean=0.5, std=2.0, seed=0):
    rng = np.random.default_rng(seed)
    kind = np.float64 if dtype == np.float64 else np.float32
    x, dy, residual = (a.astype(dtype) for a in (
        rng.normal(mean, std, shape), rng.normal(0, 1, shape), rng.normal(0, 1, shape)))
    return Inputs(x, dy, residual, rng.uniform(0.5, 2, normalized).astype(kind),
                  rng.normal(0, 1, normalized).astype(kind), normalized)


def exact(member, i, gamma, beta, eps=1e-5):
    """y and x_hat of the shape of x, before residual and activation."""
    rows = i.x.reshape(-1, math.prod(i.shape))
    beta = None if member.about_zero else beta
    of = row_norms.exact(rows, *(None if a is None else a.reshape(-1) for a in (gamma, beta)), eps=eps,
                         about_zero=member.about_zero)
    return of, of.y.reshape(i.x.shape)


def exact_gradients(member, dy, of, i, gamma):
    """dx of the shape of x, dgamma and dbeta of normalized_shape, from dy before the activation."""
    rows = dy.reshape(-1, math.prod(i.shape))
    dx, dgamma, dbeta = row_norms.exact_gradients(
        rows, of, None if gamma is None else gamma.reshape(-1), about_zero=member.about_zero)
    return dx.reshape(dy.shape), dgamma.reshape(i.shape), dbeta.reshape(i.shape)


def unit(dtype):
    return row_norms.UNITS[np.dtype(dtype).name]


def close(got, want, dtype, units, size=None):
    """Assert the shape, the dtype, and an error of at most `units` rounding units of the largest exact value."""
    assert got.dtype == dtype
    assert got.shape == want.shape
    if want.size:
        size = max(np.abs(want).max(), 0 if size is None else size)
        error = np.abs(got.astype(WIDE) - want).max()
        assert error <= units * unit(dtype) * size, f"{float(error / (unit(dtype) * size)):.2f} units, at most {units}"


def hashes():
    """{name: {threads: hash}} of shapes of which the last are large enough for several threads."""
    out = {}
    for member in MEMBERS.values():
        for shape, normalized in SHAPES + LARGE_SHAPES:
            for dtype in DTYPES:
                i = inputs(shape, normalized, dtype)
                for activation, residual in ((None, None), ("relu", i.residual), ("silu", None)):
                    for threads in (1, 2, 3):
                        how = {"activation": activation, "residual": residual, "num_threads": threads}
                        y, saved = member.train(i.x, i.shape, i.gamma, i.beta, **how)
                        found = member.gradients(i.dy, i.x, saved, i.gamma, num_threads=threads)
                        key = f"{member.name} {shape} {normalized} {np.dtype(dtype).name} {activation}"
                        out.setdefault(key, {})[str(threads)] = digest(y, *(a for a in found if a is not None))
    return out


if __name__ == "__main__":
    print(json.dumps(hashes()))
