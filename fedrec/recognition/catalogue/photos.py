"""Read a photo's file: its hash, and its picture at a size that every model is content with."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from fedrec._internal.files import read_regular
from fedrec.errors import ConfigError, DataError
from fedrec.vision.decoding import decode

LARGEST_FILE: Final = 1 << 26
_WORKING_SIDE: Final = 512
"""Models take at most this many pixels a side; larger photos are reduced as they are decoded."""


@dataclass(frozen=True)
class Crop:
    """A region of a photo, in pixels from its upper left corner, as people see it."""

    left: int
    top: int
    width: int
    height: int


def parse_crop(text: str) -> Crop:
    """Read a region such as ``10,20,300,400``: x, y, width, height; ``ConfigError`` if it is none."""
    parts = text.split(",")
    if len(parts) == 4 and all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        crop = Crop(*(int(part) for part in parts))
        if crop.width and crop.height:
            return crop
    raise ConfigError(f"--crop {text[:40]!r} is no x,y,width,height in pixels, such as 10,20,300,400")


def read_file(path: Path) -> bytes:
    """Read a photo's file.

    Args:
        path: a regular file, or a link to one.

    Returns:
        Its bytes.

    Raises:
        DataError: it is missing, of another kind, or too large; the text is one line without the path.
    """
    try:
        data = read_regular(path, most=LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise DataError(getattr(error, "strerror", None) or "can't be opened") from None
    if len(data) > LARGEST_FILE:
        raise DataError(f"has more than {LARGEST_FILE >> 20} MiB")
    return data


def stored_text(path: Path | str) -> str:
    """Return a path as a catalogue keeps it; ``DataError`` if it isn't text that can be shown."""
    text = str(path)
    if not text.isprintable():
        raise DataError("its path holds a character that can't be shown: rename it")
    return text


def sha256_of(data: bytes) -> bytes:
    """Return the SHA-256 of a photo's file."""
    return hashlib.sha256(data).digest()


def picture_of(data: bytes, crop: Crop | None = None) -> Image.Image:
    """Decode a photo as people see it, reduced where it is larger than models need.

    Args:
        data: the file's content.
        crop: the region to keep; None for the whole photo.

    Returns:
        The picture in mode RGB.

    Raises:
        DataError: it is no whole picture of a known format, or has too many pixels.
        ConfigError: the region isn't inside the photo.
    """
    picture = decode(
        io.BytesIO(data), least_side=_WORKING_SIDE if crop is None else None, whole=crop is not None
    )
    if crop is not None:
        right, bottom = crop.left + crop.width, crop.top + crop.height
        if right > picture.width or bottom > picture.height:
            raise ConfigError(f"--crop leaves the photo, which has {picture.width} x {picture.height} pixels")
        picture = picture.crop((crop.left, crop.top, right, bottom))
    factor = min(picture.size) // _WORKING_SIDE
    return picture.reduce(factor) if factor > 1 else picture
