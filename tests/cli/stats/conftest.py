"""Inputs that several tests interrupt and resume."""

import numpy as np
import pytest

from tests.cli.stats.arrays import normal


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Inputs of several formats and layouts, with blocks of 4,096 bytes."""
    monkeypatch.setattr("fastbn.cli.stats.readers.grid.BLOCK_BYTES", 4096)
    np.save(tmp_path / "a.npy", normal(1000, 3))
    np.savez(tmp_path / "b.npz", x=normal(500, 3, seed=1), y=normal(700, 3, seed=2, dtype="float64"))
    np.save(tmp_path / "c.npy", np.asfortranarray(normal(2000, 3, seed=3)))
    np.savez_compressed(tmp_path / "d.npz", normal(9, 30, 3, seed=4))
    return [tmp_path / name for name in ("a.npy", "b.npz", "c.npy", "d.npz")]
