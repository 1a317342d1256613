"""What is kept of a photo to compare it with others: a small picture, its local features, its hashes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.recognition.copies.hashes import Hashes, hashes
from fedrec.recognition.copies.local_features import LocalFeatures, local_features

LONGEST_SIDE: Final = 400
"""Larger photos are reduced to it: work and memory don't grow with a photo's size."""
_SHORTEST_SIDE: Final = 16
_LIGHTEST: Final = 255
KEPT: Final = 2000
"""Prints in memory, of up to 230 kB each."""


@dataclass(frozen=True)
class Print:
    """A photo's print.

    Attributes:
        size: width and height of the small picture.
        features: local features, with points of that picture.
        hashes: of the whole photo in its eight symmetries.
        pixels: returns the picture's luminance; raises ``DataError`` where that is read from a file and can't
            be.
    """

    size: tuple[int, int]
    features: LocalFeatures
    hashes: Hashes
    pixels: Callable[[], NDArray[np.uint8]]

    @property
    def luminance(self) -> NDArray[np.uint8]:
        """The small picture, uint8 (height, width); ``DataError`` if it can't be read any more."""
        return self.pixels()

    def negative(self) -> Print:
        """Return the print of the photo's negative."""
        pixels = self.pixels
        return Print(
            self.size, self.features.negative(), self.hashes.negative(), lambda: _LIGHTEST - pixels()
        )


def reduced(photo: Image.Image) -> Image.Image:
    """Reduce a photo to ``LONGEST_SIDE``; a side never shrinks below one pixel."""
    scale = LONGEST_SIDE / max(photo.size)
    if scale >= 1:
        return photo
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def luminance_of(photo: Image.Image) -> NDArray[np.uint8]:
    """Return the luminance of the small picture that a photo's print is made of, uint8 (height, width)."""
    return np.asarray(reduced(photo).convert("RGB").convert("L"))


def make_print(photo: Image.Image) -> Print | None:
    """Make a photo's print.

    Args:
        photo: as people see it.

    Returns:
        The print; None for a photo that is a mere line, in which nothing is to be seen.
    """
    small = reduced(photo).convert("RGB")
    if min(small.size) < _SHORTEST_SIDE:
        return None
    luminance = np.asarray(small.convert("L"))
    return Print(small.size, local_features(luminance), hashes(np.asarray(small)), lambda: luminance)


class Prints:
    """The prints of a collection, for several threads; the latest used are kept, others are made again.

    Attributes:
        make: makes the print of a photo by its number.
    """

    def __init__(self, make: Callable[[int], Print | None]) -> None:
        self.make = make
        self._mutex = threading.Lock()
        self._kept: OrderedDict[int, Print | None] = OrderedDict()

    def __getitem__(self, number: int) -> Print | None:
        """Return a photo's print."""
        with self._mutex:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        made = self.make(number)
        with self._mutex:
            self._kept[number] = made
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made
