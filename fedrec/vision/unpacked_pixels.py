"""Take the pixels of an AVIF, HEIC or WebP photo as its library has unpacked them, without Pillow's copy.

These libraries unpack a photo as a whole. Pillow then holds it once more, in four bytes a pixel, which a
large photo has no need of: it is reduced strip by strip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.ImageFile import ImageFile

from fedrec.errors import DataError


@dataclass(frozen=True)
class UnpackedPixels:
    """A photo's pixels in rows.

    Attributes:
        data: all rows.
        stride: bytes from one row to the next.
        mode: Pillow's mode of a picture that is made of them.
        raw: how they are stored, as Pillow names it.
        size: width and height.
    """

    data: memoryview
    stride: int
    mode: str
    raw: str
    size: tuple[int, int]

    def rows(self, top: int, bottom: int) -> Image.Image:
        """Copy rows into a picture.

        Args:
            top: the first.
            bottom: the one after the last.

        Returns:
            The picture.
        """
        part = self.data[top * self.stride : bottom * self.stride]
        size = self.size[0], bottom - top
        return Image.frombytes(self.mode, size, part, "raw", self.raw, self.stride)


def unpack(opened: ImageFile, kind: str) -> UnpackedPixels | None:
    """Unpack a photo that is open and wasn't decoded before.

    Args:
        opened: the photo. It can't be decoded by Pillow afterwards.
        kind: its format.

    Returns:
        Its pixels; None for a format that Pillow decodes itself.

    Raises:
        DataError: it has no picture.
    """
    size = opened.size
    if kind == "AVIF":
        frame = _decoder(opened).get_frame(0)
        return _packed(frame[0], mode=opened.mode, raw=opened.mode, size=size)
    if kind == "WEBP":
        found = _decoder(opened).get_next()
        if found is None:
            raise DataError("it is damaged: copy or download it again, or save it anew as JPEG or PNG")
        return _packed(found[0], mode=opened.mode, raw=str(getattr(opened, "rawmode", "RGBA")), size=size)
    if kind == "HEIC":
        picture = opened._heif_file[opened.tell()]  # type: ignore[attr-defined]  # no public name gives it
        data = memoryview(picture.data)
        # Its size is known for certain only now.
        return UnpackedPixels(data, picture.stride, picture.mode, picture.mode, picture.size)
    return None


def _decoder(opened: ImageFile) -> Any:
    """Take the library's decoder out of a photo, so that it goes with its copies once it isn't used."""
    decoder = opened._decoder  # type: ignore[attr-defined]  # no public name gives it
    opened._decoder = None  # type: ignore[attr-defined]
    return decoder


def _packed(data: bytes, *, mode: str, raw: str, size: tuple[int, int]) -> UnpackedPixels:
    return UnpackedPixels(memoryview(data), size[0] * len(raw), mode, raw, size)
