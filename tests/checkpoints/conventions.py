"""The conventions of the frameworks, independent of fastbn's table, and states under them."""

import numpy as np

# The defaults of released versions: eps, momentum, whose weight it is, channel axis, unbiased running variance.
DEFAULTS = {
    "fastbn": (1e-5, 0.1, "batch", 1, True),
    "torch": (1e-5, 0.1, "batch", 1, True),
    "keras": (1e-3, 0.99, "running", -1, False),
    "flax": (1e-5, 0.99, "running", -1, False),
    "paddle": (1e-5, 0.9, "running", 1, False),
    "mxnet": (1e-3, 0.9, "running", 1, False),
    "onnx": (1e-5, 0.9, "running", 1, False),
}
# gamma, beta, running mean, running variance, counter
NAMES = {
    "fastbn": ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    "torch": ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    "keras": ("gamma", "beta", "moving_mean", "moving_variance"),
    "flax": ("scale", "bias", "mean", "var"),
    "paddle": ("weight", "bias", "_mean", "_variance"),
    "mxnet": ("gamma", "beta", "moving_mean", "moving_var"),
    "onnx": ("scale", "B", "input_mean", "input_var"),
}
VALUES = {"gamma": [1.5, 2.0], "beta": [0.5, -1.0], "mean": [3.0, 4.0], "var": [2.0, 0.0]}
COUNT = 5


def state_of(convention, dtype=np.float32, **values):
    vectors = [np.array(value, dtype) for value in (VALUES | values).values()]
    counter = [np.array(7, np.int64)] if len(NAMES[convention]) == 5 else []
    return dict(zip(NAMES[convention], vectors + counter, strict=True))


def fixed(source):
    """Return the option that MXNet's gamma requires."""
    return {"fix_gamma": False} if source == "mxnet" else {}
