"""Prepare a photo for a graph: the pictures that it takes, by scaling and cutting alone; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, StringConstraints

from fedrec.protocol.schema import Strict
from fedrec.vision.backbones.fixed_views import fixed_view
from fedrec.vision.transforms import to_model_input

Fit = Literal["crop", "squash"]
"""How a photo becomes square: its middle, or all of it out of proportion."""

LARGEST_SIDE = 1024


class PhotoInput(Strict):
    """One input of a graph: a square picture, uint8 (n, size, size, channels).

    Attributes:
        name: of the input.
        size: side in pixels.
        channels: 3 for colour, 1 for grey.
        fit: how a photo becomes square.
        margin: short side of the photo before it is cut, in sides of the picture.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    size: Annotated[int, Field(ge=8, le=LARGEST_SIDE)]
    channels: Literal[1, 3]
    fit: Fit
    margin: Annotated[float, Field(ge=1, le=4)] = 1.0

    def picture(self, photo: Image.Image) -> NDArray[np.uint8]:
        """Make the picture of a photo, uint8 (size, size, channels)."""
        if self.fit == "squash":
            return fixed_view(photo, "squash", size=self.size)
        return to_model_input(photo, size=self.size, channels=self.channels, margin=self.margin)

    def shown(self, photo: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of a photo that the picture shows.

        Args:
            photo: width and height in pixels.

        Returns:
            Left, top, right and bottom edge, in pixels.
        """
        width, height = photo
        if self.fit == "squash":
            return 0.0, 0.0, float(width), float(height)
        side = min(width, height) / self.margin
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side


def prepared(inputs: Sequence[PhotoInput], photos: Sequence[Image.Image]) -> dict[str, NDArray[np.uint8]]:
    """Make all inputs of photos.

    Args:
        inputs: a graph's.
        photos: n photos.

    Returns:
        uint8 (n, size, size, channels) by the input's name.
    """
    return {each.name: np.stack([each.picture(photo) for photo in photos]) for each in inputs}
