"""Files of a few bytes that would keep a decoder busy for minutes, or make it take gigabytes, are refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from fedrec.errors import DataError
from fedrec.vision import decoding, decoding_costs
from fedrec.vision.decoding import decode
from fedrec.vision.structure.av1_frames import av1_frames
from fedrec.vision.structure.coded_pictures import check_hevc
from fedrec.vision.structure.iso_boxes import parts
from fedrec.vision.structure.reading import read_structure


def _written(kind: str, mode: str = "RGB", *, side: int = 64, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert(mode).save(content, kind, **options)
    return content.getvalue()


def _scans(jpeg: bytes) -> int:
    return read_structure(io.BytesIO(jpeg), "JPEG").passes


def _segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def test_the_scans_of_a_jpegs_first_picture_are_counted() -> None:
    progressive = _written("JPEG", progressive=True)
    baseline = _written("JPEG")
    # libjpeg's script has ten scans for colour, and six for grey.
    assert _scans(progressive) == 10
    assert _scans(_written("JPEG", "L", progressive=True)) == 6
    assert _scans(baseline) == _scans(_written("JPEG", restart_marker_rows=1)) == 1
    assert not read_structure(io.BytesIO(baseline), "JPEG").whole_in_memory
    assert read_structure(io.BytesIO(progressive), "JPEG").whole_in_memory
    # Neither a thumbnail's scans count, nor what follows the picture.
    assert _scans(baseline[:2] + _segment(0xE2, progressive) + baseline[2:] + progressive) == 1
    assert _scans(baseline + b"\xff\xda\0\2" * 1000) == 1


def _with_scans(count: int) -> bytes:
    jpeg = _written("JPEG", "L", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * count + jpeg[-2:]


def test_a_jpeg_of_countless_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode(io.BytesIO(_with_scans(95))).size == (64, 64)
    with pytest.raises(DataError, match="more than 100 scans"):
        decode(io.BytesIO(_with_scans(96)))
    monkeypatch.setattr(decoding_costs, "MOST_PASSES_OF_PIXELS", 64 * 64 * 99)
    with pytest.raises(DataError, match="100 scans of 64 x 64 pixels take too long"):
        decode(io.BytesIO(_with_scans(95)))


def _entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value)


def _tiff(*entries: bytes, data: bytes = b"") -> bytes:
    """A picture of 64 x 64 grey pixels in one deflated tile or strip; its data is at 512."""
    held = [
        _entry(256, 4, 1, 64),
        _entry(257, 4, 1, 64),
        _entry(258, 3, 1, 8),
        _entry(259, 3, 1, 8),
        _entry(262, 3, 1, 1),
        *entries,
    ]
    table = struct.pack("<H", len(held)) + b"".join(held) + bytes(4)
    return (b"II*\0\x08\0\0\0" + table).ljust(512, b"\0") + (data or zlib.compress(bytes(64 * 64))).ljust(
        200, b"\0"
    )


def _tile(width: int, height: int) -> list[bytes]:
    return [
        _entry(322, 4, 1, width),
        _entry(323, 4, 1, height),
        _entry(324, 4, 1, 512),
        _entry(325, 4, 1, 200),
    ]


_STRIP = [_entry(273, 4, 1, 512), _entry(278, 4, 1, 2**24), _entry(279, 4, 1, 200)]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (_tile(26_704, 26_704), "tiles hold many times its pixels"),
        (_tile(2**20, 16), "no possible size"),
        (_tile(0, 64), "no possible size"),
        # Of two sizes, Pillow takes the last, and libtiff the first.
        ([_entry(322, 4, 1, 26_704), *_tile(64, 64)], r"tag 322\) is told twice"),
        ([*_STRIP, _entry(256, 4, 1, 2**20)], r"tag 256\) is told twice"),
        ([_entry(322, 11, 1, 64), *_tile(64, 64)[1:]], "told in no known way"),
        ([_entry(273, 3, 1500, 512), *_STRIP[1:]], "more strips or tiles than its size needs"),
        ([*_tile(64, 64)[:2], _entry(324, 3, 1500, 512), _entry(325, 4, 1, 200)], "more strips or tiles"),
        ([*_STRIP, *(_entry(40_000 + n, 1, 400, 0) for n in range(3))], "more data than it has"),
        ([*_STRIP, _entry(0x8769, 4, 1, 8)] * 2, "told twice"),
        ([*_STRIP, _entry(0x8769, 4, 1, 8)], "more than 8 directories"),
        ([*_STRIP, _entry(0x8769, 1, 1, 8)], "told in no known way"),
    ],
)
def test_a_tiff_whose_layout_costs_more_than_its_pixels_is_refused(entries: list[bytes], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode(io.BytesIO(_tiff(*entries) + bytes(3000 if "strips" in reason else 0)))


def test_tiles_and_strips_of_photos_are_read() -> None:
    assert decode(io.BytesIO(_tiff(*_STRIP))).size == (64, 64)
    tile = zlib.compress(bytes(256 * 256))
    assert decode(io.BytesIO(_tiff(*_tile(256, 256), data=tile))).size == (64, 64)
    assert read_structure(io.BytesIO(_tiff(*_tile(256, 256))), "TIFF").unit_bytes == 256 * 256
    with pytest.raises(DataError, match="byte order"):
        decode(io.BytesIO(b"MM\0+\0\x08\0\0" + bytes(64)))


def test_a_photo_that_takes_much_memory_is_decoded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    content = _tiff(*_tile(256, 256), data=zlib.compress(bytes(256 * 256)))
    monkeypatch.setattr(decoding, "most_bytes", lambda: 5 * 64 * 64 + 256 * 256 - 1)
    with pytest.raises(DataError, match="over the limit"):
        decode(io.BytesIO(content))
    monkeypatch.setattr(decoding, "most_bytes", lambda: 5 * 64 * 64 + 256 * 256)
    monkeypatch.setattr(decoding, "LARGE_BYTES", 5 * 64 * 64 + 256 * 256 - 1)
    taken: list[bool] = []

    class _Lock:
        def __enter__(self) -> None:
            taken.append(True)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(decoding, "_one_large_photo", _Lock())
    decode(io.BytesIO(content))
    decode(io.BytesIO(_written("PNG")))
    assert taken == [True]


def _filling_directory(entries: int = 100, size: int = 40_000) -> bytes:
    """EXIF data whose entries all name the same bytes."""
    table = b"".join(_entry(1000 + n, 1, size, 8) for n in range(entries))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + table + bytes(4)).ljust(size + 8, b"\0")


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "PNG", "WEBP"])
def test_exif_data_that_fills_memory_is_not_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    load = Image.Exif.load

    def watched(self: Image.Exif, data: bytes) -> None:
        held.append(len(data))
        load(self, data)

    exif = b"Exif\0\0" + _filling_directory()
    content = (
        _written(kind) if kind != "AVIF" else _written(kind, exif=b"Exif\0\0II*\0\x08\0\0\0" + bytes(50_000))
    )
    if kind == "JPEG":
        content = content[:2] + _segment(0xE1, exif) + content[2:]
    elif kind == "AVIF":
        start = content.index(b"II*\0\x08")
        content = content[:start] + exif[6:] + content[start + len(exif) - 6 :]
    elif kind == "PNG":
        content = content[:33] + _chunk(b"eXIf", exif[6:]) + content[33:]
    else:
        content = _written(kind, exif=exif)
    monkeypatch.setattr(Image.Exif, "load", watched)
    if kind in ("JPEG", "AVIF"):
        with pytest.raises(DataError, match="more data than it has"):
            decode(io.BytesIO(content))
    else:
        assert decode(io.BytesIO(content)).size == (64, 64)
    assert held == []


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bitmap_of_runs(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 2, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1080, 0, 0, 1078) + header + bytes(1024) + b"\0\1"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda png: png[:33] + _chunk(b"iCCP", b"x\0\0") * 300 + png[33:], "chunks of other data"),
        (lambda png: png[:33] + _chunk(b"IDAT", b"") * 2000 + png[33:], "more than 10.. chunks"),
        (lambda _: _written("JPEG")[:2] + _segment(0xFE, b"") * 9000 + b"\xff\xd9", "8192 segments"),
        (lambda _: _written("JPEG")[:2] + b"\xff" * 70_000 + b"\xff\xd9", "more filling"),
        (
            lambda _: b"GIF89a" + bytes(7) + (b"!\xfe" + b"\1a" * 3000 + b"\0") * 2 + b",",
            "thousands of blocks",
        ),
        (lambda _: b"GIF89a" + bytes(7) + b"!\xff\0" * 17_000 + b",", "thousands of blocks"),
        (lambda _: _bitmap_of_runs(8000, 4000), "in run lengths take too long"),
        (
            lambda png: png[:8] + _chunk(b"IHDR", struct.pack(">II", 2**18, 1) + png[24:29]) + png[33:],
            "for a side",
        ),
    ],
    ids=["profiles", "chunks", "segments", "filling", "comments", "extensions", "runs", "wide"],
)
def test_work_that_pixels_do_not_explain_is_refused(content: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode(io.BytesIO(content(_written("PNG"))))


def test_a_comment_of_a_gif_is_no_bomb() -> None:
    assert decode(io.BytesIO(_written("GIF", comment=b"x" * 5000))).size == (64, 64)


def test_an_avif_that_shows_less_than_it_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = _written("AVIF", side=300, speed=10)
    shown = honest.index(b"ispe") + 8
    lying = honest[:shown] + struct.pack(">II", 64, 64) + honest[shown + 8 :]
    for content in (honest, lying):
        assert read_structure(io.BytesIO(content), "AVIF").frame_pixels == 300 * 300
    monkeypatch.setattr(decoding_costs, "_SMALL_CODED", 0)
    assert decode(io.BytesIO(honest)).size == (300, 300)
    with pytest.raises(DataError, match="shows 64 x 64 pixels and has 90000 in it"):
        decode(io.BytesIO(lying))
    data = next(part.data for part in parts(honest) if part.kind == b"av01")
    frame = data[data.index(b"\x32") :]
    assert av1_frames(data).number == 1
    assert av1_frames(data + frame * 5).number == 6
    for unit, reason in ((b"\x12\0", "more than 256 units"), (data[: data.index(frame)], "many headers")):
        with pytest.raises(DataError, match=reason):
            av1_frames(unit * 300)


def test_a_heic_whose_pictures_share_much_metadata_is_refused() -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    pictures = [Image.new("RGB", (16, 16))] * 3
    content = _written("HEIF", save_all=True, append_images=pictures, icc_profile=bytes(100_000))
    assert decode(io.BytesIO(content)).size == (64, 64)
    with pytest.raises(DataError, match="more metadata"):
        read_structure(io.BytesIO(_written("HEIF", icc_profile=bytes(1_100_000))), "HEIC")


def test_a_heic_of_many_pictures_in_one_is_refused() -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    data = next(part.data for part in parts(_written("HEIF")) if part.kind == b"hvc1")
    check_hevc(data)
    with pytest.raises(DataError, match="many pictures in one"):
        check_hevc(data * 5)
