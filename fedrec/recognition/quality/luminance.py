"""The brightness of a photo, which most measures are taken of."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Luminance = NDArray[np.float32]

LONGEST_SHORT_SIDE: Final = 1024
"""Larger photos are reduced to it: a blur of a few pixels of a large photo can't be seen."""

LONGEST_SIDE: Final = 4 * LONGEST_SHORT_SIDE
"""What measures take of memory and time grows with it."""


def luminance(photo: Image.Image) -> Luminance:
    """Return a photo's luminance (ITU-R 601-2), 0 to 255, float32 (height, width), reduced if it is large."""
    grey = photo.convert("L")
    scale = min(LONGEST_SHORT_SIDE / min(grey.size), LONGEST_SIDE / max(grey.size))
    if scale < 1:
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)
