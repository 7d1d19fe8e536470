"""Pillow, where it is installed: the command imports it by its name when a folder of images is read."""

from importlib.util import find_spec

hiddenimports = ["PIL.Image"] if find_spec("PIL") else []
