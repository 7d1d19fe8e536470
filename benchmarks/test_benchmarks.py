"""The benchmarks under pytest: ``pytest benchmarks``, or ``pytest benchmarks --tiny`` for a smoke test.

`test_kernel` times every operation of fastbn on every case. Its extra information holds the bytes per second of the
best round and the ratio of that round to the floor (`benchmarks.floors`). `test_peer` compares the results of every
library, because a benchmark of the wrong function is worse than none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fastbn
from benchmarks import report, targets
from benchmarks.arrays import Fastbn
from benchmarks.cases import CALL, GROUPS, KERNELS, STEP, SUITES, TINY_SUITES, Case, Operation, Suite
from benchmarks.peers import EPS, LIBRARIES, MEAN, STD, Library, Peer
from benchmarks.results import ROOT, Results
from benchmarks.runner import left_out

if TYPE_CHECKING:
    from collections.abc import Callable

ACTIVATIONS = {
    None: lambda y: y,
    "relu": lambda y: np.maximum(y, 0),
    "relu6": lambda y: np.clip(y, 0, 6),
    "leaky_relu": lambda y: np.where(y > 0, y, 0.01 * y),
    "hardswish": lambda y: y * np.clip(y + 3, 0, 6) / 6,
    "sigmoid": lambda y: 1 / (1 + np.exp(-y)),
    "tanh": np.tanh,
    "silu": lambda y: y / (1 + np.exp(-y)),
    "hard_sigmoid": lambda y: np.clip(y + 3, 0, 6) / 6,
    "gelu": lambda y: y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2,
    "gelu_tanh": lambda y: y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))) / 2,
    "mish": lambda y: y * np.tanh(np.log1p(np.exp(y))),
    "softplus": lambda y: np.log1p(np.exp(y)),
    "elu": lambda y: np.where(y > 0, y, np.expm1(y)),
}
TOLERANCES = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 4e-2, "uint8": 2e-5}
CELLS = [(op, case) for suite in TINY_SUITES.values() for op, cases in suite.plan.items() for case in cases]
CELLS += [(op, case) for case in dict.fromkeys(case for _, case in CELLS) for op in KERNELS if op.applies(case)]


@pytest.mark.parametrize("op", KERNELS, ids=lambda op: op.name)
def test_kernel(benchmark: Any, memory: Callable[[Operation, Case], float], op: Operation, case: Case) -> None:
    if not op.applies(case):
        pytest.skip("one value per channel has no variance")
    floor = memory(op, case)
    benchmark.group = f"{case.layout} {op.name}"
    peer = Fastbn(case, fastbn.get_num_threads())
    benchmark(*peer.calls(op))
    assert np.isfinite(peer.y).all()
    if benchmark.stats is not None:  # None with --benchmark-disable
        best = benchmark.stats.stats.min
        benchmark.extra_info.update(
            threads=fastbn.get_num_threads(), bytes_per_second=op.arrays * op.nbytes(case) / best,
            floor_seconds=floor, ratio_to_floor=best / floor)


def expected(peer: Peer, op: Operation) -> np.ndarray:
    """Return the result of `op` in double precision, with the channels last."""
    axis = peer.case.axis
    values = peer.pixels if op.dtype == "uint8" else peer.x
    x, dy = (np.moveaxis(a.astype(np.float64), axis, -1) for a in (values, peer.dy))
    axes = tuple(range(x.ndim - 1))
    if op.kind == "step":
        y, dx, dgamma, dbeta = step(x, dy, peer.gamma.ravel(), peer.beta.ravel())
        return np.concatenate([y.ravel(), dx.ravel(), dgamma, dbeta])
    if "_norm" in op.kind:
        return sibling(op.kind, x, dy, peer.gamma.ravel(), peer.beta.ravel())
    if op.kind == "images":
        return (x / 255 - MEAN) / STD
    if op.kind == "moments":
        return np.stack([x.mean(axes), x.var(axes)])
    valid = np.ones(x.shape[:-1], bool)
    if op.kind == "padded":
        lengths = np.linspace(0, x.shape[1], len(x)).round()
        valid = np.arange(x.shape[1]) < lengths[:, None]
    gamma, beta, mean, var = (v.ravel().astype(np.float64) for v in (peer.gamma, peer.beta, peer.mean, peer.var))
    if op.kind in ("training", "sequences", "padded") or (op.kind == "backward" and not op.frozen):
        mean, var = x[valid].mean(0), x[valid].var(0)
    rstd = 1 / np.sqrt(var + EPS)
    x_hat = (x - mean) * rstd
    if op.frozen:
        return gamma * rstd * dy
    if op.kind == "backward":
        return gamma * rstd * (dy - dy.mean(axes) - x_hat * (dy * x_hat).mean(axes))
    y = ACTIVATIONS[op.activation](x_hat * gamma + beta + (dy if op.residual else 0))
    return np.where(valid[..., None], y, 0)


def sibling(kind: str, x: np.ndarray, dy: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Return y or dx of layer, RMS, group or instance norm, with the channels last."""
    groups = {"group": GROUPS, "instance": len(gamma)}.get(kind.partition("_")[0], 1)
    split = (*x.shape[:-1], groups, len(gamma) // groups)
    axes = tuple(k for k in range(1, len(split)) if k != len(split) - 2)
    x, dy, gamma = (a.reshape(split if a.ndim > 1 else split[-2:]) for a in (x, dy, gamma))
    mean = 0 if kind.startswith("rms") else x.mean(axes, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + EPS)
    x_hat = (x - mean) * rstd
    if not kind.endswith("backward"):
        y = x_hat * gamma
        return y.reshape(*split[:-2], -1) + (0 if kind.startswith("rms") else beta)
    v = dy * gamma
    dx = v - x_hat * (v * x_hat).mean(axes, keepdims=True)
    if not kind.startswith("rms"):
        dx -= v.mean(axes, keepdims=True)
    return (rstd * dx).reshape(*split[:-2], -1)


def step(x: np.ndarray, dy: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return y, dx, dgamma and dbeta of batch norm + ReLU, with the channels last."""
    axes = tuple(range(x.ndim - 1))
    rstd = 1 / np.sqrt(x.var(axes) + EPS)
    x_hat = (x - x.mean(axes)) * rstd
    y = np.maximum(x_hat * gamma + beta, 0)
    dy = np.where(y > 0, dy, 0)
    dgamma, dbeta = (dy * x_hat).sum(axes), dy.sum(axes)
    count = x[..., 0].size
    return y, gamma * rstd * (dy - dbeta / count - x_hat * dgamma / count), dgamma, dbeta


def result_of(peer: Peer, op: Operation, call: Any) -> np.ndarray:
    """Return the result of a call with the channels last, from its return value or from the buffer."""
    peer.y.fill(np.nan)
    result = call()
    if op.kind == "moments":
        mean, var = (result.mean, result.var()) if hasattr(result, "mean") else result
        return np.stack([np.asarray(mean).ravel(), np.asarray(var).ravel()])
    if op.kind == "step":   # PyTorch has the channels second in either layout
        axis = 1 if hasattr(result[0], "movedim") else peer.case.axis
        y, dx, dgamma, dbeta = map(np.asarray, result)
        return np.concatenate([*(np.moveaxis(a, axis, -1).ravel() for a in (y, dx)), dgamma, dbeta])
    y = peer.y if np.isfinite(peer.y).all() else result[0] if isinstance(result, (tuple, list)) else result
    if op.kind == "images":
        return np.moveaxis(np.asarray(y), 1, -1)
    if hasattr(y, "movedim"):   # PyTorch has the channels second in either layout
        return np.moveaxis(y.float().numpy(), 1, -1)
    return np.moveaxis(np.asarray(y).reshape(peer.case.array_shape), peer.case.axis, -1)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.target.partition(":")[2])
def test_peer(library: Library) -> None:
    pytest.importorskip(library.module)
    compared = 0
    for op, case in CELLS:
        if not library.peer.supports(op, case):
            continue
        peer = library.peer(case, threads=1)
        for way, call in enumerate(peer.calls(op)):
            np.testing.assert_allclose(
                result_of(peer, op, call).reshape(expected(peer, op).shape).astype(np.float64), expected(peer, op),
                atol=TOLERANCES[op.dtype], rtol=TOLERANCES[op.dtype], err_msg=f"{case} {op.name}, way {way}")
            compared += 1
    assert compared


def test_libraries_that_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "installed", lambda library: library.module in ("fastbn", "torch"))
    case = Case((8, 24), "rows")
    assert left_out({STEP: [case]}) == {"JAX": "jax"}
    assert left_out({CALL: [case]}) == {"NumPy": "numpy"}


@pytest.mark.parametrize(("values", "mean", "expected"), [
    ([1.0, 4.0], True, (2.0, 0)),
    ([0.5, 2.0], True, (1.0, 1)),
    ([0.5, 2.0], False, (0.5, 1)),
    ([2.0, 4.0], False, (2.0, 0)),
])
def test_bounds_of_the_worst_cell_or_the_mean(values: list[float], mean: bool, expected: tuple[float, int]) -> None:
    target = targets.Target("", "torch", 1.5, [], mean=mean)
    case = Case((8, 24), "rows")
    value, misses = targets.summary(target, [targets.Verdict(target, v, CALL, case, 1) for v in values])
    assert (pytest.approx(value), misses) == expected


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_documents_match_the_saved_figures(suite: Suite) -> None:
    document = ROOT / "docs" / f"{suite.document}.md"
    if not document.exists():
        pytest.skip("not measured")
    results = Results.read(document.with_suffix(".json"))
    chart = document.with_suffix(".png")
    generated = report.markdown(results, suite, chart.name if chart.exists() else None)
    assert f"{report.BEGIN}\n\n{generated}\n{report.END}" in document.read_text()
