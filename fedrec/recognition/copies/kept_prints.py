"""A photo's print in a few kilobytes, for a catalogue: hashes and the strongest features, no picture.

Descriptors are kept in steps of two bits a value. What is read may be anybody's: it is a print of this form
and version, or none at all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import DataError
from fedrec.recognition.copies.hashes import SYMMETRIES, Hashes
from fedrec.recognition.copies.local_features import LocalFeatures
from fedrec.recognition.copies.prints import LONGEST_SIDE, Print

VERSION: Final = b"\x01"
"""First byte; another one wherever what is kept, or how features are found, changes."""
MOST_KEPT: Final = 300
"""Features; the strongest come first."""
_HEAD: Final = struct.Struct("<cHHBH")
_HASH: Final = 32
_WORDS: Final = len(SYMMETRIES) * _HASH
HASH_ENDS: Final = _HEAD.size + _HASH
"""The hash of the photo as it is ends here; the version is the first byte."""
_STEP: Final = 64
"""Points are kept in 64ths of a pixel."""
_VALUES: Final = 128
_LEVELS: Final = np.array([0, 8, 36, 106], dtype=np.uint8)
"""Values of a descriptor that stand for all others."""
_EDGES: Final = np.array([3, 20, 67], dtype=np.uint8)
"""The least values that the second, third and fourth level stand for."""
_SHIFTS: Final = np.array([0, 2, 4, 6], dtype=np.uint8)
_BYTES: Final = 4 + _VALUES // len(_SHIFTS)
"""Of a feature: its point and its descriptor."""


class KeptPrints(Protocol):
    """Prints that were kept of a collection's photos."""

    def print_of(self, number: int) -> Print | None:
        """Return a photo's print by its number; None if none is kept."""
        ...

    def hashes(self) -> NDArray[np.uint64]:
        """Return the hashes of all photos as they are, uint64 (photos, 4); zeros where none is kept."""
        ...


def packed(printed: Print) -> bytes:
    """Return what is kept of a print."""
    features = printed.features
    count = min(MOST_KEPT, len(features.points))
    points = np.clip(np.rint(features.points[:count] * _STEP), 0, 65535).astype("<u2")
    steps = np.searchsorted(_EDGES, features.descriptors[:count], side="right").astype(np.uint8)
    # Four values a byte.
    steps = steps.reshape(count, _VALUES // len(_SHIFTS), len(_SHIFTS))
    fours = (steps << _SHIFTS).sum(axis=2, dtype=np.uint8)
    head = _HEAD.pack(VERSION, *printed.size, printed.hashes.quality, count)
    words = printed.hashes.words.astype("<u8")
    return b"".join([head, words.tobytes(), points.tobytes(), fours.tobytes()])


def hash_of(beginning: object) -> NDArray[np.uint64] | None:
    """Return the hash, uint64 (4), from the first ``HASH_ENDS`` bytes of what is kept; None without one."""
    if not isinstance(beginning, bytes) or len(beginning) != HASH_ENDS or beginning[:1] != VERSION:
        return None
    return np.frombuffer(beginning, "<u8", offset=_HEAD.size).astype(np.uint64)


def unpacked(content: object, *, pixels: Callable[[], NDArray[np.uint8]]) -> Print | None:
    """Read what is kept of a print.

    Args:
        content: what :func:`packed` returned, or anything else.
        pixels: reads the photo's luminance, reduced as its print was; it is kept once it was read.

    Returns:
        The print; None if the content isn't one of this version.
    """
    if not isinstance(content, bytes) or len(content) < _HEAD.size + _WORDS:
        return None
    version, width, height, quality, count = _HEAD.unpack_from(content)
    if (
        version != VERSION
        or not (1 <= width <= LONGEST_SIDE and 1 <= height <= LONGEST_SIDE)
        or quality > 100
        or count > MOST_KEPT
        or len(content) != _HEAD.size + _WORDS + count * _BYTES
    ):
        return None
    words = np.frombuffer(content, "<u8", _WORDS // 8, _HEAD.size).astype(np.uint64)
    place = _HEAD.size + _WORDS
    steps_of_points = np.frombuffer(content, "<u2", 2 * count, place).reshape(count, 2)
    points = steps_of_points.astype(np.float32) / np.float32(_STEP)
    if count and (points > (width, height)).any():
        return None
    fours = np.frombuffer(content, np.uint8, offset=place + 4 * count).reshape(count, _VALUES // len(_SHIFTS))
    steps = (fours[:, :, None] >> _SHIFTS & 3).reshape(count, _VALUES)

    @cache
    def fitting() -> NDArray[np.uint8]:
        found = pixels()
        if found.shape != (height, width):
            raise DataError("its kept print isn't of this photo")
        return found

    hashes = Hashes(words.reshape(len(SYMMETRIES), -1), int(quality))
    return Print((width, height), LocalFeatures(points, _LEVELS[steps], width), hashes, fitting)
