"""fastbn.sklearn without scikit-learn; tests/interop/test_sklearn.py tests it with scikit-learn."""

from tests.process import error


def test_the_error_names_the_package_to_install():
    assert 'ImportError: fastbn.sklearn needs scikit-learn 1.6 or newer: pip install ".[sklearn]"' in error(
        "import sys; sys.modules['sklearn'] = None; import fastbn.sklearn")
