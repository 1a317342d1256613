"""Choose a training's model: the best packaged one by the size of pictures, and that of the method."""

from __future__ import annotations

from statistics import median
from typing import Final

import numpy as np

from fedrec.errors import ConfigError
from fedrec.protocol.plan import Method
from fedrec.vision import model_registry
from fedrec.vision.imageset import ImageSet

BEST: Final = "best"
"""Name that stands for the best packaged model."""
_OF_PHOTOS: Final = "lite0-lite2-views-head"
_OF_SMALL_PICTURES: Final = "lite0-small-head"
_LARGEST_SMALL: Final = 96
"""Side in pixels up to which a network gains nothing from its own, larger pictures and several views."""
_LOOKED_AT: Final = 25


def chosen_model(name: str, images: ImageSet | None = None, *, method: Method = "steps") -> str:
    """Return the name of a model; ``best`` becomes the best packaged one, a head that of the method.

    Heads on frozen networks are the best that there is for photos of products at any budget that protects:
    they have few parameters, and the networks cost nothing. The choice looks at the size of pictures alone.

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
        small = images is not None and len(images) and _side(images) <= _LARGEST_SMALL
        name = _OF_SMALL_PICTURES if small else _OF_PHOTOS
    if method == "steps":
        return name
    found = model_registry.get(name).one_round if name in model_registry.names() else None
    if found is None:
        raise ConfigError(
            f"--method one-round takes a model on features of a frozen network, and {name} is none: "
            "leave out --model, or give one such as lite2-views-head"
        )
    return found


def _side(images: ImageSet) -> float:
    """Return the median short side in pixels of some pictures, spread over the set."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).astype(int)
    return median(min(images.image(int(index)).size) for index in chosen)
