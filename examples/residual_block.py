"""A fused residual connection on channels-last images: y = relu(batch_norm(x) + shortcut), forward and backward.

The layer reads x and the shortcut once and writes y once. It stores one bit per element for the ReLU, and the backward
pass returns both gradients. The example compares them with separate NumPy operations in float64.
"""

import numpy as np

import fastbn

SHAPE = (32, 28, 28, 128)   # NHWC


def fused(bn, x, shortcut, dy):
    """Return y, dx and dshortcut from the fused layer."""
    y = bn(x, residual=shortcut, activation="relu")
    dx, dshortcut = bn.backward(dy)
    return y, dx, dshortcut


def step_by_step(bn, x, shortcut, dy):
    """Return the same arrays from separate operations in float64."""
    x, shortcut, dy, gamma, beta = (a.astype(np.float64) for a in (x, shortcut, dy, bn.gamma, bn.beta))
    batch = (0, 1, 2)
    rstd = 1 / np.sqrt(x.var(axis=batch) + bn.eps)
    x_hat = (x - x.mean(axis=batch)) * rstd
    before_relu = x_hat * gamma + beta + shortcut
    dshortcut = dy * (before_relu > 0)
    dx = gamma * rstd * (dshortcut - dshortcut.mean(axis=batch) - x_hat * (dshortcut * x_hat).mean(axis=batch))
    return np.maximum(before_relu, 0), dx, dshortcut


def main():
    """Compare the fused layer with the separate operations."""
    rng = np.random.default_rng(0)
    x, shortcut, dy = (rng.standard_normal(SHAPE, dtype=np.float32) for _ in range(3))
    bn = fastbn.BatchNorm(SHAPE[-1], axis=-1)
    bn.gamma[:] = rng.uniform(0.5, 1.5, SHAPE[-1])
    bn.beta[:] = rng.normal(0, 0.1, SHAPE[-1])

    print(f"relu(batch_norm(x) + shortcut) on {SHAPE}, float32; largest difference from float64:")
    pairs = zip(("y", "dx", "dshortcut"), fused(bn, x, shortcut, dy), step_by_step(bn, x, shortcut, dy), strict=True)
    for name, ours, exact in pairs:
        print(f"  {name:<10} {abs(ours - exact).max():.1e}   largest value {abs(exact).max():.3g}")
    print(f"gradients of gamma from {bn.grad_gamma.min():.1f} to {bn.grad_gamma.max():.1f}, "
          f"of beta from {bn.grad_beta.min():.1f} to {bn.grad_beta.max():.1f}")


if __name__ == "__main__":
    main()
