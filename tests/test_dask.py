"""fastbn.dask without Dask; tests/interop/test_distributed.py tests it with Dask."""

from tests.process import error


def test_the_error_names_the_package_to_install():
    assert 'ImportError: channel_stats needs Dask: pip install ".[dask]"' in error(
        "import sys; sys.modules['dask'] = None; from fastbn.dask import channel_stats; channel_stats(1)")
