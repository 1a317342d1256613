"""Tell a run-length encoded BMP, whose decoder is slow, from others."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO, Final

from fedrec.vision.structure.bounds import require
from fedrec.vision.structure.facts import Facts

_MOST_RUN_PIXELS: Final = 1 << 22
"""Pillow's decoder of runs is a loop in Python."""
_RUN_LENGTHS: Final = frozenset({1, 2})
_OLD_HEADER: Final = 12


def bmp_facts(file: BinaryIO) -> Facts:
    """Read a BMP's header.

    Args:
        file: the file, open for reading.

    Returns:
        Nothing that its size doesn't tell.

    Raises:
        DataError: it is encoded by run lengths, and large.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(14)
    header = file.read(20)
    if len(header) < 20 or int.from_bytes(header[:4], "little") == _OLD_HEADER:
        return Facts()
    width, height = struct.unpack_from("<ii", header, 4)
    if int.from_bytes(header[16:20], "little") in _RUN_LENGTHS:
        pixels = abs(width * height)
        require(
            pixels <= _MOST_RUN_PIXELS and length <= 4 * pixels + (1 << 16),
            f"{width} x {abs(height)} pixels in run lengths take too long to decode",
        )
    return Facts()
