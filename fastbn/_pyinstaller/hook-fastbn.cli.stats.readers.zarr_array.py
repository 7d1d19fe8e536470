"""Includes Zarr if it is installed; the reader imports it by name."""

from importlib.util import find_spec

hiddenimports = ["zarr"] if find_spec("zarr") else []
