"""Parameters of tests that scikit-learn gives as iterators, which newer versions of pytest do not take."""

from collections.abc import Iterator

import pytest


def with_lists(test):
    """Return a test whose parameters are lists where they were iterators."""
    test.pytestmark = [
        getattr(pytest.mark, mark.name)(
            *(list(arg) if isinstance(arg, Iterator) else arg for arg in mark.args), **mark.kwargs).mark
        for mark in getattr(test, "pytestmark", [])]
    return test
