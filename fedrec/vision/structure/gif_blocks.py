"""Walk what a GIF has before its first picture."""

from __future__ import annotations

from typing import BinaryIO, Final

from fedrec.vision.structure.bounds import require
from fedrec.vision.structure.facts import Facts

_MOST_BLOCKS: Final = 8192
"""Pillow joins the blocks of a comment one by one, which takes time by the square of their number."""
_EXTENSION: Final = b"!"


def gif_facts(file: BinaryIO) -> Facts:
    """Walk the extensions before the first picture of a GIF.

    Args:
        file: the file, open for reading.

    Returns:
        Nothing that its size doesn't tell.

    Raises:
        DataError: there are more of them than a photo has.
    """
    file.seek(0)
    flags = file.read(13)[10:11] or b"\0"
    if flags[0] & 128:
        file.read(3 << ((flags[0] & 7) + 1))
    for _ in range(_MOST_BLOCKS):
        mark = file.read(1)
        if mark == _EXTENSION:
            file.read(1)
            for _ in range(_MOST_BLOCKS):
                size = file.read(1)
                if size in (b"", b"\0"):
                    break
                file.read(size[0])
            else:
                break
        # Pillow passes over what is no mark.
        elif mark in (b"", b",", b";"):
            return Facts()
    require(False, f"it has more than {_MOST_BLOCKS} blocks before its picture")
    return Facts()
