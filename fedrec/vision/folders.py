"""Decode one photo of a folder as people see it."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final, Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from fedrec.errors import DataError

MAX_PIXELS: Final = 64_000_000
"""Pictures with more pixels than this are not decoded (a small file can unpack to gigabytes)."""

# Formats that are decoded, whatever the file's name says. Pillow's other decoders, some of which start
# other programs, are never tried on an untrusted file.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF")

Layout = Literal["class", "product"]


def decode(
    source: Path | BinaryIO, *, least_side: int | None = None, most_pixels: int | None = None
) -> Image.Image:
    """Decode one picture as people see it.

    EXIF orientation is applied, transparency is laid on white, and grey, palette, CMYK and 16-bit pictures
    become 8-bit RGB. The first frame of an animation is taken. Colour profiles are ignored.

    Args:
        source: the file, or its content as a file that is open for reading.
        least_side: a short side in pixels that is enough: a JPEG may be decoded at a half, a quarter or an
            eighth of its size then, in a fraction of the time. None for all pixels.
        most_pixels: a picture with more is refused before it is decoded; None for ``MAX_PIXELS``.

    Returns:
        The picture in mode RGB.

    Raises:
        DataError: the file is not a whole picture of a known format, or has too many pixels; the text is a
            reason of one line, without the path.
    """
    most = MAX_PIXELS if most_pixels is None else most_pixels
    try:
        with Image.open(source, formats=_FORMATS) as opened:
            if opened.width * opened.height > most:
                raise DataError(f"{opened.width} x {opened.height} pixels are over the limit of {most}")
            if least_side is not None:
                opened.draft(None, (least_side, least_side))
            opened.load()
            return _to_rgb(ImageOps.exif_transpose(opened))
    except DataError:
        raise
    # Decoders of broken files raise nearly anything: OSError, SyntaxError, struct.error, ValueError.
    except Exception as error:
        raise DataError(_reason(error, source)) from error


def _reason(error: Exception, source: Path | BinaryIO) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    shown = str(error)
    if isinstance(source, Path):
        shown = shown.replace(str(source), source.name)
    lines = shown.splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'cannot be decoded'}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: "I;16" in its byte orders, or "I" in older Pillow; keep the high byte.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")
