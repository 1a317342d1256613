"""Lay one picture on another, and cut out what both show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

_AREA: Final = 160.0 * 160.0
_LONGEST: Final = 1024
_OPAQUE: Final = 255
_LEAST_DEPTH: Final = 1e-3
"""Where a perspective map has less, it takes a corner beyond the horizon."""


@dataclass(frozen=True)
class Overlap:
    """What two pictures both show, in the second one's directions, scaled to about 25,600 pixels.

    Attributes:
        first: luminance of the first picture, float32 (height, width).
        second: the same of the second one.
        inside: uint8 (height, width), not 0 where both are.
        of_first: share of the first picture that lies on the second.
        of_second: share of the second picture that the first lies on.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    inside: NDArray[np.uint8]
    of_first: float
    of_second: float


def overlap(
    first: NDArray[np.uint8], second: NDArray[np.uint8], matrix: NDArray[np.float64]
) -> Overlap | None:
    """Cut out what two pictures both show.

    Args:
        first: luminance (height, width).
        second: the same of another picture.
        matrix: float64 (3, 3), takes points of the first to the second.

    Returns:
        The overlap; None where there is none to speak of.
    """
    height, width = second.shape
    if (_corners(first) @ matrix[2, :2] + matrix[2, 2]).min() < _LEAST_DEPTH:
        return None
    placed = cv2.perspectiveTransform(_corners(first)[None], matrix)[0]
    common, _ = cv2.intersectConvexConvex(placed, _corners(second))
    whole = cv2.contourArea(placed)
    low = np.floor(np.clip(placed.min(axis=0), 0, None))
    high = np.ceil(np.clip(placed.max(axis=0), None, (width, height)))
    if common < 1 or whole < 1 or (high - low).min() < 1:
        return None
    scale = float(np.sqrt(_AREA / common))
    columns, rows = (int(side) for side in np.ceil((high - low) * scale))
    if max(columns, rows) > _LONGEST:
        return None
    # A pixel's centre at x moves to (x + 0.5 - low) * scale - 0.5.
    shift = (0.5 - low) * scale - 0.5
    view = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]], dtype=np.float64)
    one, in_one = _seen(first, view @ matrix, size=(columns, rows))
    two, in_two = _seen(second, view, size=(columns, rows))
    return Overlap(
        first=one,
        second=two,
        inside=in_one & in_two,
        of_first=common / whole,
        of_second=common / (height * width),
    )


def _corners(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = picture.shape
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32) - 0.5


def _seen(
    picture: NDArray[np.uint8], matrix: NDArray[np.float64], *, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    # What shrinks is blurred first: the map takes single pixels.
    shrinks = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    sigma = 0.5 / max(shrinks, 0.05) - 0.5
    values = picture.astype(np.float32)
    source = cv2.GaussianBlur(values, (0, 0), sigma) if shrinks < 0.75 else values
    shown = cv2.warpPerspective(source, matrix, size, flags=cv2.INTER_LINEAR)
    mask = np.full(picture.shape, _OPAQUE, dtype=np.uint8)
    inside = cv2.warpPerspective(mask, matrix, size, flags=cv2.INTER_NEAREST)
    return cast("NDArray[np.float32]", shown), cast("NDArray[np.uint8]", inside)
