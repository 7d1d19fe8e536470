"""Runs a test over cases, each in every layout."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.cases import Case


def over(cases: Iterable[Case], name: str = "case") -> Callable[[Any], Any]:
    """Parametrize a test by cases, which it takes as `name`, and by the layouts of each, as `layout`."""
    return pytest.mark.parametrize((name, "layout"), [
        pytest.param(case, layout, id=f"{case.name}-{layout}")
        for case in cases for layout in case.layouts])
