"""Walk what a GIF has before its first picture."""

from __future__ import annotations

from typing import BinaryIO, Final

from fedrec.vision.structure.bounds import require
from fedrec.vision.structure.facts import Facts

_MOST_BLOCKS: Final = 16_384
_MOST_COMMENT_BLOCKS: Final = 4096
"""Pillow joins the blocks of comments one by one, which takes time by the square of their number."""
_EXTENSION: Final = b"!"
_COMMENT: Final = b"\xfe"


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
    blocks = comments = 0
    while (mark := file.read(1)) not in (b"", b",", b";"):
        # Pillow passes over what is no mark, byte by byte.
        blocks += 1
        if mark == _EXTENSION:
            comment = file.read(1) == _COMMENT
            while (size := file.read(1)) not in (b"", b"\0"):
                file.read(size[0])
                blocks += 1
                comments += comment
                if comments > _MOST_COMMENT_BLOCKS or blocks > _MOST_BLOCKS:
                    break
        require(
            blocks <= _MOST_BLOCKS and comments <= _MOST_COMMENT_BLOCKS,
            "it has thousands of blocks before its picture",
        )
    return Facts()
