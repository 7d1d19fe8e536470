"""Prints a hash of every result of many calls, on the ISA level that this process runs on.

``python -m tests.hashes`` hashes a fixed list of shapes, so that two builds can be compared whatever their sizes are.
``python -m tests.hashes cases`` hashes the shapes of tests/cases.py and awkward values; tests/_core/test_bits.py starts
it once for each level, with FASTBN_ISA set.
"""

import hashlib
import json
import sys

import ml_dtypes
import numpy as np

from fastbn import ChannelAffine, ChannelStats
from fastbn._core.dispatch import isa
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests.cases import (
    CASES,
    DTYPES,
    LARGE_CASES,
    LARGE_PLANES,
    LARGE_ROWS,
    LAYOUTS,
    SLAB,
    SMALL_PLANES,
    SPAN,
    case,
    cases,
    inputs,
)

# The last of these shapes are large enough for several threads.
FIXED = cases(
    (5, 1), (64, 1), (2, 1, 64), (3, 1, 2049), (4, 3), (1000, 3), (7, 7, 1, 1), (6, 7, 7, 7), (40, 3, 7, 7),
    (33, 64, 7, 7), (5, 65, 63), (5, 3, 64), (5, 7, 65), (9, 64, 14, 14), (2, 3, 2, 3, 4), (2, 3, 1, 2, 2, 3),
    (3, 3, 2047), (3, 3, 2048), (3, 3, 2049), (2, 3, 32767), (1, 3, 32768), (2, 3, 32769), (1, 1, 70001), (700, 3, 49),
    (17, 2, 4100), (1, 64, 7, 7), (1, 65, 64), (1, 7, 196), (2, 64), (33, 63), (64, 64), (31, 65), (129, 128),
    (600, 64), (40, 1000), (9, 1024), (35, 1025), (65, 2048), (3, 1500, 2))
FIXED_LARGE = cases((1100, 65), (4000, 24), (4, 40, 28, 28), (2, 3, 130, 130), (70, 1025))

THREADS = (1, 2, 3, 5, 8)
ACTIVATIONS = {"linear": (None, False), "relu": ("relu", False), "relu+residual": ("relu", True)}
FOR_INFERENCE = ("relu6", "leaky_relu", "hardswish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu",
                 "gelu_tanh", "mish", "softplus", "elu")
# Shapes whose backward passes go through every activation: it is elementwise, so the levels differ on all or none.
TRAINED_CASES = (SMALL_PLANES, LARGE_PLANES, LARGE_ROWS)
HALVES = (np.float16, ml_dtypes.bfloat16)

# Values that the first reading of a reduction cannot sum, by what becomes of ordinary ones.
AWKWARD = {
    "far": lambda x: x + 1e6,
    "huge": lambda x: x * (2.0**600 if x.dtype == np.float64 else 2.0**100),
    "tiny": lambda x: x * (2.0**-600 if x.dtype == np.float64 else 2.0**-100),
    "outlier": lambda x: np.where(np.arange(x.size).reshape(x.shape) == x.size // 2, 1e7, x),
    "spoiled": lambda x: np.where(np.arange(x.size).reshape(x.shape) == x.size // 2, np.inf, x),
}
AWKWARD_CASES = (SMALL_PLANES, case(1000, 3), case(2, 3, SPAN + 1), case(35, SLAB + 1))


def digest(*arrays):
    h = hashlib.sha256()
    for a in arrays:
        # In C order, so that strides do not count; all NaN are one.
        a = np.ascontiguousarray(a)
        h.update(np.where(np.isnan(a), np.array(np.nan, a.dtype), a).view(np.uint8).data if a.size else b"")
    return h.hexdigest()[:16]


def single(i):
    """The same inputs with parameters in a dtype that they may have."""
    return i._replace(**{name: getattr(i, name).astype(np.promote_types(np.float32, i.gamma.dtype))
                         for name in ("gamma", "beta", "mean", "var")})


def results(i, activation, with_residual, threads):
    """The name and the hash of each result."""
    i = single(i)
    common = {"axis": i.axis, "residual": i.residual if with_residual else None, "activation": activation,
              "num_threads": threads}
    y, saved = batch_norm_training(i.x, i.gamma, i.beta, **common)
    yield "forward", digest(y, saved.mean, saved.var, saved.rstd)
    yield "inference", digest(batch_norm_inference(i.x, i.mean, i.var, i.gamma, i.beta, **common))
    yield "backward", digest(*batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis, num_threads=threads))
    if activation is None:
        stats = ChannelStats(len(i.gamma), axis=i.axis).update(i.x, num_threads=threads)
        yield "stats", digest(stats.mean, stats.m2)
        affine = ChannelAffine(i.mean, i.gamma, i.beta, axis=i.axis, num_threads=threads)
        for name in FOR_INFERENCE:
            yield name, digest(affine(i.x, activation=name))
        pixels = (i.x.astype(np.float32) * 40 + 100).clip(0, 255).astype(np.uint8)
        yield "images", digest(affine(pixels, out_axis=0, dtype=i.x.dtype))


def case_hashes(c, layouts, dtypes=(*DTYPES, *HALVES), threads=(1,), change=None):
    """{name: {threads: hash}} of one case, or of its values after a change."""
    out = {}
    for layout in layouts:
        for dtype in dtypes:
            i = inputs(c, layout, dtype)
            if change is not None:
                i = i._replace(x=change(i.x).astype(dtype))
            for name, how in ACTIVATIONS.items():
                for count in threads:
                    for operation, value in results(i, *how, count):
                        key = f"{c.name} {layout} {np.dtype(dtype).name} {name} {operation}"
                        out.setdefault(key, {})[str(count)] = value
    return out


def trained_hashes(c):
    """The hashes of forward and backward passes of one case with the activations of inference."""
    out = {}
    for layout in c.layouts:
        for dtype in (*DTYPES, *HALVES):
            i = single(inputs(c, layout, dtype))
            for name in FOR_INFERENCE:
                hashes = out[f"{c.name} {layout} {np.dtype(dtype).name} {name} trained"] = {}
                for count in THREADS if c in LARGE_CASES else (1,):
                    y, saved = batch_norm_training(
                        i.x, i.gamma, i.beta, axis=i.axis, activation=name, num_threads=count)
                    gradients = batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis, num_threads=count)
                    hashes[str(count)] = digest(y, *gradients)
    return out


def fixed_hashes():
    """The hashes of the fixed list."""
    out = {}
    for c in FIXED + FIXED_LARGE:
        out |= case_hashes(c, LAYOUTS, threads=THREADS if c in FIXED_LARGE else (1,))
    return out


def all_hashes():
    """The hashes of all cases and of awkward values."""
    out = {}
    for c in CASES + LARGE_CASES:
        out |= case_hashes(c, c.layouts, threads=THREADS if c in LARGE_CASES else (1,))
    for c in TRAINED_CASES:
        out |= trained_hashes(c)
    for kind, change in AWKWARD.items():
        for c in AWKWARD_CASES:
            with np.errstate(all="ignore"):
                found = case_hashes(c, c.layouts, DTYPES, change=change)
            out |= {f"{kind} {key}": value for key, value in found.items()}
    return out


if __name__ == "__main__":
    print(json.dumps({"isa": isa, "hashes": all_hashes() if sys.argv[1:] == ["cases"] else fixed_hashes()}))
