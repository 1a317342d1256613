"""Show two matching photos: side by side, and one laid on the other."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.recognition.copies.prints import reduced

_GAP: Final = 8
_BACKGROUND: Final = 255


def comparison(photo: Image.Image, other: Image.Image, matrix: NDArray[np.float64]) -> Image.Image:
    """Draw a photo, the other one, and the photo laid on the other one where the match puts it.

    In the third picture each square of a chequered pattern shows one of both: where they are the same, no
    square is to be seen.

    Args:
        photo: the photo.
        other: the photo that it matches.
        matrix: float64 (3, 3), takes points of the photo's print to the other print.

    Returns:
        The three pictures side by side.
    """
    first = np.asarray(reduced(photo).convert("RGB"))
    second = np.asarray(reduced(other).convert("RGB"))
    height, width = second.shape[:2]
    laid = cv2.warpPerspective(first, matrix, (width, height), flags=cv2.INTER_LINEAR)
    inside = cv2.warpPerspective(np.full(first.shape[:2], 255, np.uint8), matrix, (width, height)) > 0
    square = max(8, min(height, width) // 8)
    rows, columns = np.indices((height, width)) // square
    shows_first = inside & ((rows + columns) % 2 == 0)
    both = np.where(shows_first[..., None], laid, second).astype(np.uint8)
    pictures = [first, second, both]
    drawn = np.full(
        (
            max(picture.shape[0] for picture in pictures),
            sum(picture.shape[1] for picture in pictures) + 2 * _GAP,
            3,
        ),
        _BACKGROUND,
        dtype=np.uint8,
    )
    left = 0
    for picture in pictures:
        drawn[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + _GAP
    return Image.fromarray(drawn)
