"""Walk the directories of a TIFF file, or of EXIF data, which is one."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from fedrec.errors import DataError
from fedrec.vision.structure.bounds import MOST_SIDE, require
from fedrec.vision.structure.facts import Facts

_UNIT_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""A value's bytes, by its type. Pillow skips values of other types."""
_PAIRS: Final = frozenset({5, 10})
_PLAIN_INTEGERS: Final = {3: "H", 4: "I", 13: "I", 16: "Q"}
_MOST_ENTRIES: Final = 4096
_MOST_DIRECTORIES: Final = 8
_MOST_PAIRS: Final = 4096
_MOST_NUMBERS: Final = 1 << 21

_WIDTH, _HEIGHT, _BITS, _COMPRESSION = 256, 257, 258, 259
_SAMPLES, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 277, 278, 322, 323
_PLANES: Final = 284
_PHOTOMETRIC: Final = 262
_YCBCR: Final = 6
_HEADS: Final = frozenset({b"II*\0", b"MM\0*", b"II+\0"})
_LAYOUT: Final = frozenset(
    {
        _WIDTH,
        _HEIGHT,
        _BITS,
        _COMPRESSION,
        _SAMPLES,
        _ROWS_PER_STRIP,
        _TILE_WIDTH,
        _TILE_HEIGHT,
        _PLANES,
        _PHOTOMETRIC,
    }
)
_SUBDIRECTORIES: Final = frozenset({0x8769, 0x8825, 0xA005})
"""EXIF, GPS and interoperability: Pillow reads them with the picture."""
_STRIPS, _TILES = 273, 324
_OFFSETS: Final = frozenset({_STRIPS, _TILES})
_SPARE: Final = 1024
_SMALL_TILE: Final = 1 << 26
_EXIF: Final = b"Exif\0\0"


@dataclass(frozen=True)
class _Entry:
    tag: int
    kind: int
    count: int
    value: bytes

    @property
    def bytes(self) -> int:
        return self.count * _UNIT_BYTES.get(self.kind, 0)


@dataclass(frozen=True)
class _Reader:
    file: BinaryIO
    length: int
    order: str
    large: bool

    def entries(self, offset: int) -> Iterator[_Entry]:
        """Yield a directory's entries, as far as it is whole."""
        self.file.seek(min(offset, self.length))
        size = 8 if self.large else 2
        head = self.file.read(size)
        count = int.from_bytes(head, "little" if self.order == "<" else "big")
        require(count <= _MOST_ENTRIES, f"it has a directory of more than {_MOST_ENTRIES} entries")
        layout = struct.Struct(self.order + ("HHQ8s" if self.large else "HHI4s"))
        table = self.file.read(count * layout.size)
        for place in range(0, len(table) - layout.size + 1, layout.size):
            yield _Entry(*layout.unpack_from(table, place))

    def offset(self, entry: _Entry) -> int:
        """Return where an entry's values are, if they aren't in it."""
        return int.from_bytes(entry.value, "little" if self.order == "<" else "big")

    def holds(self, entry: _Entry) -> bool:
        """Say whether the file has an entry's values; decoders skip it otherwise."""
        return entry.bytes <= len(entry.value) or self.offset(entry) + entry.bytes <= self.length

    def numbers(self, entry: _Entry) -> tuple[int, ...]:
        """Read an entry's integers; none where it has more than a few."""
        if entry.kind not in _PLAIN_INTEGERS or not 1 <= entry.count <= 16:
            return ()
        data = entry.value
        if entry.bytes > len(data):
            self.file.seek(min(self.offset(entry), self.length))
            data = self.file.read(entry.bytes)
        if len(data) < entry.bytes:
            return ()
        return struct.unpack_from(f"{self.order}{entry.count}{_PLAIN_INTEGERS[entry.kind]}", data)


def check_exif(data: bytes) -> None:
    """Refuse EXIF data that was made to fill memory.

    Args:
        data: the data, with or without the letters that it may begin with. Damage is no reason to refuse it.

    Raises:
        DataError: its directories name more data than there is, or more values than a photo has.
    """
    for _ in range(2):
        data = data.removeprefix(_EXIF)
    require(not data.startswith(_EXIF), "its EXIF data begins over and over")
    reader = _reader(io.BytesIO(data))
    if reader is not None:
        _layout_of(reader)


