"""Choose the best packaged model for a data set by the size of its pictures."""

from __future__ import annotations

from statistics import median
from typing import Final

import numpy as np

from fedrec.vision.imageset import ImageSet

BEST: Final = "best"
"""Name that stands for the best packaged model."""
_OF_PHOTOS: Final = "lite0-lite2-views-head"
_OF_SMALL_PICTURES: Final = "lite0-small-head"
_LARGEST_SMALL: Final = 96
"""Side in pixels up to which a network gains nothing from its own, larger pictures and several views."""
_LOOKED_AT: Final = 25


def chosen_model(name: str, images: ImageSet | None = None) -> str:
    """Return the name of a model; ``best`` becomes the best packaged one.

    Heads on frozen networks are the best that there is for photos of products at any budget that protects:
    they have few parameters, and the networks cost nothing. The choice looks at the size of pictures alone.

    Args:
        name: as on the command line.
        images: the training pictures, or public ones like them; None for photos.

    Returns:
        The name of a registered model, or ``name`` itself.

    Raises:
        DataError: a picture can't be read.
    """
    if name != BEST:
        return name
    if images is None or not len(images) or _side(images) > _LARGEST_SMALL:
        return _OF_PHOTOS
    return _OF_SMALL_PICTURES


def _side(images: ImageSet) -> float:
    """Return the median short side in pixels of some pictures, spread over the set."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).astype(int)
    return median(min(images.image(int(index)).size) for index in chosen)
