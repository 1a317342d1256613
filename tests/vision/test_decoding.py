"""Photos as people see them: formats, colour modes, orientation, sizes, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from fedrec.errors import DataError
from fedrec.vision import decoders, decoding
from fedrec.vision.decoding import decode
from fedrec.vision.decoding_costs import bytes_needed
from fedrec.vision.structure.facts import Facts

Pixels = NDArray[np.uint8]


def _corners(height: int = 24, width: int = 40) -> Pixels:
    """A picture of four colours, none of whose turns looks like another."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 20, 20)
    pixels[: height // 2, width // 2 :] = (20, 250, 20)
    pixels[height // 2 :, : width // 2] = (20, 20, 250)
    pixels[height // 2 :, width // 2 :] = (240, 240, 20)
    return pixels


_UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}
"""How stored pixels are shown, after the EXIF standard's table of rows and columns."""


def _stored(kind: str, orientation: int, **options: Any) -> io.BytesIO:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    Image.fromarray(_corners()).save(content, kind, exif=exif.tobytes(), **options)
    content.seek(0)
    return content


@pytest.mark.parametrize("orientation", list(_UPRIGHT))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_a_photo_is_shown_upright_in_every_format(kind: str, orientation: int) -> None:
    found = np.asarray(decode(_stored(kind, orientation)))
    expected = _UPRIGHT[orientation](_corners())
    assert found.shape == expected.shape
    quarter = found.shape[0] // 4, found.shape[1] // 4
    for row in (quarter[0], 3 * quarter[0]):
        for column in (quarter[1], 3 * quarter[1]):
            assert np.abs(found[row, column].astype(int) - expected[row, column]).max() < 30


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1", "I;16", "RGBA"])
def test_tiffs_are_read(compression: str, mode: str) -> None:
    if compression == "jpeg" and mode not in ("RGB", "L"):
        compression = "raw"  # it has no such JPEG
    white = Image.new("RGB", (32, 24), (255, 255, 255))
    image = Image.new("I;16", white.size, 0xFF00) if mode == "I;16" else white.convert(mode)
    content = io.BytesIO()
    image.save(content, "TIFF", compression=compression)
    content.seek(0)
    assert np.asarray(decode(content)).min() >= 254


@pytest.mark.parametrize("mode", ["F", "I"])
def test_tables_of_numbers_are_no_photos(mode: str) -> None:
    content = io.BytesIO()
    Image.new(mode, (8, 8), 3).save(content, "TIFF")
    content.seek(0)
    with pytest.raises(DataError, match=f"of mode {mode}, as no photo's are"):
        decode(content)


def test_the_first_of_several_pictures_is_taken() -> None:
    for kind, options in (("MPO", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        content = io.BytesIO()
        Image.fromarray(_corners()).save(
            content, kind, save_all=True, append_images=[Image.new("RGB", (40, 24))], **options
        )
        content.seek(0)
        assert np.abs(np.asarray(decode(content)).astype(int) - _corners()).mean() < 12, kind


_TWO_RGB = b"\x12\x34" * 3 + b"\x56\x78" * 3


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(
    *, depth: int, colour: int, row: bytes, width: int, transparent: bytes = b"", height: int = 1
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + (_chunk(b"PLTE", bytes(range(12))) if colour == 3 else b"")
        + (_chunk(b"tRNS", transparent) if transparent else b"")
        + _chunk(b"IDAT", zlib.compress(b"\0" + row))
        + _chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (_png(depth=1, colour=0, row=b"\x40", width=2, transparent=b"\0\0"), [255, 255]),
        (_png(depth=2, colour=0, row=b"\x18", width=3, transparent=b"\0\1"), [0, 255, 170]),
        (_png(depth=4, colour=0, row=b"\x5a", width=2, transparent=b"\0\x0a"), [85, 255]),
        (_png(depth=8, colour=0, row=b"\x5a\x0a", width=2, transparent=b"\0\x0a"), [90, 255]),
        # Of two values with one high byte, one is transparent.
        (_png(depth=16, colour=0, row=b"\x12\x34\x12\x56", width=2, transparent=b"\x12\x34"), [255, 0x12]),
        (_png(depth=16, colour=0, row=b"\x12\x34\x12\x56", width=2), [0x12, 0x12]),
        (_png(depth=16, colour=4, row=b"\x12\x34\0\0\x56\x78\xff\xff", width=2), [255, 0x56]),
        (_png(depth=16, colour=2, row=_TWO_RGB, width=2, transparent=_TWO_RGB[:6]), [255, 0x56]),
        (_png(depth=8, colour=3, row=b"\0\1", width=2, transparent=b"\0"), [255, 3]),
    ],
    ids=["grey 1", "grey 2", "grey 4", "grey 8", "grey 16", "opaque 16", "alpha 16", "RGB 16", "palette"],
)
def test_transparency_is_laid_on_white_at_every_depth(picture: bytes, expected: list[int]) -> None:
    assert np.asarray(decode(io.BytesIO(picture)))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "1"])
def test_a_large_photo_is_reduced_by_the_mean_of_its_pixels(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 4000)
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", 1000)
    rng = np.random.default_rng(1)
    drawn = Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    image = drawn.convert("L").point(lambda v: v) if mode == "I;16" else drawn.convert(mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) << 8)
    content = io.BytesIO()
    image.save(content, "PNG")
    large = np.asarray(decode(io.BytesIO(content.getvalue())))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 10**9)
    whole = np.asarray(decode(io.BytesIO(content.getvalue()))).astype(float)
    means = whole[:88].reshape(22, 4, 30, 4, 3).mean(axis=(1, 3))
    assert large.shape == (23, 30, 3)
    assert np.abs(large[:22] - means).max() <= 1
    monkeypatch.setattr(decoding, "MAX_PIXELS", 4000)
    with pytest.raises(DataError, match="over the limit of 4000"):
        decode(io.BytesIO(content.getvalue()), whole=True)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIF"])
