"""Tell a product from a plain backdrop."""

from __future__ import annotations

from typing import Final

import numpy as np

from fedrec.recognition.quality.luminance import Luminance

_EDGE: Final = 0.04
"""Width of the edge that shows the backdrop, as a share of the short side."""
_PLAIN: Final = 0.8
"""Share of the edge that has one brightness, in front of a plain backdrop."""
_SAME: Final = 12.0
"""Levels of brightness of a plain backdrop differ by less from its own."""
_LEAST: Final = 0.02
"""A smaller share of the picture is no product."""


def product_and_backdrop(picture: Luminance) -> tuple[Luminance, float | None]:
    """Return the pixels of a picture that aren't a plain backdrop's.

    Args:
        picture: (height, width).

    Returns:
        The product's pixels, and the backdrop's brightness; all pixels and None without a plain backdrop.
    """
    width = max(1, int(_EDGE * min(picture.shape)))
    sides = (picture[:width], picture[-width:], picture[:, :width], picture[:, -width:])
    edge = np.concatenate([side.ravel() for side in sides])
    backdrop = float(np.median(edge))
    product = picture[np.abs(picture - backdrop) > _SAME]
    if (np.abs(edge - backdrop) <= _SAME).mean() < _PLAIN or product.size < _LEAST * picture.size:
        return picture.ravel(), None
    return product, backdrop
