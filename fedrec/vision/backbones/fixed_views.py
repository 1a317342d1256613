"""Fixed views of a photo: the ways in which it becomes a network's square picture.

They are public and depend on the photo alone, and the features of a record's views are averaged into one
vector before anything is clipped. A record is one vector however many views there are, unlike the augmented
views of a plan, each of which has a gradient of its own.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.errors import ConfigError
from fedrec.vision.backbones.view_names import VIEWS, FixedView
from fedrec.vision.transforms import TRANSFORM_ID, to_model_input

CROP_MARGIN: Final = 8 / 7
"""Short side before the centre crop of ``crop`` and ``flip``, in crop sides."""

_VERSION: Final = "views1"


def view_id(view: FixedView) -> str:
    """Name a view and the version of the code that makes it, for keys of caches."""
    return f"{TRANSFORM_ID} {_VERSION} {view}"


def fixed_view(image: Image.Image, view: FixedView, *, size: int) -> NDArray[np.uint8]:
    """Make one view of a photo.

    Args:
        image: an RGB or grey photo.
        view: which one, of :data:`VIEWS`.
        size: side of the result in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ConfigError: there is no such view, or ``size`` is below 1.
    """
    if view == "wide":
        return to_model_input(image, size=size, channels=3)
    if view == "squash":
        return _squashed(image, size=size)
    if view == "crop":
        return to_model_input(image, size=size, channels=3, margin=CROP_MARGIN)
    if view == "flip":
        mirrored = to_model_input(image, size=size, channels=3, margin=CROP_MARGIN)[:, ::-1]
        return np.ascontiguousarray(mirrored)
    raise ConfigError(f"there is no view {view!r}; choose one of {', '.join(VIEWS)}")


def _squashed(image: Image.Image, *, size: int) -> NDArray[np.uint8]:
    if size < 1:
        raise ConfigError(f"a view needs a size of 1 or more, not {size}")
    picture = image if image.mode == "RGB" else image.convert("RGB")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(picture, dtype=np.uint8)
