"""Encoded pictures to pixels, with Pillow (`pip install 'edgeward[images]'`), which is imported when the first one comes.

Pictures come from outside: only the formats in `FORMATS` are tried, the size that a header claims is held against `PIXELS`
before memory is asked for, and whatever is wrong with the bytes is an `InvalidInput`.
"""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fleet_protocol.processing import Colour
from runtime.errors import DecoderMissing, InvalidInput

Pixels = NDArray[np.uint8]
"""uint8[height, width, channels]."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM")
"""GIF and WEBP: their first frame."""
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm")
"""Of files that hold them."""
PIXELS: Final = 64_000_000
"""Of one picture, whatever its colours."""
ENCODED_BYTES: Final = 64 * 1024 * 1024
_DEEP: Final = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def decode(content: bytes | bytearray | memoryview, colour: Colour) -> Pixels:
    """The picture upright, with 3 channels, or 1 for grey (ITU-R 601 luma). Raises `InvalidInput` or `DecoderMissing`."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise DecoderMissing("Decoding a picture needs Pillow. Install it with: pip install 'edgeward[images]'") from error
    if len(content) > ENCODED_BYTES:
        raise InvalidInput(f"The picture has {len(content)} bytes; at most {ENCODED_BYTES} are decoded.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            _check(picture)
            return _pixels(ImageOps.exif_transpose(picture), colour)
    except InvalidInput:
        raise
    except UnidentifiedImageError as error:
        raise InvalidInput(f"The bytes are no picture of a known format: {', '.join(FORMATS)}.") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever Pillow's decoders raise: OSError, SyntaxError, ValueError, struct.error, …
        raise InvalidInput(f"The picture cannot be decoded: {str(error) or type(error).__name__}.") from error


def _check(picture: Any) -> None:  # noqa: ANN401 - Pillow is imported only where it is needed
    width, height = picture.size
    if width * height > PIXELS:
        raise InvalidInput(f"The picture is {width} × {height} pixels; at most {PIXELS} in all are decoded.")
    if picture.mode in _DEEP:
        raise InvalidInput(f"The picture has more than 8 bits a channel ({picture.mode}); store it with 8.")


def _pixels(picture: Any, colour: Colour) -> Pixels:  # noqa: ANN401
    pixels = np.asarray(picture.convert("L" if colour == "grey" else "RGB"))
    return of_colour(pixels[..., np.newaxis] if pixels.ndim == 2 else pixels, colour)


def of_colour(pixels: Pixels, colour: Colour) -> Pixels:
    """RGB or grey pixels as `colour` has them, writing nothing into them."""
    return pixels[..., ::-1] if colour == "bgr" else pixels


def from_array(array: NDArray[Any], colour: Colour) -> Pixels:
    """A decoded picture, uint8[height, width], [height, width, 1] or RGB [height, width, 3], as `decode` gives it.

    Raises `InvalidInput`.
    """
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size:
        raise InvalidInput(f"A picture is {array.dtype.name}{list(array.shape)}; wanted uint8[height, width, 3] in RGB.")
    grey = array.ndim == 2 or array.shape[2] == 1
    if not grey and array.shape[2] != 3:
        raise InvalidInput(f"A picture has {array.shape[2]} channels; wanted 3 (RGB) or 1.")
    if array.shape[0] * array.shape[1] > PIXELS:
        raise InvalidInput(f"The picture is {array.shape[1]} × {array.shape[0]} pixels; at most {PIXELS} in all are taken.")
    flat = array.reshape(*array.shape[:2], -1)
    if colour == "grey":
        return flat if grey else _luma(flat)
    return of_colour(np.repeat(flat, 3, axis=2) if grey else flat, colour)


def _luma(pixels: Pixels) -> Pixels:
    """Pillow's own: 16-bit fixed-point ITU-R 601-2."""
    weights = np.array([19595, 38470, 7471], np.uint32)
    return ((pixels.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)[..., np.newaxis]
