"""For ``pytest --doctest-modules fastbn`` as well as for the tests."""

from tests.doctests import install

install()