def tiff_facts(file: BinaryIO) -> Facts:
    """Walk the first directory of a TIFF file, and those that belong to it.

    Args:
        file: the file, open for reading.

    Returns:
        What a strip or tile unpacks to.

    Raises:
        DataError: its directories name more data than there is; its layout is told twice, or in a way that
            decoders may read differently; or its tiles hold many times its pixels.
    """
    reader = _reader(file)
    file.seek(0)
    known = file.read(4) in _HEADS
    # Pillow and libtiff read different directories in a large file whose highest byte is first.
    if reader is None or not known:
        raise DataError("TIFFs of this byte order are not read: save it as JPEG or PNG")
    layout = _layout_of(reader, strict=True)
    width, height = layout.get(_WIDTH, 0), layout.get(_HEIGHT, 0)
    bits = layout.get(_BITS, 1) * layout.get(_SAMPLES, 1)
    if layout.get(_PHOTOMETRIC) == _YCBCR:
        # It is unpacked, and then converted to four bytes a pixel.
        bits += 32
    planes = layout.get(_SAMPLES, 1)
    too_many = "it has more strips or tiles than its size needs"
    require(layout.get(_STRIPS, 0) <= height * planes + _SPARE, too_many)
    picture = -(-width * bits // 8) * height
    if _TILE_WIDTH in layout or _TILE_HEIGHT in layout:
        tile_width, tile_height = layout.get(_TILE_WIDTH, 0), layout.get(_TILE_HEIGHT, 0)
        require(
            0 < tile_width <= MOST_SIDE and 0 < tile_height <= MOST_SIDE, "its tiles have no possible size"
        )
        unit = -(-tile_width * bits // 8) * tile_height
        tiles = -(-width // tile_width) * -(-height // tile_height)
        require(layout.get(_TILES, 0) <= tiles * planes + _SPARE, too_many)
        require(tiles * unit <= max(_SMALL_TILE, 4 * picture), "its tiles hold many times its pixels")
        return Facts(unit_bytes=unit)
    rows = min(layout.get(_ROWS_PER_STRIP, height), height)
    return Facts(unit_bytes=-(-width * bits // 8) * rows)


def _reader(file: BinaryIO) -> _Reader | None:
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(4)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    # As Pillow tells the large variant, whatever the order.
    return None if order is None else _Reader(file, length, order, large=head[2:3] == b"+")


def _layout_of(reader: _Reader, *, strict: bool = False) -> dict[int, int]:
    """Check the first directory and those below it; return the first one's layout and number of strips."""
    order: str = reader.order
    reader.file.seek(8 if reader.large else 4)
    first = reader.file.read(8 if reader.large else 4)
    ahead = [int.from_bytes(first, "little" if order == "<" else "big")]
    layout: dict[int, int] = {}
    named = numbers = 0
    for number in range(_MOST_DIRECTORIES + 1):
        if not ahead:
            break
        require(number < _MOST_DIRECTORIES, f"it has more than {_MOST_DIRECTORIES} directories in each other")
        for entry in list(reader.entries(ahead.pop())):
            if not reader.holds(entry):
                continue
            named += entry.bytes
            require(named <= reader.length + 64, "its directories name more data than it has")
            if entry.kind in _PAIRS:
                require(entry.count <= _MOST_PAIRS, "it has thousands of fractions")
            elif _UNIT_BYTES.get(entry.kind, 1) > 1:
                numbers += entry.count
                require(numbers <= _MOST_NUMBERS, "it has millions of strips or tiles")
            if entry.tag in _SUBDIRECTORIES:
                found = reader.numbers(entry)
                require(len(found) == 1, f"a directory of it (tag {entry.tag}) is told in no known way")
                ahead.append(found[0])
            if number == 0 and strict and entry.tag in _LAYOUT | _OFFSETS:
                found = reader.numbers(entry) if entry.tag in _LAYOUT else (entry.count,)
                # Of two entries, Pillow takes the last, and libtiff the first.
                require(entry.tag not in layout, f"its layout (tag {entry.tag}) is told twice")
                require(bool(found), f"its layout (tag {entry.tag}) is told in no known way")
                layout[entry.tag] = max(found)
    return layout
