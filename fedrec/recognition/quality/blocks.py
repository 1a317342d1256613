"""Measure the squares that strong JPEG compression leaves."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from fedrec.recognition.quality.luminance import Luminance

_SQUARE: Final = 8
_LEAST: Final = 8 * _SQUARE
"""Smaller pictures have too few squares."""
_LONGEST: Final = 2048
"""More of a photo isn't looked at."""
_NOISE: Final = 0.5
"""Grey levels that nobody sees, as in a smooth drawing."""


def block_contrast(photo: Image.Image) -> float:
    """Return how much larger steps of brightness are at the edges of 8 x 8 squares than within them.

    The photo must have its file's pixels: in one that was reduced since, squares are elsewhere.

    Args:
        photo: the photo.

    Returns:
        The smaller ratio of both directions, so that stripes don't count: about 1 without compression.
    """
    size = min(photo.width, _LONGEST), min(photo.height, _LONGEST)
    if min(size) < _LEAST:
        return 1.0
    picture = np.asarray(photo.crop((0, 0, *size)).convert("L"), dtype=np.float32)
    return min(_contrast(picture), _contrast(picture.T))


def _contrast(picture: Luminance) -> float:
    steps = np.abs(np.diff(picture, axis=1))
    # An edge of the product has large steps beside it, the edge of a square hasn't.
    beyond = np.maximum(steps[:, 1:-1] - (steps[:, :-2] + steps[:, 2:]) / 2, 0).mean(axis=0)
    # Step i lies between columns i and i + 1, and the first one was left out.
    at_edges = np.arange(1, len(beyond) + 1) % _SQUARE == _SQUARE - 1
    return float((beyond[at_edges].mean() + _NOISE) / (beyond[~at_edges].mean() + _NOISE))
