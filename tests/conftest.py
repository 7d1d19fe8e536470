"""The grid that most tests run over: layout x dtype x threads x activation x residual."""

import gc
import signal

import numpy as np
import pytest

import fastbn
from tests.cases import DTYPES, LAYOUTS


def pytest_collection_finish():
    """Keep the tests themselves, some million objects, out of the collections of garbage that they cause."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(params=DTYPES)
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(params=[None, "relu"], ids=["linear", "relu"])
def activation(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "residual"])
def with_residual(request):
    return request.param


@pytest.fixture
def default_threads():
    """Leaves the thread count of the process as it was."""
    before = fastbn._core.threads._process
    yield
    fastbn._core.threads._process = before


@pytest.fixture
def heard_signals():
    """Has SIGINT and SIGTERM raise KeyboardInterrupt, also where whoever runs the tests ignores them."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
