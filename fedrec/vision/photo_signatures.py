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

_NOT_READ: Final = frozenset(
    ("JPEG XL", "JPEG 2000", "JPEG XR", "PSD", "XCF", "RAW", "SVG", "ICO", "ICNS", "PNM", "TGA", "PCX", "QOI")
) | {"OpenEXR", "Radiance HDR", "DDS", "DICOM", "FITS", "DjVu", "BPG", "PostScript", "WMF"}

PICTURE_FORMATS: Final = READ_FORMATS | _NOT_READ
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
    (b"FOVb", "RAW"),
    (b"\0MRM", "RAW"),
    (b"II\x1a\0\0\0HEAPCCDR", "RAW"),
    (b"II\xbc", "JPEG XR"),
    (b"8BPS", "PSD"),
    (b"gimp xcf", "XCF"),
    (b"\0\0\1\0", "ICO"),
    (b"icns", "ICNS"),
    (b"\x0a\5\1", "PCX"),
    (b"qoif", "QOI"),
    (b"v/1\1", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"DDS |", "DDS"),
    (b"SIMPLE  =", "FITS"),
    (b"AT&TFORM", "DjVu"),
    (b"BPG\xfb", "BPG"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"%PDF-", "PDF"),
    (b"PK\3\4", "archive"),
    (b"PK\5\6", "archive"),
    (b"Rar!\x1a\x07", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "archive"),
    (b"\x1f\x8b", "archive"),
    (b"\xfd7zXZ\0", "archive"),
    (b"\x28\xb5\x2f\xfd", "archive"),
    (b"\4\x22\x4d\x18", "archive"),
    (b"MSCF\0", "archive"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video"),
    (b"FLV\1", "video"),
    (b"\0\0\1\xba", "video"),
    (b"\0\0\1\xb3", "video"),
)
_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RAW_ENDINGS: Final = (".dng", ".nef", ".arw", ".pef", ".sr2", ".srw", ".cr2", ".3fr", ".iiq", ".nrw", ".raw")
_BMP_HEADERS: Final = frozenset({12, 40, 52, 56, 64, 108, 124})
_HEIF: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF: Final = frozenset({b"avif", b"avis"})
_HEIF_CONTAINER: Final = frozenset({b"mif1", b"msf1", b"mif2"})
_QUICKTIME: Final = frozenset({b"wide", b"moov", b"mdat", b"skip", b"pnot"})
_FURTHER_IN: Final = ((257, b"ustar", "archive"), (128, b"DICM", "DICOM"), (40, b" EMF", "WMF"))
_PNM: Final = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s|P7\nWIDTH ")
_PACKED: Final = re.compile(rb"BZh[1-9]1AY|..-lh[0-9a-z]-", re.DOTALL)
_TGA: Final = re.compile(rb".[\0\1][\1-\3\x09-\x0b]", re.DOTALL)
_PACKETS: Final = ((0, 188), (4, 192))
"""Where the marks of an MPEG stream are; cameras put a time of 4 bytes before each."""
_SVG: Final = re.compile(rb"<svg[\s>]", re.IGNORECASE)


def format_of(head: bytes, *, name: str = "") -> str | None:
    """Tell a file's format by its beginning.

    Args:
        head: its first ``HEAD_BYTES`` bytes.
        name: its name, which tells a camera's raw data from other TIFF files, and TGA from anything.

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
    for place, mark, kind in _FURTHER_IN:
        if head[place:].startswith(mark):
            return kind
    if _PACKED.match(head):
        return "archive"
    if head[4:8] in _QUICKTIME or _is_stream(head):
        return "video"
    if _PNM.match(head):
        return "PNM"
    if name.lower().endswith(".tga") and _TGA.match(head):
        return "TGA"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" and _SVG.search(head):
        return "SVG"
    return None


def _is_stream(head: bytes) -> bool:
    return any(head[start::step][:2] == b"GG" and b"\0" in head for start, step in _PACKETS)


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
