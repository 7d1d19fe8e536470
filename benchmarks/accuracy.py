"""Errors of y and of the variance, beside PyTorch and NumPy.

The exact result is computed in extended precision from the float32 input, so only the library's own error counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import fastbn
from benchmarks.peers import EPS
from benchmarks.report import table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Result = tuple[NDArray[np.floating], NDArray[np.floating]]

SHAPE = (32, 16, 28, 28)
RATIOS = (1.0, 1e2, 1e4, 1e6)   # mean/std
UNIT = 2.0**-24
AXES = (0, 2, 3)


def exact(x: NDArray[np.float32]) -> Result:
    """Return y and the biased variance in extended precision."""
    wide = x.astype(np.longdouble)
    mean = wide.mean(AXES, keepdims=True)
    var = ((wide - mean) ** 2).mean(AXES, keepdims=True)
    return (wide - mean) / np.sqrt(var + np.longdouble(EPS)), var.ravel()


def by_fastbn(x: NDArray[np.float32]) -> Result:
    y, saved = fastbn.functional.batch_norm_training(x, eps=EPS)
    return y, saved.var


def by_numpy(x: NDArray[np.float32]) -> Result:
    mean, var = x.mean(AXES, keepdims=True), x.var(AXES, keepdims=True)
    return (x - mean) / np.sqrt(var + np.float32(EPS)), var.ravel()


def by_torch(x: NDArray[np.float32]) -> Result:
    import torch

    y, _, rstd = torch.native_batch_norm(torch.from_numpy(x), None, None, None, None, True, 0.1, EPS)
    return y.numpy(), 1 / rstd.numpy().astype(np.float64) ** 2 - EPS


def main(tiny: bool) -> None:
    """Print the table."""
    peers = {"fastbn": by_fastbn, "PyTorch": by_torch, "NumPy": by_numpy}
    try:
        by_torch(np.ones((2, 1, 1, 2), np.float32))
    except ImportError as error:
        print(f"PyTorch is left out: {error}\n")
        del peers["PyTorch"]
    shape = (2, 4, 8, 8) if tiny else SHAPE
    noise = np.random.default_rng(0).standard_normal(shape)
    lines = [["mean/std", *(f"{name}: {what}" for name in peers for what in ("y, units", "variance"))]]
    for ratio in RATIOS:
        x = (noise + ratio).astype(np.float32)
        y_exact, var_exact = exact(x)
        line = [f"{ratio:g}"]
        for peer in peers.values():
            y, var = peer(x)
            units = float(np.abs(y - y_exact).max() / np.abs(y_exact).max() / UNIT)
            line += [f"{units:,.1f}", f"{float(np.abs(var / var_exact - 1).max()):.1e}"]
        lines.append(line)
    constant = np.full(shape, 1.1e7, np.float32)
    lines.append(["constant 1.1e7: largest abs y, 0 expected",
                  *(cell for peer in peers.values() for cell in (f"{np.abs(peer(constant)[0]).max():g}", ""))])
    print(f"Largest errors over {shape} normal values: y in units of 2^-24 of the largest value, variance relative.\n")
    print(table(lines))
