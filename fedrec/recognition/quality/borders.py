"""Find frames and bars around a picture: whole rows or columns of one colour that end at a straight line."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from fedrec.recognition.quality.luminance import Luminance, luminance

_SAME: Final = 12.0
"""Values of one colour differ by less, also after a JPEG file."""
_STEP: Final = 20.0
_CHANGED: Final = 0.6
"""A bar ends where so many pixels of a line differ from it; a backdrop ends at a product's outline."""
_MOST: Final = 0.45
_MIXED: Final = 4


def border_share(photo: Image.Image) -> float:
    """Return the width of the widest bar at a side, as a share of the photo's extent in that direction."""
    picture = luminance(photo)
    sides = (picture, picture[::-1], picture.T, picture.T[::-1])
    return max(_bar(side) / len(side) for side in sides)


def _bar(picture: Luminance) -> int:
    """Return the number of rows of a bar at the top."""
    limit = int(_MOST * len(picture))
    colour = float(np.median(picture[0]))
    same = np.quantile(np.abs(picture[: limit + 1] - colour), 0.99, axis=1) < _SAME
    rows = int(np.argmin(same)) if not same.all() else limit + 1
    if rows == 0 or rows > limit:
        return 0
    # A reduced or compressed picture has rows of mixed colours at the end of a bar.
    after = picture[rows : rows + _MIXED]
    changed = (np.abs(after - colour) > _STEP).mean(axis=1).max()
    return rows if changed >= _CHANGED else 0
