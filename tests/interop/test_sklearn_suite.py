"""The tests of StandardScaler in scikit-learn, with ChannelScaler in its place.

Expected failures are listed with their reasons here and in docs/guides/scale.md. Tests of the array API are skipped,
because ChannelScaler supports only arrays of NumPy and sparse matrices of SciPy.
"""

import importlib.util
import inspect
import re

import pytest

sklearn = pytest.importorskip("sklearn", reason='scikit-learn is not installed: pip install ".[sklearn]"')

from sklearn import preprocessing  # noqa: E402

from fastbn.sklearn import ChannelScaler  # noqa: E402
from tests.interop.parameters import with_lists  # noqa: E402

MEASURED = "1.9."       # the version with exactly these failures
EXPECTED = {
    r"near_constant_features\[.*-float64-": "a channel is constant if its values are equal, not if its standard "
                                            "deviation is small, because the variance is accurate",
    r"partial_fit$": "var_ exists without with_std",
    r"return_identity": "mean_ and var_ exist without with_mean and with_std",
    r"callback_support": "no callbacks",
}
pytestmark = pytest.mark.filterwarnings("default")


def suite():
    """Return a copy of the test module of scikit-learn that tests ChannelScaler instead of StandardScaler."""
    spec = importlib.util.find_spec("sklearn.preprocessing.tests.test_data")
    module = importlib.util.module_from_spec(spec)
    theirs = preprocessing.StandardScaler
    preprocessing.StandardScaler = ChannelScaler
    try:
        spec.loader.exec_module(module)
    finally:
        preprocessing.StandardScaler = theirs
    return module


def chosen(name, test):
    return name.startswith("test_") and "array_api" not in name and "StandardScaler" in inspect.getsource(test)


TESTS = {name: with_lists(test) for name, test in vars(suite()).items() if chosen(name, test)}
globals().update(TESTS)


@pytest.fixture
def global_random_seed():
    return 42


@pytest.fixture(autouse=True)
def expect_failure(request):
    strict = sklearn.__version__.startswith(MEASURED)
    for pattern, reason in EXPECTED.items():
        if re.search(pattern, request.node.name):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=strict))


def test_there_are_tests():
    assert len(TESTS) > 15
