"""Prints, for the ISA level this process runs on, a hash of every result of every case at several thread counts.

``python -m tests.hashes`` is what tests/_core/test_bits.py starts once a level, with FASTBN_ISA set.
"""

import hashlib
import json

import ml_dtypes
import numpy as np

from fastbn import ChannelAffine, ChannelStats
from fastbn._core.dispatch import isa
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests.cases import CASES, DTYPES, LARGE_CASES, LAYOUTS, inputs

THREADS = (1, 2, 3, 5, 8)
ACTIVATIONS = {"linear": (None, False), "relu": ("relu", False), "relu+residual": ("relu", True)}
FOR_INFERENCE = ("relu6", "leaky_relu", "hardswish", "sigmoid", "silu", "tanh")
HALVES = (np.float16, ml_dtypes.bfloat16)


def digest(*arrays):
    h = hashlib.sha256()
    for a in arrays:
        # C order, so that the hash is one of values and not of strides
        h.update(np.ascontiguousarray(a).view(np.uint8).data if a.size else b"")
    return h.hexdigest()[:16]


def results(i, activation, with_residual, threads):
    i = i._replace(**{name: getattr(i, name).astype(np.promote_types(np.float32, i.gamma.dtype))
                      for name in ("gamma", "beta", "mean", "var")})
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


def hashes():
    """{case: {threads: hash}}"""
    out = {}
    for case in CASES + LARGE_CASES:
        counts = THREADS if case in LARGE_CASES else (1,)
        for layout in LAYOUTS:
            for dtype in (*DTYPES, *HALVES):
                i = inputs(case, layout, dtype)
                for name, how in ACTIVATIONS.items():
                    for threads in counts:
                        for operation, value in results(i, *how, threads):
                            key = f"{case.name} {layout} {np.dtype(dtype).name} {name} {operation}"
                            out.setdefault(key, {})[str(threads)] = value
    return out


if __name__ == "__main__":
    print(json.dumps({"isa": isa, "hashes": hashes()}))
