"""Images, by Pillow."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.statistics_command.errors import Place, require
from fastbn.statistics_command.grid import Grid
from fastbn.statistics_command.part import Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fastbn.statistics_command.counting import Settings

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = ("L", "LA", "RGB", "RGBA")      # whose values are uint8 and stand for themselves
PALETTE = "P"                           # whose values stand for colours


@contextmanager
def open_file(path: str, size: int, settings: Settings) -> Iterator[Iterator[Part]]:
    """Decode an image, which is one block: as many rows as it has pixels, its channels last."""
    pixels = decode(path)
    pixels = pixels.reshape(pixels.shape[0] * pixels.shape[1], -1)
    grid = Grid(pixels.shape, pixels.shape, 1)
    yield iter([Part(Place(path), grid, True, size, lambda start: iter([pixels][start:]))])


def decode(path: str) -> NDArray[Any]:
    """Return the values of an image, (H, W) or (H, W, C)."""
    place = Place(path)
    image_module = require("PIL.Image", "Pillow", "images", "Reading images")
    try:
        with warnings.catch_warnings():
            # Large images are welcome; those twice as large as this warning's limit Pillow refuses.
            warnings.simplefilter("ignore", image_module.DecompressionBombWarning)
            with image_module.open(path) as image:
                mode = image.mode
                if mode == PALETTE:
                    image.load()        # until then not all of its transparency may be known
                    return np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))
                if mode in MODES:
                    return np.asarray(image)
    except Exception as error:  # damaged bytes lead Pillow's decoders to raise whatever they come upon
        raise place.error(f"is no image that can be read: {error}") from None
    raise place.error(f"has mode {mode}; expected {', '.join([*MODES, PALETTE])}; convert it first")
