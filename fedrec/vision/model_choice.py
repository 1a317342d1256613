"""Choose a training's model: the best packaged one for the pictures, and that of the method."""

from __future__ import annotations

from statistics import median
from typing import Final

import numpy as np
from PIL import Image

from fedrec.errors import ConfigError
from fedrec.protocol.plan import Method
from fedrec.vision import model_registry
from fedrec.vision.imageset import ImageSet

BEST: Final = "best"
"""Name that stands for the best packaged model."""
_OF_PHOTOS: Final = "lite0-lite2-views-head"
_OF_SMALL_PICTURES: Final = "lite0-small-head"
_OF_SMALL_GREY_PICTURES: Final = "scattering-lite0-head"
_LARGEST_SMALL: Final = 96
"""Side in pixels up to which a network gains nothing from its own, larger pictures and several views."""
_LOOKED_AT: Final = 25


def chosen_model(name: str, images: ImageSet | None = None, *, method: Method = "steps") -> str:
    """Return the name of a model; ``best`` becomes the best packaged one, a head that of the method.

    Heads on frozen networks are the best that there is for photos of products at any budget that protects:
    they have few parameters, and the networks cost nothing. The choice looks at the size of some pictures and
    at whether they have colours.

    Args:
        name: as on the command line.
        images: the training pictures, or public ones like them; None for photos.
        method: with ``one-round``, the model that one round solves from the same networks.

    Returns:
        The name of a registered model, or ``name`` itself.

    Raises:
        ConfigError: the method is ``one-round``, and there is no such model for this one.
        DataError: a picture can't be read.
    """
    if name == BEST:
        name = _best(images)
    if method == "steps":
        return name
    found = model_registry.get(name).one_round if name in model_registry.names() else None
    if found is None:
        raise ConfigError(
            f"--method one-round takes a model on features of a frozen network, and {name} is none: "
            "leave out --model, or give one such as lite2-views-head"
        )
    return found


def _best(images: ImageSet | None) -> str:
    if images is None or not len(images):
        return _OF_PHOTOS
    spread = np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).astype(int)
    looked_at = [images.image(int(index)) for index in spread]
    if median(min(picture.size) for picture in looked_at) > _LARGEST_SMALL:
        return _OF_PHOTOS
    return _OF_SMALL_GREY_PICTURES if all(map(_is_grey, looked_at)) else _OF_SMALL_PICTURES


def _is_grey(picture: Image.Image) -> bool:
    """Tell whether each pixel's colours are equal."""
    red, green, blue = picture.convert("RGB").split()
    return red.tobytes() == green.tobytes() == blue.tobytes()
