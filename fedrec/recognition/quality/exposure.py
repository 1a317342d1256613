"""Measure how dark, bright and flat a photo is, and how much of it is burnt out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fedrec.recognition.quality.luminance import Luminance

_BURNT: Final = 250.0
_MARGIN: Final = 0.2
"""The product is further from each side, in parts of height and width."""
_BACKDROP: Final = 0.8
"""A studio's white backdrop burns out so much of what is around a product, on purpose."""


@dataclass(frozen=True)
class Exposure:
    """Percentiles of a photo's luminance, 0 to 255.

    Attributes:
        darkest: the 5th percentile.
        brightest: the 95th percentile.
    """

    darkest: float
    brightest: float

    @property
    def contrast(self) -> float:
        """Return the distance of the two."""
        return self.brightest - self.darkest


def exposure(picture: Luminance) -> Exposure:
    """Return the exposure of a picture (height, width)."""
    darkest, brightest = np.percentile(picture, (5, 95))
    return Exposure(darkest=float(darkest), brightest=float(brightest))


def burnt_share(picture: Luminance) -> float:
    """Return the share of a picture's middle (height, width) that is white without any detail.

    Before a white backdrop it is 0: what belongs to the product can't be told there.
    """
    burnt = picture >= _BURNT
    height, width = picture.shape
    rows, columns = int(_MARGIN * height), int(_MARGIN * width)
    middle = burnt[rows : height - rows, columns : width - columns]
    around = burnt.sum() - middle.sum()
    if around >= _BACKDROP * max(1, burnt.size - middle.size):
        return 0.0
    return float(middle.mean())
