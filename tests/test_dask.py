"""fastbn.dask where Dask is missing; what it does with Dask is in interop/test_distributed.py."""

from tests.process import error


def test_without_dask_it_says_what_to_install():
    assert 'ImportError: channel_stats needs Dask: pip install ".[dask]"' in error(
        "import sys; sys.modules['dask'] = None; from fastbn.dask import channel_stats; channel_stats(1)")
