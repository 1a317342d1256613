"""Find lines of characters that were laid over a photo."""

from __future__ import annotations

from typing import Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.quality.luminance import Luminance

_CONTRAST: Final = 48.0
_LOWEST: Final = 7
"""The least height of a character, in pixels."""
_HIGHEST: Final = 0.2
"""The largest one, as a share of the picture's height."""
_WIDEST: Final = 1.6
_FILLED: Final = (0.15, 0.9)
_SAME_HEIGHT: Final = 1.7
_GAP: Final = 1.2
_SAME_LEVEL: Final = 3.0
"""Overlaid text has one colour, a print on cloth is lit unevenly."""

_MOST_REGIONS: Final = 20_000
_MOST_SHAPES: Final = 1000
"""More are no line of text but a pattern, and would take minutes: only the first ones are looked at."""


class _Shape(NamedTuple):
    """A connected region that may be a character; ``level`` is the luminance of its strokes."""

    left: int
    right: int
    middle: float
    height: int
    level: float


def text_characters(picture: Luminance) -> int:
    """Count the characters of the longest line of text in a picture (height, width); patterns may count."""
    # It takes a third of a service's start.
    from scipy.ndimage import uniform_filter

    local = uniform_filter(picture, max(15, min(picture.shape) // 8))
    masks = (picture > local + _CONTRAST, picture < local - _CONTRAST)
    return max(
        _longest_line(_shapes(mask, picture, quantile))
        for mask, quantile in zip(masks, (0.85, 0.15), strict=True)
    )


def _shapes(mask: NDArray[np.bool_], picture: Luminance, quantile: float) -> list[_Shape]:
    from scipy.ndimage import find_objects, label

    # The stubs leave open whether the regions or their number alone are returned.
    regions = cast("tuple[NDArray[np.int32], int]", label(mask, structure=np.ones((3, 3))))[0]
    found: list[_Shape] = []
    boxes: list[tuple[slice, slice]] = find_objects(regions)
    for number, box in enumerate(boxes[:_MOST_REGIONS], start=1):
        if len(found) == _MOST_SHAPES:
            break
        height, width = (side.stop - side.start for side in box)
        if not _LOWEST <= height <= _HIGHEST * len(mask) or width > _WIDEST * height:
            continue
        region = regions[box] == number
        if _FILLED[0] <= float(region.mean()) <= _FILLED[1]:
            rows, columns = box
            level = float(np.quantile(picture[box][region], quantile))
            found.append(_Shape(columns.start, columns.stop, (rows.start + rows.stop) / 2, height, level))
    return sorted(found)


def _longest_line(shapes: list[_Shape]) -> int:
    """Return how many shapes of about one height follow each other on a line, at most."""
    lengths: list[int] = []
    for index, shape in enumerate(shapes):
        before = [lengths[other] for other in range(index) if _follows(shapes[other], shape)]
        lengths.append(1 + max(before, default=0))
    return max(lengths, default=0)


def _follows(left: _Shape, right: _Shape) -> bool:
    low, high = sorted((left.height, right.height))
    return (
        abs(left.level - right.level) <= _SAME_LEVEL
        and high <= _SAME_HEIGHT * low
        and abs(left.middle - right.middle) <= 0.35 * high
        and -0.2 * high <= right.left - left.right <= _GAP * high
    )
