"""How bright and how sharp a photo is: what a watch keeps sums of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

_SHORT_SIDE: Final = 192
"""Larger photos are reduced to it: a shopper's phone has far more pixels than a model sees."""
_LEAST_VARIANCE: Final = 1e-3


@dataclass(frozen=True)
class PhotoStatistics:
    """Two numbers of a photo.

    Attributes:
        luminance: its mean, 0 to 255.
        sharpness: logarithm of the variance of its second derivative, after it was reduced.
    """

    luminance: float
    sharpness: float


def photo_statistics(photo: Image.Image) -> PhotoStatistics:
    """Measure a photo of any size and mode."""
    grey = photo.convert("L")
    scale = _SHORT_SIDE / min(grey.size)
    if scale < 1:
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BOX)
    pixels = np.asarray(grey, dtype=np.float32)
    # Beyond its edge a photo goes on as in a mirror, so that one of any size has a second derivative.
    framed = np.pad(pixels, 1, mode="symmetric")
    around = framed[:-2, 1:-1] + framed[2:, 1:-1] + framed[1:-1, :-2] + framed[1:-1, 2:]
    curvature = around - 4 * pixels
    return PhotoStatistics(
        luminance=float(pixels.mean()), sharpness=float(np.log(max(_LEAST_VARIANCE, float(curvature.var()))))
    )
