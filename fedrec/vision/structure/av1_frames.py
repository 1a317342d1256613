"""Walk the units of AV1 data: how large its frames may be, and how many it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedrec.vision.structure.bounds import require

_MOST_UNITS: Final = 256
_MOST_SEQUENCE_HEADERS: Final = 4
_MOST_SIZE_BYTES: Final = 8
_SEQUENCE_HEADER: Final = 1
_FRAME_HEADER: Final = 3
_FRAME: Final = 6


@dataclass(frozen=True)
class Frames:
    """What AV1 data holds.

    Attributes:
        pixels: of its largest frame, as its sequence headers bound it.
        number: of its frames, hidden ones included.
    """

    pixels: int
    number: int


def av1_frames(data: bytes) -> Frames:
    """Walk the units of AV1 data, as a decoder does.

    Args:
        data: of one picture, or of a film's first frame.

    Returns:
        Its frames.

    Raises:
        DataError: it is damaged, or has hundreds of units.
    """
    place, units, headers, pixels, number = 0, 0, 0, 0, 0
    while place < len(data):
        units += 1
        require(units <= _MOST_UNITS, f"it has a frame of more than {_MOST_UNITS} units")
        head = data[place]
        place += 2 if head & 4 else 1
        size = len(data) - place
        if head & 2:
            size, place = _leb128(data, place)
        require(0 <= size <= len(data) - place, "its AV1 data is damaged")
        kind = head >> 3 & 15
        if kind == _SEQUENCE_HEADER:
            headers += 1
            require(headers <= _MOST_SEQUENCE_HEADERS, "a frame of it has many headers")
            pixels = max(pixels, _most_pixels(data[place : place + min(size, 512)]))
        number += kind in (_FRAME_HEADER, _FRAME)
        place += size
    return Frames(pixels, number)


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(_MOST_SIZE_BYTES):
        require(place < len(data), "its AV1 data is damaged")
        byte = data[place]
        place += 1
        value |= (byte & 127) << (7 * shift)
        if not byte & 128:
            return value, place
    require(False, "its AV1 data is damaged")
    return 0, place


@dataclass
class _Bits:
    data: bytes
    place: int = 0

    def take(self, count: int) -> int:
        value = 0
        for place in range(self.place, self.place + count):
            require(place < 8 * len(self.data), "its AV1 data is damaged")
            value = value << 1 | (self.data[place >> 3] >> (7 - (place & 7)) & 1)
        self.place += count
        return value

    def take_uvlc(self) -> None:
        zeros = 0
        while not self.take(1):
            zeros += 1
            require(zeros < 32, "its AV1 data is damaged")
        self.take(zeros)


def _most_pixels(header: bytes) -> int:
    """Return the most pixels of a frame under a sequence header (AV1, 5.5.1)."""
    bits = _Bits(header)
    bits.take(4)  # profile, still_picture
    reduced = bits.take(1)
    if reduced:
        bits.take(5)
    else:
        _skip_timing_and_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    # The header of a frame may name another size, in as many bits; that of a still picture can't.
    return width * height if reduced else 1 << (width_bits + height_bits)


def _skip_timing_and_points(bits: _Bits) -> None:
    delay_bits = 0
    has_model = False
    if bits.take(1):  # timing_info_present
        bits.take(64)
        if bits.take(1):  # equal_picture_interval
            bits.take_uvlc()
        has_model = bool(bits.take(1))
        if has_model:
            delay_bits = bits.take(5) + 1
            bits.take(42)
    has_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:  # seq_level_idx
            bits.take(1)
        if has_model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_delay and bits.take(1):
            bits.take(4)
