"""Measure how dark, bright and flat a photo is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrec.recognition.quality.luminance import Luminance


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
