"""Convert a decoded picture of any colour mode to 8-bit RGB, as people see it."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from fedrec.errors import DataError

_WITH_ALPHA: Final = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
_PLAIN: Final = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})
_WHITE: Final = 255


def scale_transparent_colour(image: Image.Image, *, raw: str) -> None:
    """Bring the colour that a PNG declares transparent to the scale of the decoded pixels.

    Pillow keeps it as the file has it, but scales grey of 2 and 4 bits to 8, and of 16-bit RGB keeps the high
    bytes.

    Args:
        image: the opened picture, changed in place.
        raw: how its pixels are stored, as Pillow's decoder names it.
    """
    colour = image.info.get("transparency")
    if raw in {"L;2", "L;4"} and isinstance(colour, int):
        image.info["transparency"] = colour * _WHITE // (3 if raw == "L;2" else 15)
    elif raw == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded picture.

    Transparency is laid on white. Of 16-bit grey, the high byte is kept.

    Args:
        image: the picture.

    Returns:
        It in mode RGB.

    Raises:
        DataError: the mode is none of a photo, such as 32-bit numbers.
    """
    if image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.mode in _WITH_ALPHA or (image.mode in _PLAIN and "transparency" in image.info):
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (_WHITE, _WHITE, _WHITE, _WHITE))
        return Image.alpha_composite(white, layered).convert("RGB")
    if image.mode in _PLAIN:
        return image.convert("RGB")
    raise DataError(f"its pixels are of mode {image.mode}, as no photo's are: save it as JPEG or PNG")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image.convert("I"))
    grey = (values >> 8).clip(0, _WHITE).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = _WHITE
    return Image.fromarray(grey).convert("RGB")
