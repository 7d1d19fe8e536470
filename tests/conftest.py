"""Fixtures: the grid of layout x dtype x activation x residual, and the state of the process."""

import gc
import signal

import numpy as np
import pytest

import fastbn
from tests.cases import DTYPES, LAYOUTS


def pytest_collection_finish():
    """Exclude the collected tests, more than a million objects, from garbage collection, which many tests start."""
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
    """Restores the thread count of the process."""
    before = fastbn._core.threads._process
    yield
    fastbn._core.threads._process = before


@pytest.fixture
def heard_signals():
    """Lets SIGINT and SIGTERM raise KeyboardInterrupt, even if the process was started to ignore them."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
