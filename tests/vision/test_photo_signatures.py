from __future__ import annotations

import io

import pytest
from PIL import Image

from fedrec.vision.photo_signatures import HEAD_BYTES, PICTURE_FORMATS, READ_FORMATS, format_of


@pytest.mark.parametrize(
    ("written", "told"),
    [
        *((name, name) for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "ICO")),
        ("MPO", "JPEG"),
        ("JPEG2000", "JPEG 2000"),
    ],
)
def test_what_pillow_writes_is_told_by_its_first_bytes(written: str, told: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (1, 2, 3)).save(file, written)
    assert format_of(file.getvalue()[:HEAD_BYTES]) == told
    assert told in PICTURE_FORMATS


def test_every_format_that_is_read_is_a_picture() -> None:
    assert READ_FORMATS < PICTURE_FORMATS


def box(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + b"\0\0\0\0" + b"".join(compatible)
    return (len(body) + 4).to_bytes(4, "big") + body + b"\0\0\0\x08free" * 9


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (box(b"heic", b"mif1", b"heic"), "HEIC"),
        (box(b"avif", b"mif1", b"miaf"), "AVIF"),
        (box(b"mif1", b"miaf", b"avif"), "AVIF"),
        (box(b"mif1", b"mif1", b"heic"), "HEIC"),
        (box(b"mp42", b"isom", b"mp42"), "video"),
        (box(b"qt  "), "video"),
        (b"\0\0\0\x18ftyphei", "video"),  # cut off in mid-brand
        (b"%PDF-1.7\n", "PDF"),
        (b"PK\3\4\x14\0", "archive"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="x">', "SVG"),
        (b"<html><body>not found</body></html>", None),
        (b"BMW is a text that begins like a bitmap", None),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"hello", None),
        (b"\0" * 512, None),
        (b"", None),
    ],
)
def test_phones_photos_films_and_what_is_no_picture(head: bytes, told: str | None) -> None:
    assert format_of(head) == told


def test_a_cameras_raw_data_is_no_tiff_photo() -> None:
    head = b"II*\0\x10\0\0\0CR\2\0"
    assert format_of(head, name="x.tif") == "RAW"
    assert format_of(b"MM\0*\0\0\0\x08", name="IMG_1.NEF") == "RAW"
    assert format_of(b"MM\0*\0\0\0\x08", name="IMG_1.jpg") == "TIFF"
