"""Measure how much is going on around the product."""

from __future__ import annotations

from typing import Final

import numpy as np

from fedrec.recognition.quality.luminance import Luminance

_RING: Final = 0.12
_EDGE: Final = 10.0
_LEAST: Final = 2


def clutter(picture: Luminance) -> float:
    """Return the share of pixels with an edge in the outer eighth of a picture (height, width), 0 to 1.

    A mere line of pixels has none.
    """
    # It takes a third of a service's start.
    from scipy.ndimage import gaussian_filter

    if min(picture.shape) < _LEAST:
        return 0.0
    down, right = np.gradient(gaussian_filter(picture, 1.0))
    edges = np.hypot(down, right) > _EDGE
    height, width = picture.shape
    inner = np.zeros(picture.shape, dtype=bool)
    rows, columns = int(_RING * height), int(_RING * width)
    inner[rows : height - rows, columns : width - columns] = True
    ring = ~inner
    return float(edges[ring].mean()) if ring.any() else 0.0
