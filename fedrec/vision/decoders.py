"""Find the decoder of each photo format, and say what has to be installed where there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import BinaryIO, Final, cast

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)
from PIL.ImageFile import ImageFile

from fedrec.errors import DataError
from fedrec.vision.photo_signatures import PICTURE_FORMATS, READ_FORMATS

# Pillow's names of the formats. Its other decoders, some of which start other programs, are never tried on an
# untrusted file.
_DECODERS: Final = {
    "JPEG": JpegImagePlugin.JpegImageFile.format,
    "PNG": PngImagePlugin.PngImageFile.format,
    "WEBP": WebPImagePlugin.WebPImageFile.format,
    "BMP": BmpImagePlugin.BmpImageFile.format,
    "GIF": GifImagePlugin.GifImageFile.format,
    "TIFF": TiffImagePlugin.TiffImageFile.format,
    "AVIF": AvifImagePlugin.AvifImageFile.format,
    "HEIC": "HEIF",
}


@cache
def why_not_read(kind: str) -> str | None:
    """Say why photos of a format are not read on this machine.

    Args:
        kind: the format, one of ``PICTURE_FORMATS``.

    Returns:
        None where they are read; else the reason, in one line, and what to do.
    """
    if kind not in READ_FORMATS:
        return f"{kind} pictures are not read: save it as JPEG or PNG"
    if kind == "HEIC" and find_spec("pillow_heif") is None:
        return "HEIC photos are read with an extra: install fedrec[heic], or save it as JPEG"
    if kind == "AVIF" and not features.check("avif"):
        return "AVIF photos need Pillow 11.3 or later: upgrade pillow, or save it as JPEG"
    return None


def open_photo(file: BinaryIO, kind: str | None) -> ImageFile:
    """Open a photo without decoding it.

    Pillow's own ``Image.open`` isn't used: its limit on pixels belongs to the whole process, and is below the
    photos that a phone takes.

    Args:
        file: the photo, open for reading at its beginning.
        kind: its format, as its first bytes tell it; None for an unknown one.

    Returns:
        The photo, which knows its size.

    Raises:
        DataError: photos of this format are not read here.
    """
    if kind not in PICTURE_FORMATS:
        raise DataError("not a picture of a known format")
    reason = why_not_read(kind)
    if reason is not None:
        raise DataError(reason)
    return _factory(kind)(file, "")


@cache
def _factory(kind: str) -> Callable[[BinaryIO, str], ImageFile]:
    name = _DECODERS[kind]
    if name == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    return cast("Callable[[BinaryIO, str], ImageFile]", Image.OPEN[name][0])
