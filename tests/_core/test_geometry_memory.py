"""The backward of many sample groups needs little memory for their sums."""

import pytest

from tests.process import output

PROGRAM = """
import resource

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_activation
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept

x = np.random.default_rng(0).standard_normal((1 << 18, 16), np.float32)
view, dx, activation = views.view(x, 1), np.zeros_like(x), check_activation(None)
common = {"fill": False, "num_threads": 2, "samples": 1, "channels": 4}
mean, low, _, rstd = kernels.forward(
    view, views.output(view, dx), None, None, None, 1e-5, activation=activation, bits=None, **common)
kept = Kept(mean, low, rstd, None, None, None, False, activation)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kernels.backward(views.like(view, x, "dy"), view, views.output(view, dx), None, kept, None, **common)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_sums_of_groups_of_one_row():
    # In full they would take 64 MB.
    pytest.importorskip("resource")
    assert int(output(PROGRAM)) <= 6 * 1024
