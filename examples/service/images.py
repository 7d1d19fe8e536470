"""Decodes the body of a request into images."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from examples.service.model import SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS = SIDE * SIDE
# With this many images, the arrays between the layers are large enough for a second thread.
MOST_IMAGES = 512
MOST_BYTES = MOST_IMAGES * PIXELS
RAW, PNG = "application/octet-stream", "image/png"


def decode(body: bytes, content_type: str) -> NDArray[np.uint8]:
    """Return the images in a body.

    Parameters
    ----------
    body : bytes
    content_type : str
        `RAW` for any number of images of 64 bytes each, row by row; `PNG` for one 8-bit grey image.

    Returns
    -------
    ndarray of uint8, shape (N, 8, 8, 1)
        0 is paper, and 255 is ink.

    Raises
    ------
    ValueError
        If the body is invalid.
    """
    return decode_png(body) if content_type == PNG else decode_raw(body)


def decode_raw(body: bytes) -> NDArray[np.uint8]:
    """Return images from raw bytes."""
    if not body or len(body) % PIXELS:
        raise ValueError(f"expected {PIXELS} bytes for each image, {SIDE} rows of {SIDE}; got {len(body)} bytes")
    return np.frombuffer(body, np.uint8).reshape(-1, SIDE, SIDE, 1)


def decode_png(body: bytes) -> NDArray[np.uint8]:
    """Return the image in a PNG."""
    try:
        image = open_png(body)
        size, mode = image.size, image.mode
        pixels = None
        # Checked before decompression, because a small file can claim to be a very large image.
        if (size, mode) == ((SIDE, SIDE), "L"):
            image.verify()  # checks the checksums, which decoding does not; the object cannot be read afterwards
            pixels = np.array(open_png(body))
    except UnidentifiedImageError:
        raise ValueError(f"expected a PNG; got {len(body)} bytes of another format") from None
    except Exception as error:  # the decoder raises many types for a damaged file
        raise ValueError(f"the PNG cannot be decoded: {error}") from error
    if pixels is None:
        raise ValueError(f"expected a PNG of {SIDE}x{SIDE} pixels in 8-bit grey (mode L); got {size[0]}x{size[1]} "
                         f"pixels in mode {mode}")
    return pixels[np.newaxis, :, :, np.newaxis]


def open_png(body: bytes) -> Image.Image:
    """Open a PNG and read its header."""
    return Image.open(io.BytesIO(body), formats=["PNG"])
