"""Makes lists of the iterators that scikit-learn gives as test parameters, and newer versions of pytest reject."""

from collections.abc import Iterator

import pytest


def with_lists(test):
    """Return the test with lists in place of iterators."""
    test.pytestmark = [
        getattr(pytest.mark, mark.name)(
            *(list(arg) if isinstance(arg, Iterator) else arg for arg in mark.args), **mark.kwargs).mark
        for mark in getattr(test, "pytestmark", [])]
    return test
