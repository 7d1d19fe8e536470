"""SyncBatchNorm with the options of a layer; what each rank does and asserts is in sync_options_program.py."""

import pytest

from tests.interop.test_sync import succeed


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("name", ["frozen", "singles", "axes"])
def test_options(name, ranks):
    succeed(ranks, name, "tests.interop.sync_options_program")
