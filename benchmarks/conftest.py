"""Options and fixtures of the benchmarks under pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import fastbn
from benchmarks import floors
from benchmarks.cases import Case, cases
from benchmarks.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TINY_BUDGET, BUDGET = 0.005, 0.2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tiny", action="store_true", help="a smoke run: tiny cases, few rounds")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--tiny"):
        config.option.benchmark_min_rounds = 2
        config.option.benchmark_max_time = TINY_BUDGET
        config.option.benchmark_calibration_precision = 1


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        chosen = cases(metafunc.config.getoption("--tiny"))
        metafunc.parametrize("case", chosen, ids=[f"{case.layout}-{case.name}" for case in chosen])


@pytest.fixture(scope="session")
def memory(request: pytest.FixtureRequest) -> Iterator[Callable[[str, Case], float]]:
    """Return the floor of an operation in seconds, measured in this run in a process of its own."""
    budget = TINY_BUDGET if request.config.getoption("--tiny") else BUDGET
    measured: dict[tuple[int, str], float] = {}
    l3 = floors.l3_bytes()
    with Worker(floors.LIBRARY, fastbn.get_num_threads()) as worker:

        def floor(op: str, case: Case) -> float:
            flat = Case((case.size,), "rows")
            for name in floors.passes(op, case, l3):
                if (case.size, name) not in measured:
                    measured[case.size, name] = worker.measure(flat, name, budget)
            seconds = floors.floor(op, case, {name: s for (size, name), s in measured.items() if size == case.size}, l3)
            assert seconds is not None
            return seconds

        yield floor
