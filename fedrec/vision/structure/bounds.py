"""Bounds that hold for every format."""

from __future__ import annotations

from typing import Final

from fedrec.errors import DataError

MOST_FILE_BYTES: Final = 1 << 29
"""Files of a format that is walked in memory are refused if they are larger."""
MOST_SIDE: Final = 1 << 17
"""Photos with a longer side are refused: some decoders take tens of bytes for each pixel of a row."""


def require(condition: bool, reason: str) -> None:
    """Refuse a photo unless a condition holds.

    Args:
        condition: what holds for photos.
        reason: what is wrong with this one.

    Raises:
        DataError: it doesn't hold.
    """
    if not condition:
        raise DataError(f"{reason}: save it again, as JPEG or PNG")
