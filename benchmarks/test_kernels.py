"""Every operation on every case: ``pytest benchmarks``, or ``pytest benchmarks --tiny`` for a smoke run.

The extra information of a benchmark holds the bytes that the operation must move in a second of its best round, and how
many times the floor of `benchmarks.floors` that round took.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fastbn
from benchmarks.cases import Case, parameters
from fastbn.functional import Saved, batch_norm_backward, batch_norm_inference, batch_norm_training

if TYPE_CHECKING:
    from collections.abc import Callable

# Arrays read and written at least.
ARRAYS = {"training": 2, "inference": 2, "backward": 3, "frozen_backward": 3, "relu": 2, "residual_relu": 3}


def operation(op: str, case: Case) -> Callable[[], Any]:
    """Return `op` as a call that writes into a buffer that is there already."""
    x, other, y = (case.array(seed) for seed in range(3))
    p = parameters(case.channels)
    axis = case.axis
    if op == "inference":
        return lambda: batch_norm_inference(x, **p, axis=axis, out=y)
    gamma, beta = p["gamma"], p["beta"]
    if op == "frozen_backward":
        given = Saved.from_statistics(p["mean"], p["var"])
        return lambda: batch_norm_backward(other, x, given, gamma, axis=axis, out=y)
    if op == "backward":
        saved = batch_norm_training(x, gamma, beta, axis=axis, out=y)[1]
        return lambda: batch_norm_backward(other, x, saved, gamma, axis=axis, out=y)
    residual = other if op == "residual_relu" else None
    activation = None if op == "training" else "relu"
    return lambda: batch_norm_training(x, gamma, beta, axis=axis, residual=residual, activation=activation, out=y)


@pytest.mark.parametrize("op", ARRAYS)
def test_kernel(benchmark: Any, memory: Callable[[str, Case], float], op: str, case: Case) -> None:
    if not (case.learns or op in ("inference", "frozen_backward")):
        pytest.skip("one value per channel has no variance")
    floor = memory(op, case)
    benchmark.group = f"{case.layout} {op}"
    result = benchmark(operation(op, case))
    y = result[0] if isinstance(result, tuple) else result
    assert np.isfinite(y).all()
    if benchmark.stats is not None:  # there are none under --benchmark-disable
        best = benchmark.stats.stats.min
        benchmark.extra_info.update(
            threads=fastbn.get_num_threads(), bytes_per_second=ARRAYS[op] * case.nbytes / best,
            floor_seconds=floor, ratio_to_floor=best / floor)
