"""``python -m tests.inplace`` prints a hash of in-place and conditional batch norms, on the ISA level it runs on."""

import hashlib

import numpy as np

from fastbn.functional import (
    conditional_batch_norm_backward,
    conditional_batch_norm_training,
    inplace_batch_norm_backward,
    inplace_batch_norm_training,
)
from tests.conditional import DTYPES


def results():
    """Every array of some calls."""
    rng = np.random.default_rng(0)
    for kind in DTYPES:
        for shape, axis in (((7, 24, 9, 9), 1), ((7, 9, 9, 24), 3), ((33, 7), 1), ((40, 3, 3, 5), 3)):
            x, dy = (rng.normal(1, 2, shape).astype(kind) for _ in range(2))
            gamma, beta = rng.uniform(0.5, 2, shape[axis]), rng.normal(0, 1, shape[axis])
            for activation in (None, "leaky_relu", "elu"):
                y, saved = inplace_batch_norm_training(x, gamma, beta, axis=axis, activation=activation)
                yield y
                yield from inplace_batch_norm_backward(dy, y, saved, gamma, beta, axis=axis)
            each = rng.normal(1, 1, (shape[0], shape[axis]))
            y, saved = conditional_batch_norm_training(x, each, each, axis=axis, activation="silu")
            yield y
            yield from conditional_batch_norm_backward(dy, x, saved, each, axis=axis)


if __name__ == "__main__":
    print(hashlib.sha256(b"".join(array.tobytes() for array in results())).hexdigest())
