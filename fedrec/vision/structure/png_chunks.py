"""Walk a PNG's chunks."""

from __future__ import annotations

import io
from typing import BinaryIO, Final

from fedrec.vision.structure.bounds import require
from fedrec.vision.structure.facts import Facts

_MOST_OTHERS: Final = 256
"""A compressed profile or text of a kilobyte is unpacked to a megabyte, each time that there is one."""
_FEWEST_BYTES: Final = 512
"""Encoders write chunks of kilobytes; Pillow takes microseconds for each."""
_PIXELS: Final = frozenset({b"IDAT", b"fdAT", b"fcTL"})


def png_facts(file: BinaryIO) -> Facts:
    """Walk the chunks of a PNG.

    Args:
        file: the file, open for reading.

    Returns:
        Nothing that its size doesn't tell.

    Raises:
        DataError: it has more chunks than a photo, of pixels for its length, or of other data.
    """
    length = file.seek(0, io.SEEK_END)
    most = 1000 + length // _FEWEST_BYTES
    place, chunks, others = 8, 0, 0
    while place < length:
        file.seek(place)
        head = file.read(8)
        chunks += 1
        others += head[4:] not in _PIXELS
        require(others <= _MOST_OTHERS, f"it has more than {_MOST_OTHERS} chunks of other data than pixels")
        require(chunks <= most, f"it has more than {most} chunks in {length} bytes")
        if head[4:] == b"IEND":
            break
        place += 12 + int.from_bytes(head[:4], "big")
    return Facts()
