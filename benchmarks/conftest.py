"""Options and fixtures of the benchmarks under pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import fastbn
from benchmarks import floors
from benchmarks.cases import CASES, TINY_CASES, Case, Operation
from benchmarks.peers import FLOORS
from benchmarks.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TINY_BUDGET, BUDGET = 0.005, 0.2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tiny", action="store_true", help="a smoke test: tiny cases, few rounds")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--tiny"):
        config.option.benchmark_min_rounds = 2
        config.option.benchmark_max_time = TINY_BUDGET
        config.option.benchmark_calibration_precision = 1


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = TINY_CASES if metafunc.config.getoption("--tiny") else CASES
        metafunc.parametrize("case", cases, ids=[f"{case.layout}-{case.name}" for case in cases])


@pytest.fixture(scope="session")
def memory(request: pytest.FixtureRequest) -> Iterator[Callable[[Operation, Case], float]]:
    """Return the floor of an operation in seconds, measured in this run in its own process."""
    budget = TINY_BUDGET if request.config.getoption("--tiny") else BUDGET
    measured: dict[tuple[int, str], float] = {}
    l3 = floors.l3_bytes()
    with Worker(FLOORS, fastbn.get_num_threads()) as worker:

        def floor(op: Operation, case: Case) -> float:
            needed = floors.passes(op, case, l3)
            for name in needed:
                if (case.size, name) not in measured:
                    measured[case.size, name] = worker.measure(floors.PASSES[name], floors.flat(op, case), budget)
            return sum(measured[case.size, name] for name in needed)

        yield floor
