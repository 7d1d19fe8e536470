"""Includes Pillow if it is installed; the reader imports it by name."""

from importlib.util import find_spec

hiddenimports = ["PIL.Image"] if find_spec("PIL") else []
