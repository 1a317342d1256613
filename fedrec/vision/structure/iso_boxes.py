"""Walk the boxes of an ISO media file (AVIF, HEIC) to the coded pictures and the EXIF data in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fedrec.errors import DataError
from fedrec.vision.structure.bounds import require

MOST_METADATA: Final = 1 << 20
"""Of one item, and of all descriptions."""
MOST_COPIES: Final = 1 << 27
"""Metadata times items: decoders copy it for each picture of a file."""

_MOST_BOXES: Final = 4096
_MOST_ITEMS: Final = 2048
_SHARED: Final = 1 << 24
"""Tiles of one colour share their data."""
_PICTURES: Final = frozenset({b"av01", b"hvc1"})
_CONTAINERS: Final = frozenset({b"moov", b"trak", b"mdia", b"minf"})
_METADATA: Final = "it has more metadata than a photo"
_DAMAGED: Final = "its boxes are damaged"


@dataclass(frozen=True)
class Part:
    """One item of a file, or the first picture of one of its films.

    Attributes:
        kind: the type, such as ``av01`` or ``Exif``.
        data: its content.
    """

    kind: bytes
    data: bytes


@dataclass
class _Cursor:
    """Reads integers of a box, and never past its end."""

    data: bytes
    place: int
    end: int

    def take(self, size: int) -> int:
        place, self.place = self.place, self.place + size
        if self.place > self.end:
            raise DataError(_DAMAGED)
        return int.from_bytes(self.data[place : self.place], "big")


def parts(content: bytes) -> Iterator[Part]:
    """Yield what is coded in a file, and its EXIF data.

    Args:
        content: the file.

    Yields:
        The items, and the first pictures of films. Data that several share is yielded for each.

    Raises:
        DataError: the boxes are damaged, told twice, or more than a photo has.
    """
    left = [_MOST_BOXES]
    for kind, start, end in _boxes(content, 0, len(content), left):
        yield from _within(content, kind, start, end, left)


def _within(content: bytes, kind: bytes, start: int, end: int, left: list[int]) -> Iterator[Part]:
    if kind == b"meta":
        yield from _items(content, start, end, left)
    elif kind == b"stbl":
        yield from _first_sample(content, start, end, left)
    elif kind in _CONTAINERS:
        for inner, inner_start, inner_end in _boxes(content, start, end, left):
            yield from _within(content, inner, inner_start, inner_end, left)


def _boxes(content: bytes, start: int, end: int, left: list[int]) -> Iterator[tuple[bytes, int, int]]:
    while end - start >= 8:
        left[0] -= 1
        require(left[0] > 0, f"it has more than {_MOST_BOXES} boxes")
        size, kind = int.from_bytes(content[start : start + 4], "big"), content[start + 4 : start + 8]
        head = 8
        if size == 1:
            size, head = int.from_bytes(content[start + 8 : start + 16], "big"), 16
        elif size == 0:
            size = end - start
        # What a download has cut off is the decoder's to judge; boxes inside others must fit.
        if size < head or size > end - start:
            return
        yield kind, start + head, start + size
        start += size


def _unique(content: bytes, start: int, end: int, left: list[int]) -> dict[bytes, tuple[int, int]]:
    found: dict[bytes, tuple[int, int]] = {}
    for kind, inner, inner_end in _boxes(content, start, end, left):
        if kind in found and kind in {b"iloc", b"iinf", b"idat", b"stco", b"co64", b"stsz", b"stsd"}:
            raise DataError(_DAMAGED)
        found[kind] = inner, inner_end
    return found


def _items(content: bytes, start: int, end: int, left: list[int]) -> Iterator[Part]:
    inside = _unique(content, start + 4, end, left)
    idat = inside.get(b"idat", (0, 0))
    metadata = end - start - (idat[1] - idat[0])
    require(metadata <= MOST_METADATA, _METADATA)
    if b"iinf" not in inside or b"iloc" not in inside:
        return
    kinds = _kinds(content, *inside[b"iinf"], left)
    total = 0
    require(metadata * len(kinds) <= MOST_COPIES, _METADATA)
    for number, method, extents in _places(content, *inside[b"iloc"]):
        of_item = kinds.get(number, frozenset())
        base, limit = (0, len(content)) if method == 0 else idat
        if method > 1 and of_item & _PICTURES:
            raise DataError(_DAMAGED)
        length = sum(min(size or limit, limit) for _, size in extents)
        total += length
        require(total <= 4 * len(content) + _SHARED, "its items hold many times its length")
        for kind in of_item & (_PICTURES | {b"Exif", b"mime"}):
            metadata += 0 if kind in _PICTURES else length
            require(kind in _PICTURES or length <= MOST_METADATA, _METADATA)
            require(metadata * len(kinds) <= MOST_COPIES, _METADATA)
            pieces = [
                content[base + offset : min(limit, base + offset + size if size else limit)]
                for offset, size in extents
            ]
            yield Part(kind, b"".join(pieces))


def _kinds(content: bytes, start: int, end: int, left: list[int]) -> dict[int, frozenset[bytes]]:
    """Return the types of each item: all that are told of it."""
    found: dict[int, frozenset[bytes]] = {}
    first = start + (6 if content[start : start + 1] == b"\0" else 8)
    for kind, inner, inner_end in _boxes(content, first, end, left):
        if kind != b"infe":
            continue
        cursor = _Cursor(content, inner, inner_end)
        version = cursor.take(4) >> 24
        number = cursor.take(4 if version > 2 else 2)
        cursor.take(2)
        told = cursor.take(4).to_bytes(4, "big") if version >= 2 else b""
        found[number] = found.get(number, frozenset()) | {told}
    return found


def _places(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Yield each item's number, how it is stored, and the offset and length of its pieces."""
    cursor = _Cursor(content, start, end)
    version = cursor.take(4) >> 24
    sizes = cursor.take(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version in (1, 2) else 0
    count = cursor.take(4 if version > 1 else 2)
    require(count <= _MOST_ITEMS, f"it has more than {_MOST_ITEMS} items")
    seen: set[int] = set()
    for _ in range(count):
        number = cursor.take(4 if version > 1 else 2)
        if number in seen:
            raise DataError(_DAMAGED)
        seen.add(number)
        method = cursor.take(2) & 15 if version in (1, 2) else 0
        cursor.take(2)
        base = cursor.take(base_size)
        extents: list[tuple[int, int]] = []
        for _ in range(cursor.take(2)):
            cursor.take(index_size)
            extents.append((base + cursor.take(offset_size), cursor.take(length_size)))
        yield number, method, extents


def _first_sample(content: bytes, start: int, end: int, left: list[int]) -> Iterator[Part]:
    inside = _unique(content, start, end, left)
    told = inside.get(b"stsd", (0, 0))
    # Other tracks, such as sound, are not decoded.
    if content.find(b"av01", *told) < 0:
        return
    if (b"stco" in inside) == (b"co64" in inside) or b"stsz" not in inside:
        raise DataError(_DAMAGED)
    places = _Cursor(content, *inside[b"stco" if b"stco" in inside else b"co64"])
    places.take(8)
    offset = places.take(4 if b"stco" in inside else 8)
    sizes = _Cursor(content, *inside[b"stsz"])
    sizes.take(4)
    size = sizes.take(4)
    if size == 0:
        sizes.take(4)
        size = sizes.take(4)
    yield Part(b"av01", content[offset : offset + size])
