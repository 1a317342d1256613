"""Draw evidence over a photo: warm where it speaks for the class, cold where against it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.recognition.evidence.heat import Heat

LONGEST_SIDE: Final = 640
_FOR: Final = (230, 75, 20)
_AGAINST: Final = (30, 90, 220)
_MOST: Final = 0.62
"""Opacity of the strongest evidence."""
_STRONGEST: Final = 99.0
"""The percentile of absolute evidence that is drawn strongest."""
_SOFTENING: Final = 0.02
"""Blur of the map, in its longer sides."""


def evidence_picture(photo: Image.Image, heat: Heat) -> Image.Image:
    """Draw a map over a photo.

    Args:
        photo: the photo.
        heat: the evidence for a class.

    Returns:
        An RGB picture of at most ``LONGEST_SIDE`` pixels a side.
    """
    base = photo.convert("RGB")
    base.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    strength = _smooth(heat.cells, base.size)
    scale = float(np.percentile(np.abs(strength), _STRONGEST)) or 1.0
    relative = np.clip(strength / scale, -1, 1)
    grey = np.asarray(base.convert("L"), dtype=np.float64)[..., None] * np.ones(3)
    faded = 0.5 * np.asarray(base, dtype=np.float64) + 0.5 * grey
    opacity = _MOST * np.abs(relative)[..., None]
    colour = np.where(relative[..., None] > 0, np.array(_FOR), np.array(_AGAINST))
    drawn = (1 - opacity) * faded + opacity * colour
    return Image.fromarray(np.clip(drawn, 0, 255).astype(np.uint8))


def _smooth(cells: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    # It takes a third of a service's start.
    from scipy.ndimage import gaussian_filter

    softened = gaussian_filter(cells, sigma=_SOFTENING * max(cells.shape))
    return np.asarray(Image.fromarray(softened).resize(size, Image.Resampling.BILINEAR), dtype=np.float64)
