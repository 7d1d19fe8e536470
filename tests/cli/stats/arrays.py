"""Arrays, and checks of their statistics from fastbn stats."""

import json

import numpy as np

from fastbn.__main__ import main
from tests import oracle


def normal(*shape, seed=0, dtype="float32"):
    """Values with a different mean and deviation for each index of each axis."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype) == np.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    x = rng.standard_normal(shape)
    for axis, length in enumerate(shape):
        x = x * np.linspace(1, 2, length).reshape([-1 if k == axis else 1 for k in range(len(shape))]) + 0.5
    return x.astype(dtype)


def stats(tmp_path, *arguments):
    """The JSON of a successful run."""
    out = tmp_path / "out.json"
    assert main(["stats", *map(str, arguments), "--json", str(out)]) == 0
    return json.loads(out.read_text())


def expect(found, arrays, axis=-1, rel=1e-12):
    """Compare with the exact statistics of all arrays together."""
    channels = np.concatenate([np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in arrays], axis=1)
    mean, var = oracle.moments(channels, 0)
    assert found["count"] == [channels.shape[1]] * len(channels)
    assert found["omitted"] == [0] * len(channels)
    assert found["channels"] == len(channels)
    assert found["min"] == channels.min(axis=1).tolist()
    assert found["max"] == channels.max(axis=1).tolist()
    np.testing.assert_allclose(found["mean"], mean, rtol=0, atol=rel * (np.abs(mean).max() + np.sqrt(var).max()))
    np.testing.assert_allclose(found["std"], np.sqrt(var), rtol=rel)


def same(found, wanted, rel=1e-12):
    """Compare two runs; counts and extrema must be equal."""
    for key in ("channels", "axis", "inputs", "skipped", "count", "omitted", "min", "max"):
        assert found[key] == wanted[key], key
    for key in ("mean", "std"):
        np.testing.assert_allclose(found[key], wanted[key], rtol=rel, atol=rel)