def test_a_large_photo_of_a_library_is_reduced_without_pillows_copy(
    kind: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    drawn = Image.fromarray(np.random.default_rng(2).integers(0, 256, (9, 13, 3), dtype=np.uint8))
    picture = drawn.resize((130, 90)).convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    content, exif = io.BytesIO(), Image.Exif()
    # Of a HEIF file, EXIF says nothing of the orientation.
    exif[0x0112] = 1 if kind == "HEIF" else 4
    picture.save(content, kind, exif=exif)
    plain = np.asarray(decode(content))
    assert plain.shape == (90, 130, 3)
    loaded: list[str] = []
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", 1000)
    monkeypatch.setattr(ImageFile, "load", lambda self: loaded.append(kind))
    assert np.array_equal(np.asarray(decode(content)), plain)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 4000)
    reduced = np.asarray(decode(content))
    # The two rows that are left over are at the photo's own end.
    of_pixels, of_means = ((0, 88), (0, 22)) if kind == "HEIF" else ((2, 90), (1, 23))
    means = plain.astype(float)[slice(*of_pixels), :128].reshape(22, 4, 32, 4, 3).mean(axis=(1, 3))
    assert reduced.shape == (23, 33, 3)
    assert np.abs(reduced[slice(*of_means), :32] - means).max() <= 1
    assert not loaded


@pytest.mark.parametrize(
    ("kind", "mode"), [("WEBP", "RGBA"), ("AVIF", "RGB"), ("HEIC", "RGB"), ("PNG", "RGBA")]
)
def test_two_hundred_million_pixels_are_within_the_limit(kind: str, mode: str) -> None:
    opened = cast("ImageFile", SimpleNamespace(width=16_320, height=12_240, mode=mode, tile=[]))
    size = 16_320, 12_240
    needed = bytes_needed(opened, kind, full_size=size, facts=Facts(), upright=True)
    assert needed <= decoding.MOST_LIMIT
    assert decoding.LEAST_LIMIT <= decoding.most_bytes() <= decoding.MOST_LIMIT


@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_jpeg_is_decoded_at_a_smaller_size(
    progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 20_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # the process's own limit is about other pictures
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_corners(240, 400)).save(content, "JPEG", progressive=progressive, exif=exif)
    found = decode(io.BytesIO(content.getvalue()))
    assert found.size == (60, 100)
    assert np.abs(np.asarray(found)[25, 15].astype(int) - (20, 20, 250)).max() < 30
    assert decode(io.BytesIO(content.getvalue()), least_side=30).size == (30, 50)
    if progressive:
        # All its coefficients are in memory: 1.5 for a pixel, of two bytes each.
        monkeypatch.setattr(decoding, "most_bytes", lambda: 240 * 400 * 3)
        with pytest.raises(DataError, match=r"of this kind of JPEG take .*\(\d+ million pixels\)"):
            decode(content)


@pytest.mark.parametrize("side", [40_000, 70_000, 2**31 - 1])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP"])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(kind: str, side: int) -> None:
    small = io.BytesIO()
    Image.new("RGB", (4, 4)).save(small, kind)
    content = bytearray(small.getvalue())
    if kind == "PNG":
        content = bytearray(_png(depth=8, colour=2, row=b"", width=side, height=side))
    elif kind == "GIF":
        content[6:10] = struct.pack("<HH", min(side, 65535), min(side, 65535))
    elif kind == "BMP":
        content[18:26] = struct.pack("<ii", side, side)
    else:
        for tag in (256, 257):
            place = content.index(struct.pack("<HHI", tag, 4, 1))
            content[place + 8 : place + 12] = struct.pack("<I", side)
    with pytest.raises(DataError, match=r"limit|known format"):
        decode(io.BytesIO(bytes(content)))


def test_damaged_metadata_is_no_reason_to_drop_a_photo() -> None:
    content = io.BytesIO()
    Image.fromarray(_corners()).save(content, "JPEG", exif=b"Exif\0\0II*\0garbage that is no directory")
    assert decode(content).size == (40, 24)


def test_a_photo_whose_decoder_is_missing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    decoders.why_not_read.cache_clear()
    with pytest.raises(DataError, match=r"install fedrec\[heic\]"):
        decode(tmp_path / "x.jpg")
    decoders.why_not_read.cache_clear()


def test_a_file_and_its_content_decode_alike(tmp_path: Path) -> None:
    """Training reads files, and serving mostly what was sent to it."""
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        content = _stored(kind, 5)
        (tmp_path / "x").write_bytes(content.getvalue())
        assert decode(tmp_path / "x").tobytes() == decode(content).tobytes()
