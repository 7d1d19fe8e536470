"""How far y and the variance are from the exact result, beside PyTorch and NumPy.

``python -m benchmarks.accuracy`` prints the table that the README quotes. The exact result is worked out in extended
precision from the float32 input as it is, so that only the library's own error counts.
"""

from __future__ import annotations

import numpy as np

import fastbn

SHAPE = (32, 16, 28, 28)
RATIOS = (1.0, 1e2, 1e4, 1e6)
UNIT = 2.0**-24
EPS = 1e-5


def exact(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return y and the biased variance in extended precision."""
    wide = x.astype(np.longdouble)
    axes = (0, 2, 3)
    mean = wide.mean(axes, keepdims=True)
    var = ((wide - mean) ** 2).mean(axes, keepdims=True)
    return (wide - mean) / np.sqrt(var + np.longdouble(EPS)), var.ravel()


def by_fastbn(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what fastbn gives."""
    y, saved = fastbn.functional.batch_norm_training(x, eps=EPS)
    return y, saved.var


def by_numpy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the formula gives in NumPy, in float32."""
    mean = x.mean((0, 2, 3), keepdims=True)
    var = x.var((0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(var + np.float32(EPS)), var.ravel()


def by_torch(x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what PyTorch gives, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    y, _, rstd = torch.native_batch_norm(torch.from_numpy(x), None, None, None, None, True, 0.1, EPS)
    return y.numpy(), 1 / rstd.numpy().astype(np.float64) ** 2 - EPS


def main() -> None:
    """Print the table in Markdown."""
    peers = {"fastbn": by_fastbn, "PyTorch": by_torch, "NumPy": by_numpy}
    names = [name for name, peer in peers.items() if peer(np.ones((2, 1, 1, 2), np.float32)) is not None]
    print("| mean/std | " + " | ".join(f"{n}: y, units | {n}: variance" for n in names) + " |")
    print("|---" * (1 + 2 * len(names)) + "|")
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(SHAPE)
    for ratio in RATIOS:
        x = (noise + ratio).astype(np.float32)
        y_exact, var_exact = exact(x)
        cells = []
        for name in names:
            result = peers[name](x)
            assert result is not None
            y, var = result
            units = float(np.abs(y - y_exact).max() / np.abs(y_exact).max() / UNIT)
            cells += [f"{units:,.1f}", f"{float(np.abs(var / var_exact - 1).max()):.1e}"]
        print(f"| {ratio:g} | " + " | ".join(cells) + " |")
    constant = np.full(SHAPE, 1.1e7, np.float32)
    cells = [f"max abs y {abs(peers[name](constant)[0]).max():g} | 0 expected" for name in names]
    print("| constant 1.1e7 | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
