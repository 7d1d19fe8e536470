"""Zarr, where it is installed: the command imports it by its name when a Zarr array is read."""

from importlib.util import find_spec

hiddenimports = ["zarr"] if find_spec("zarr") else []
