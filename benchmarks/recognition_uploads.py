"""Uploads and requests that mean harm, for ``recognition_service.py``: each maker gives one of its kind."""

from __future__ import annotations

import io
import random
import socket
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from PIL import Image

Make = Callable[[np.random.Generator], bytes]
SEED = 0
JPEG_HEADER = 2
"""Bytes before the first segment of a JPEG file."""


def noise(size: tuple[int, int] = (256, 256), mode: str = "RGB") -> Image.Image:
    """Return a picture of noise."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(SEED).integers(0, 256, shape, dtype=np.uint8))


@cache
def encoded(kind: str, **options: object) -> bytes:
    """Return the noise as a file of a kind."""
    file = io.BytesIO()
    noise().save(file, kind, **options)
    return file.getvalue()


KINDS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "ICO",
    "PPM",
    "TGA",
    "PCX",
    "JPEG2000",
    "DDS",
    "SGI",
    "IM",
)


def cut(rng: np.random.Generator) -> bytes:
    """A file without its end."""
    whole = encoded(KINDS[int(rng.integers(len(KINDS)))])
    return whole[: int(rng.integers(1, len(whole)))]


def flipped(rng: np.random.Generator) -> bytes:
    """A file with changed bytes."""
    whole = bytearray(encoded(KINDS[int(rng.integers(len(KINDS)))]))
    for place in rng.integers(0, min(len(whole), int(rng.choice([200, len(whole)]))), 20):
        whole[place] = int(rng.integers(256))
    return bytes(whole)


def header_changed(rng: np.random.Generator) -> bytes:
    """A file whose sizes and offsets are extreme."""
    whole = bytearray(encoded(KINDS[int(rng.integers(len(KINDS)))]))
    place = int(rng.integers(0, 64))
    whole[place : place + 4] = struct.pack("<I", int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20])))
    return bytes(whole)


def polyglot(rng: np.random.Generator) -> bytes:
    """A photo that is a page, a script or an archive as well."""
    tail = rng.choice(
        [b"PK\x03\x04" + b"\0" * 60, b"<script>alert(1)</script>", b"%PDF-1.7\n", b"\x7fELF" * 9]
    )
    head = rng.choice([b"", b"GIF89a/*", b"<?php system('id'); ?>", b"\xff\xd8\xff"])
    return bytes(head) + encoded("JPEG") + bytes(tail)


def segments(rng: np.random.Generator) -> bytes:
    """A JPEG with megabytes of EXIF, ICC, XMP or comments."""
    jpeg = encoded("JPEG")
    names = [
        b"Exif\0\0II*\0\x08\0\0\0",
        b"ICC_PROFILE\0\x01\xff",
        b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>",
        b"",
    ]
    name, marker = names[int(rng.integers(4))], int(rng.choice([0xE1, 0xE2, 0xFE, 0xED]))
    body = name + rng.bytes(65_000 - len(name))
    block = bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
    return jpeg[:JPEG_HEADER] + block * int(rng.integers(1, 250)) + jpeg[JPEG_HEADER:]


def looped_exif(rng: np.random.Generator) -> bytes:
    """EXIF whose folders refer to themselves, with counts that no file has."""
    entry = struct.pack("<HHII", int(rng.choice([0x0112, 0x8769, 0x8825, 0xA005])), 4, 0xFFFFFFFF, 8)
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 500) + entry * 500 + struct.pack("<I", 8)
    jpeg = encoded("JPEG")
    block = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    return jpeg[:JPEG_HEADER] + block + jpeg[JPEG_HEADER:]


@cache
def _frames(kind: str, count: int) -> bytes:
    file = io.BytesIO()
    small = [noise((16, 16)).rotate(number) for number in range(count)]
    small[0].save(file, kind, save_all=True, append_images=small[1:], duration=1)
    return file.getvalue()


def animated(rng: np.random.Generator) -> bytes:
    """Thousands of frames."""
    return _frames(str(rng.choice(["PNG", "WEBP", "GIF", "TIFF"])), int(rng.choice([2, 3000])))


@cache
def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    jpeg = encoded("JPEG", progressive=True)
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * count + jpeg[-2:]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache
def bomb(kind: bytes, side: int) -> bytes:
    """A PNG whose pixels or text unpack to a thousand times their size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = zlib.compress(bytes(64 << 20), 9)
    extra = chunk(kind, (b"a\0\0" if kind == b"zTXt" else b"a\0") + data) if kind != b"IDAT" else b""
    pixels = zlib.compress(bytes(side * (3 * side + 1)), 9) if side < 6000 else data
    return b"\x89PNG\r\n\x1a\n" + header + extra * 8 + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def unpacked(rng: np.random.Generator) -> bytes:
    """A bomb."""
    kind = bytes(rng.choice([b"IDAT", b"zTXt", b"iCCP"]))
    return bomb(kind, int(rng.choice([64, 5600, 30_000])))


