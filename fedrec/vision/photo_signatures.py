"""Tell by its first bytes what a file is: a photo, a picture that isn't read, or something else.

Names say nothing: image servers write ``x.jpg_640x640q90``, exports have no ending, and a PNG is called
``x.jpg``. A decoder has the last word when the photo is read; the first bytes decide what is worth reading.
"""

from __future__ import annotations

import re
from typing import Final

HEAD_BYTES: Final = 512
"""How many bytes of a file :func:`format_of` needs; fewer are fine where the file is shorter."""

READ_FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIC"})
"""Formats of photos that are decoded; of some, only with a package that may be missing (see `decoders`)."""

PICTURE_FORMATS: Final = frozenset({*READ_FORMATS, "JPEG XL", "JPEG 2000", "PSD", "RAW", "SVG", "ICO"})
"""All formats of pictures that are recognised. Those that aren't read are named to their owner."""

# A JPEG with several pictures (MPO) begins like any other JPEG.
_BEGINNINGS: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"FUJIFILMCCD-RAW", "RAW"),
    (b"IIRO", "RAW"),
    (b"IIRS", "RAW"),
    (b"IIU\0", "RAW"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"%PDF-", "PDF"),
    (b"PK\3\4", "archive"),
    (b"PK\5\6", "archive"),
    (b"Rar!\x1a\x07", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "archive"),
    (b"\x1f\x8b", "archive"),
    (b"\x1aE\xdf\xa3", "video"),
)
_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RAW_ENDINGS: Final = (".dng", ".nef", ".arw", ".pef", ".sr2", ".srw", ".cr2", ".3fr", ".iiq", ".nrw", ".raw")
_BMP_HEADERS: Final = frozenset({12, 40, 52, 56, 64, 108, 124})
_HEIF: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF: Final = frozenset({b"avif", b"avis"})
_HEIF_CONTAINER: Final = frozenset({b"mif1", b"msf1", b"mif2"})
_SVG: Final = re.compile(rb"<svg[\s>]", re.IGNORECASE)


def format_of(head: bytes, *, name: str = "") -> str | None:
    """Tell a file's format by its beginning.

    Args:
        head: its first ``HEAD_BYTES`` bytes.
        name: its name, which tells a camera's raw data from other TIFF files, and nothing else.

    Returns:
        One of ``PICTURE_FORMATS``; "PDF", "archive" or "video", which are worth naming; None for the rest.
    """
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    if head[:4] in _TIFF:
        # Camera makers keep raw data in TIFF files whose first picture is a thumbnail.
        return "RAW" if head[8:10] == b"CR" or name.lower().endswith(_RAW_ENDINGS) else "TIFF"
    if head[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "video"}.get(head[8:12])
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" and _SVG.search(head):
        return "SVG"
    return None


def _iso_media(head: bytes) -> str:
    """Tell phones' photos from films: both begin with a box of the brands that the file conforms to."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))]
    if brands[0] == b"crx ":
        return "RAW"
    # The first brand decides; a general container says by the others what is in it.
    for brand in brands:
        if brand in _AVIF:
            return "AVIF"
        if brand in _HEIF:
            return "HEIC"
    return "HEIC" if brands[0] in _HEIF_CONTAINER else "video"
