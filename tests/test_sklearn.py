"""fastbn.sklearn where scikit-learn is missing; what it does with it is in interop/test_sklearn.py."""

from tests.process import error


def test_without_sklearn_it_says_what_to_install():
    assert 'ImportError: fastbn.sklearn needs scikit-learn 1.6 or newer: pip install ".[sklearn]"' in error(
        "import sys; sys.modules['sklearn'] = None; import fastbn.sklearn")
