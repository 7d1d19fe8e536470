"""Images, read with Pillow."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.cli.stats import limits
from fastbn.cli.stats.errors import InputError, Place, require
from fastbn.cli.stats.readers.grid import Grid
from fastbn.cli.stats.readers.part import Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fastbn.cli.stats.settings import Settings

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Accepted contents. Pillow supports more formats, one of which (EPS) starts another program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}       # modes of uint8 values
BILEVEL, PALETTE = "1", "P"     # counted as L, and as RGB or RGBA
SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")
NUMBERS = (*SIXTEEN, "I", "F")  # one channel: uint16, larger integers, float32
MODES = "L, LA, RGB, RGBA, P, 1, I;16, I or F"
CONVERSIONS: dict[str, str | None] = {"none": None, "RGB": "RGB", "L": "L"}    # values of --convert
CONVERTIBLE = (BILEVEL, PALETTE, "PA", *CHANNELS, "CMYK", "YCbCr", *SIXTEEN)
PIXEL_BYTES = {BILEVEL: 1, PALETTE: 1, "L": 1, **dict.fromkeys(SIXTEEN, 2)}     # in memory; 4 for other modes

logging.getLogger("PIL").addHandler(logging.NullHandler())      # without a handler, Python prints its log


@contextmanager
def open_file(path: str, size: int, settings: Settings) -> Iterator[Iterator[Part]]:
    """Open an image; its channel axis is the last one."""
    module = require("PIL.Image", "Pillow", "images", "Reading images")
    place = Place(path)
    with decoding(place):
        image = identified(module, place, settings.max_memory)
    with image:
        yield iter([part(image, place, size, settings)])


def identified(module: Any, place: Place, most: int) -> Any:
    """Open an image without decoding it, with the limit of the command instead of Pillow's."""
    # Pillow accepts images and tiles of up to twice this size. A pixel takes at least one byte.
    before, module.MAX_IMAGE_PIXELS = module.MAX_IMAGE_PIXELS, most // 2
    try:
        return module.open(place.path, formats=FORMATS)
    except module.DecompressionBombError:
        raise place.error(f"has more pixels than fit in {limits.shown(most)}; see --max-memory") from None
    finally:
        module.MAX_IMAGE_PIXELS = before


@contextmanager
def decoding(place: Place) -> Iterator[None]:
    """Turn all exceptions of Pillow into an error that names the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # about metadata
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise place.error(f"is not a readable image: {error}") from None


def part(image: Any, place: Place, size: int, settings: Settings) -> Part:
    """Check an image, which Pillow decodes as a whole for the first block."""
    width, height = image.size
    needed = width * height * PIXEL_BYTES.get(image.mode, 4)
    if needed > settings.max_memory:
        raise place.error(f"has {width} x {height} pixels of mode {image.mode}, which take {limits.shown(needed)} of "
                          f"memory; expected up to {limits.shown(settings.max_memory)}; see --max-memory")
    mode = counted_mode(image, place, settings.convert)
    unsigned = "I;32N" in raw_modes(image)      # Pillow reads it as int32
    grid = Grid.cut((height, width, CHANNELS.get(mode, 1)), 2, 1 if mode in CHANNELS else 4)

    def blocks(start: int) -> Iterator[NDArray[Any]]:
        with decoding(place):
            image.load()
        for index in range(start, len(grid)):
            rows, columns, channels = grid.slices(index)
            with decoding(place):
                block = values(image.crop((columns.start, rows.start, columns.stop, rows.stop)), mode, unsigned)
            yield block.reshape(rows.stop - rows.start, columns.stop - columns.start, channels.stop)

    return Part(place, grid, mode in CHANNELS, size, blocks)


def counted_mode(image: Any, place: Place, convert: str) -> str:
    """Return the mode whose values are counted."""
    mode: str = image.mode
    target = CONVERSIONS[convert]
    if target is not None:
        if mode in CONVERTIBLE or is_sixteen(image):
            return target
        raise place.error(f"has mode {mode}, which --convert {convert} does not support")
    if is_reduced(image):
        raise place.error("has values of more than 8 bits that Pillow does not read exactly; --convert RGB or L counts "
                          "8 bits of each")
    if mode == PALETTE:
        with decoding(place):
            image.load()        # decoding may reveal transparency
        return "RGBA" if "transparency" in image.info else "RGB"
    if mode == BILEVEL:
        return "L"
    if mode in CHANNELS or mode in NUMBERS:
        return mode
    raise place.error(f"has mode {mode}; expected {MODES}; see --convert")


def values(strip: Any, mode: str, unsigned: bool) -> NDArray[Any]:
    """Return the values of a strip of an image, converted to a mode."""
    if strip.mode == mode:
        array = np.asarray(strip)
        return array.view(np.uint32).astype(np.float64) if unsigned else array
    if strip.mode in NUMBERS:   # the upper 8 of 16 bits, as Pillow does for images with several channels
        high = (np.asarray(strip) >> 8).astype(np.uint8)
        return np.stack([high] * CHANNELS[mode], axis=-1)
    return np.asarray(strip.convert(mode))


def raw_modes(image: Any) -> list[str]:
    """Return the formats of the stored values, as far as they are known before decoding."""
    arguments = [tile[3] for tile in image.tile]
    firsts = [given[0] if isinstance(given, tuple) and given else given for given in arguments]
    return [first for first in firsts if isinstance(first, str)]


def is_sixteen(image: Any) -> bool:
    """Return whether an image has one channel of 16 bits, which is mode I for .pgm files."""
    return image.mode in SIXTEEN or (image.mode, image.format) == ("I", "PPM")


def is_reduced(image: Any) -> bool:
    """Return whether Pillow drops bits of the stored values, or scales values of more than 8 bits."""
    if image.mode in CHANNELS and any(";16" in mode for mode in raw_modes(image)):
        return True
    exact = 65535 if image.mode == "I" else 255     # the largest value of .pgm and .ppm files
    return any(tile[0].startswith("ppm") and 255 < tile[3][-1] != exact for tile in image.tile
               if isinstance(tile[3], tuple))
