"""Measure blur, out of focus or by motion, without a sharp copy to compare with."""

from __future__ import annotations

from typing import Final

import numpy as np

from fedrec.recognition.quality.luminance import Luminance

_WINDOW: Final = 9
_MARGIN: Final = 0.2
"""What is further from each side is the middle, in parts of height and width."""
_DIRECTIONS: Final = ("down", "right", "falling", "rising")


def blur_effect(picture: Luminance) -> float:
    """Measure how blurred a photo is in its most blurred direction.

    The picture is blurred once more along a direction. In a sharp picture this takes most of the differences
    of neighbours away, in a blurred one few (Crete et al. 2007, "The Blur Effect: Perception and Estimation
    with a New No-reference Perceptual Blur Metric"). Their measure is the larger of two directions; here it
    is the largest of four, so that motion along a diagonal counts as well.

    Args:
        picture: (height, width).

    Returns:
        0 for a sharp picture to 1 for one without any detail. A picture smaller than the filter counts as 0.
    """
    if min(picture.shape) <= 2 * _WINDOW:
        return 0.0
    return max(_along(picture, direction) for direction in _DIRECTIONS)


def sharpest_blur(picture: Luminance) -> float:
    """Measure how blurred a photo is as a whole or in its middle: a backdrop may be blurred on purpose.

    Args:
        picture: (height, width).

    Returns:
        The smaller blur effect of the two.
    """
    height, width = picture.shape
    rows, columns = int(_MARGIN * height), int(_MARGIN * width)
    middle = picture[rows : height - rows, columns : width - columns]
    if min(middle.shape) <= 2 * _WINDOW:
        return blur_effect(picture)
    return min(blur_effect(picture), blur_effect(middle))


def _along(picture: Luminance, direction: str) -> float:
    """Return the share of the differences of neighbours in a direction that another blur along it leaves."""
    lines = _lines(picture, direction)
    last = lines.shape[1] - _WINDOW + 1
    # A running sum would carry NaN from outside a diagonal through all of it.
    blurred = lines[:, :last].copy()
    for start in range(1, _WINDOW):
        blurred += lines[:, start : start + last]
    blurred /= _WINDOW
    half = _WINDOW // 2
    before = np.abs(np.diff(lines[:, half:-half], axis=1))
    after = np.abs(np.diff(blurred, axis=1))
    known = ~np.isnan(after)
    whole = float(before[known].sum())
    if whole <= 0.0:
        return 1.0
    lost = float(np.maximum(before[known] - after[known], 0.0).sum())
    return 1.0 - lost / whole


def _lines(picture: Luminance, direction: str) -> Luminance:
    """Return the picture's lines in a direction as rows; NaN where a diagonal is outside the picture."""
    if direction == "right":
        return picture
    if direction == "down":
        return picture.T
    tall = picture if direction == "falling" else picture[:, ::-1]
    # No diagonal is longer than the shorter side; turned over, it stays one.
    tall = tall if tall.shape[0] <= tall.shape[1] else tall.T
    height, width = tall.shape
    sheared = np.full((height + width - 1, height), np.nan, dtype=np.float32)
    rows = np.arange(height)[:, None]
    # Pixel (y, x) is on the diagonal x - y, at its place y.
    sheared[np.arange(width)[None, :] - rows + height - 1, rows] = tall
    return sheared
