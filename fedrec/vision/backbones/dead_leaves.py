"""Dead-leaves pictures: shapes that hide one another, with the statistics of natural pictures.

Sizes follow a power law (Lee, Mumford and Huang 2001, "Occlusion Models for Natural Images"). They are drawn
from a seed, so that statistics taken from them are public: no photo of anybody is looked at.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MOST_SHAPES: Final = 13
_SMALLEST_RADIUS: Final = 2.0
_STRIPES: Final = 0.25
_GRAIN: Final = 0.01


def dead_leaves(count: int, *, size: int, seed: int) -> NDArray[np.uint8]:
    """Draw grey pictures of ellipses and boxes, some of them striped, on a plain ground.

    Args:
        count: n, how many.
        size: side in pixels.
        seed: of NumPy's default generator.

    Returns:
        uint8 (n, size, size).
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64)
    pictures = np.empty((count, size, size), dtype=np.uint8)
    for picture in pictures:
        grey = np.full((size, size), rng.uniform() ** 2)
        for _ in range(rng.integers(1, _MOST_SHAPES + 1)):
            _cover(grey, rows, columns, rng)
        picture[:] = np.clip(255 * (grey + rng.normal(0, _GRAIN, grey.shape)), 0, 255)
    return pictures


def _cover(
    grey: NDArray[np.float64],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Lay one more shape over a picture, in place."""
    size = len(grey)
    radius = _SMALLEST_RADIUS * (1 - 0.95 * rng.uniform()) ** -0.6
    angle, flatness = rng.uniform(0, math.pi), rng.uniform(0.3, 1)
    x, y = columns - rng.uniform(0, size), rows - rng.uniform(0, size)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = (y * math.cos(angle) - x * math.sin(angle)) / flatness
    if rng.uniform() < 0.5:
        inside = along**2 + across**2 < radius**2
    else:
        inside = (abs(along) < radius) & (abs(across) < radius)
    height = rng.uniform(0, _STRIPES) * (rng.uniform() < 0.5)
    stripes = height * np.sin(rng.uniform(0.3, 2.5) * along + rng.uniform(0, 2 * math.pi))
    shade = np.clip(rng.uniform() + stripes, 0, 1)
    grey[inside] = shade[inside]
