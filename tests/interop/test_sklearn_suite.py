"""scikit-learn's own tests of StandardScaler, with ChannelScaler in its place.

What fails is expected to, and listed with its reason here and in docs/scale.md. Tests of the array API are left out:
ChannelScaler takes NumPy's arrays and SciPy's sparse ones.
"""

import importlib.util
import inspect
import re

import pytest

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'fastbn[sklearn]'")

from sklearn import preprocessing  # noqa: E402

from fastbn.sklearn import ChannelScaler  # noqa: E402
from tests.interop.parameters import with_lists  # noqa: E402

MEASURED = "1.9."       # the version whose expected failures are these, all of them
EXPECTED = {
    r"near_constant_features\[.*-float64-": "a channel is constant where its values are equal, and not where its "
                                            "deviation is small: the variance has its digits there",
    r"partial_fit$": "var_ is there without with_std too",
    r"return_identity": "mean_ and var_ are there without with_mean and with_std too",
    r"callback_support": "no callbacks",
}
pytestmark = pytest.mark.filterwarnings("default")


def suite():
    """Return a copy of scikit-learn's module of tests that takes ChannelScaler for StandardScaler."""
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
