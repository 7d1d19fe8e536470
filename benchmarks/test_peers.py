"""That all libraries of the comparison compute the same: a benchmark of the wrong function is worse than none."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cases import cases
from benchmarks.compare.libraries import LIBRARIES, Library
from benchmarks.compare.peers import EPS, OPS, Peer, applies


def expected(peer: Peer, op: str) -> np.ndarray:
    """Return what `op` must give, in double precision."""
    axis = peer.case.axis
    x, dy = (np.moveaxis(a.astype(np.float64), axis, -1) for a in (peer.x, peer.dy))
    gamma, beta, mean, var = (v.ravel().astype(np.float64) for v in (peer.gamma, peer.beta, peer.mean, peer.var))
    axes = tuple(range(x.ndim - 1))
    if not (op.startswith("inference") or op == "call"):
        mean, var = x.mean(axes), x.var(axes)
    rstd = 1 / np.sqrt(var + EPS)
    x_hat = (x - mean) * rstd
    result = x_hat * gamma + beta
    if op.startswith("backward"):
        result = gamma * rstd * (dy - dy.mean(axes) - x_hat * (dy * x_hat).mean(axes))
    return np.moveaxis(result, -1, axis)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.peer.__name__)
def test_peer_computes_the_operation(library: Library) -> None:
    pytest.importorskip(library.module)
    peer = library.peer(threads=1)
    for case in cases(tiny=True):
        peer.prepare(case)
        for op in OPS:
            if not (applies(op, case) and library.peer.supports(op, case)):
                continue
            for way, call in enumerate(peer.calls(op)):
                peer.y.fill(np.nan)
                result = call()
                # A fresh result is the first of what comes back; torch's has the channels second, whatever the memory.
                y = peer.y
                if np.isnan(y).any():
                    y = result[0] if isinstance(result, (tuple, list)) else result
                    if hasattr(y, "movedim"):
                        y = y.movedim(1, case.axis).numpy()
                np.testing.assert_allclose(
                    y.reshape(peer.x.shape), expected(peer, op), atol=2e-5, err_msg=f"{case} {op}, way {way}")
