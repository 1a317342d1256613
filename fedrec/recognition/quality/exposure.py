"""Measure how dark, bright and flat a photo is, and how much of it is burnt out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.recognition.quality.backdrop import product_and_backdrop
from fedrec.recognition.quality.luminance import Luminance

_WHITE: Final = 245.0
"""A white backdrop is at least as bright."""
_CLIPPED: Final = 253
"""A colour of a sensor that is full, after compression."""
_COLOURED: Final = 245
"""One colour at most of a pixel that isn't white."""
_MARGIN: Final = 0.2
"""The product is further from each side, in parts of height and width."""
_BACKDROP: Final = 0.8
"""A studio's white backdrop burns out so much of what is around a product, on purpose."""
_SHORT_SIDE: Final = 512


@dataclass(frozen=True)
class Exposure:
    """The light in a photo, 0 to 255.

    Attributes:
        darkest: the 5th percentile of what isn't a plain backdrop; 0 before a white one, where a white
            product has nothing dark either.
        brightest: the 95th percentile of that, or the backdrop if it is brighter.
        contrast: the distance of the two, with the backdrop if it is darker.
    """

    darkest: float
    brightest: float
    contrast: float


def exposure(picture: Luminance) -> Exposure:
    """Return the exposure of a picture (height, width)."""
    product, backdrop = product_and_backdrop(picture)
    darkest, brightest = (float(value) for value in np.percentile(product, (5, 95)))
    if backdrop is None:
        return Exposure(darkest, brightest, brightest - darkest)
    if backdrop >= _WHITE:
        darkest = 0.0
    brightest = max(brightest, backdrop)
    return Exposure(darkest, brightest, brightest - min(darkest, backdrop))


def burnt_share(photo: Image.Image) -> float:
    """Return the share of a photo's middle in which a colour is as bright as can be: its detail is lost.

    Before a white backdrop only coloured pixels count, as a share of those that aren't white: what is white
    there can't be told from the backdrop.

    Args:
        photo: mode RGB.

    Returns:
        The share.
    """
    if min(photo.size) > _SHORT_SIDE:
        photo = photo.reduce(min(photo.size) // _SHORT_SIDE)
    pixels = np.asarray(photo)
    clipped, white = pixels.max(axis=2) >= _CLIPPED, pixels.min(axis=2) >= _COLOURED
    inside = _middle(white)
    around = white.sum() - inside.sum()
    if around < _BACKDROP * max(1, white.size - inside.size):
        return float(_middle(clipped).mean())
    return float(_middle(clipped & ~white).sum() / max(1, (~inside).sum()))


def _middle(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    height, width = values.shape
    rows, columns = int(_MARGIN * height), int(_MARGIN * width)
    return values[rows : height - rows, columns : width - columns]
