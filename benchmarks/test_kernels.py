"""Every operation on every case: ``pytest benchmarks``, or ``pytest benchmarks --tiny`` for a smoke test.

The extra information of a benchmark holds the bytes per second of its best round, and the ratio of that round to the
floor (`benchmarks.floors`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fastbn
from benchmarks.arrays import Fastbn
from benchmarks.cases import KERNELS, Case, Operation

if TYPE_CHECKING:
    from collections.abc import Callable


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
