"""Describe what was done to a photo, from the map of one onto the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fedrec.recognition.copies.decision import Match

_DEGREES: Final = 2.0
_STRETCHED: Final = 1.06
_PERSPECTIVE: Final = 0.04
_WHOLE: Final = 0.97


@dataclass(frozen=True)
class Transformation:
    """What takes a photo to the other one.

    Attributes:
        mirrored: whether one shows the other as a mirror does.
        degrees: by how much the other one, mirrored if it is, was turned anticlockwise; -180 to 180.
        scale: length in the other one for a length in the photo, of their prints.
        stretch: ratio of the scales in two directions, 1 or more.
        perspective: how much the scale varies across the photo, 0 without perspective.
        of_photo: share of the photo that lies on the other one; the rest is a border, text or other photos.
        of_other: share of the other one that the photo shows; the rest was cut off.
        strip: whether only a strip agrees, as in a collage.
        negative: whether light and dark are exchanged.
    """

    mirrored: bool
    degrees: float
    scale: float
    stretch: float
    perspective: float
    of_photo: float
    of_other: float
    strip: bool
    negative: bool = False

    def words(self) -> list[str]:
        """Return the changes in plain words; empty if the photos are the same but for small changes."""
        found = ["in negative"] if self.negative else []
        if self.mirrored:
            found.append("mirrored")
        if abs(self.degrees) > _DEGREES:
            found.append(f"turned by {self.degrees:.0f} degrees")
        if self.stretch > _STRETCHED:
            found.append(f"stretched by {self.stretch:.2f}")
        if self.perspective > _PERSPECTIVE:
            found.append("seen at a slant")
        if self.strip:
            found.append("a strip, as in a collage")
        else:
            if self.of_other < _WHOLE:
                found.append(f"shows {self.of_other:.0%} of the other photo")
            if self.of_photo < _WHOLE:
                found.append(f"fills {self.of_photo:.0%} of the photo")
        return found


def transformation(found: Match, *, size: tuple[int, int]) -> Transformation:
    """Describe a match.

    Args:
        found: the match.
        size: width and height of the photo's print.

    Returns:
        What takes the photo to the other one.
    """
    matrix, middle = found.matrix, (np.array(size) - 1) / 2
    depth = matrix[2] @ (*middle, 1)
    image = (matrix @ (*middle, 1))[:2] / depth
    slope = (matrix[:2, :2] - np.outer(image, matrix[2, :2])) / depth
    mirrored = float(np.linalg.det(slope)) < 0
    if mirrored:
        slope = np.diag([-1.0, 1.0]) @ slope
    largest, smallest = np.linalg.svd(slope, compute_uv=False)
    corners = np.array([[x, y, 1] for x in (0, size[0]) for y in (0, size[1])]) @ matrix[2]
    # With y pointing down, this angle is clockwise: the map turns back what was turned anticlockwise.
    turned = np.degrees(np.arctan2(slope[1, 0] - slope[0, 1], slope[0, 0] + slope[1, 1]))
    return Transformation(
        mirrored=mirrored,
        degrees=float(turned),
        scale=float(np.sqrt(largest * smallest)),
        stretch=float(largest / smallest),
        perspective=float(corners.max() / corners.min() - 1) if corners.min() > 0 else 1.0,
        of_photo=found.of_first,
        of_other=found.of_second,
        strip=found.test == "strip",
    )