DISGUISED = (
    b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>",
    b"8BPS\0\x01" + b"\0" * 6 + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n",
    b"\0\0\x01\0\xff\xff" + b"\0" * 16,
    b"II*\0\x08\0\0\0" + b"\xff" * 60,
    b"MM\0+\0\x08\0\0" + b"\xff" * 60,
    b"BM" + struct.pack("<IHHIIiiHHI", 0, 0, 0, 54, 40, 2_000_000_000, -2_000_000_000, 1, 24, 0),
    b"\0\0\0\x20ftypheic" + b"\xff" * 400,
    b"\0\0\0\x1cftypavif" + b"\0" * 400,
    b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 30,
    b"\x1f\x8b\x08" + b"\0" * 50,
    b"SIMPLE  =                    T" + b" " * 50,
    b"#define x_width 99999999\n#define x_height 99999999\nstatic char x_bits[] = {\n",
    b"P6 99999999 99999999 255\n",
    b"P5\n# " + b"c" * 100_000 + b"\n1 1 255\n\0",
    b"../../etc/passwd\0.jpg",
)


def disguised(rng: np.random.Generator) -> bytes:
    """A file of another kind under a photo's type."""
    return DISGUISED[int(rng.integers(len(DISGUISED)))]


UPLOADS: Mapping[str, Make] = {
    "cut": cut,
    "flipped": flipped,
    "header changed": header_changed,
    "noise": lambda rng: rng.bytes(int(rng.integers(1, 5000))),
    "polyglot": polyglot,
    "segments": lambda rng: segments(rng) if rng.random() < 0.1 else polyglot(rng),
    "looped EXIF": looped_exif,
    "animated": lambda rng: animated(rng) if rng.random() < 0.2 else cut(rng),
    "scans": lambda rng: scans(int(rng.choice([2, 100, 2000]))) if rng.random() < 0.1 else flipped(rng),
    "unpacked": lambda rng: unpacked(rng) if rng.random() < 0.03 else b"\x89PNG\r\n\x1a\n",
    "disguised": disguised,
}

_GOOD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
REQUESTS: Mapping[str, bytes] = {
    "no request": b"\r\n\r\n",
    "noise": random.Random(SEED).randbytes(4000),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "endless line": b"GET /" + b"a" * 300_000,
    "many headers": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    "NUL in a header": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n",
    "bare line feeds": b"GET /health HTTP/1.1\nHost: 127.0.0.1\n\n",
    "two lengths": _GOOD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "length and chunks": _GOOD
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "negative length": _GOOD + b"Content-Length: -1\r\n\r\n",
    "huge length": _GOOD + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    "wrong chunks": _GOOD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
    "chunks with long extensions": _GOOD
    + b"Transfer-Encoding: chunked\r\n\r\n1;"
    + b"a" * 100_000
    + b"\r\nx\r\n0\r\n\r\n",
    "another encoding": _GOOD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
    "expectation": _GOOD + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    "pipelined": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 300,
    "foreign host": b"GET /model HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "no host": b"GET /model HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /model HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    "absolute address": b"GET http://evil.example/model HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "options": b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "trace": b"TRACE /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "head": b"HEAD /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "range": b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes=0-1,2-3,99999999999-\r\n\r\n",
    "path in bytes": b"GET /\xff\xfe%00%ff/../..%2f HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "query in bytes": _GOOD.replace(b"/predict", b"/predict?top=%00%ff&top=" + b"9" * 5000)
    + b"Content-Length: 1\r\n\r\nx",
}


def answered(address: tuple[str, int], content: bytes, *, seconds: float = 3.0) -> str:
    """Send bytes on a connection of their own; return the first answer's status, or how it ended."""
    with socket.create_connection(address, timeout=seconds) as connection:
        try:
            connection.sendall(content)
            found = connection.recv(1 << 16)
        except TimeoutError:
            return "waits"
        except OSError:
            return "closed"
    return found.split(b" ")[1].decode("ascii", "replace") if found.startswith(b"HTTP/") else "closed"
