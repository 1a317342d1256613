"""Run a frozen network on pictures, so that a picture's features depend on nothing but the picture.

A photo's features must be the same whichever other photos a merchant has: a training charges each photo for
its own influence alone. Every batch therefore has one fixed size. Where this machine's kernels compute the
pictures of a batch differently by their places, which is found out once a process, each picture gets a batch
of its own.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from fedrec.vision.feature_cache import FeatureExtractor

_alike: dict[Hashable, bool] = {}


def features_in_batches(extractor: FeatureExtractor, pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Compute features in batches of the extractor's size.

    Args:
        extractor: the frozen network.
        pictures: uint8 (n, views, size, size, 3).

    Returns:
        float16 (n, views, dimension). A picture with a feature that isn't finite has zeros: what it gives
        must not keep the others' from being cached.
    """
    count, views = pictures.shape[:2]
    found = np.empty((count, views, extractor.dimension), dtype=np.float16)
    batch = np.zeros((extractor.batch, *pictures.shape[2:]), dtype=np.uint8)
    step = extractor.batch if _places_are_alike(extractor) else 1
    for view in range(views):
        for start in range(0, count, step):
            rows = pictures[start : start + step, view]
            batch[: len(rows)] = rows
            batch[len(rows) :] = 0
            found[start : start + len(rows), view] = extractor(batch)[: len(rows)]
    found[~np.isfinite(found).all(axis=2)] = 0
    return found


def _places_are_alike(extractor: FeatureExtractor) -> bool:
    """Return whether random pictures have the same features, as stored, in several places of a batch."""
    size, side = extractor.batch, extractor.image_size
    key = (extractor.name, extractor.weights_hash, extractor.dtype, size, side)
    if size > 1 and key not in _alike:
        # Noise and large patches: both depend on the seed alone.
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8)
        noise[::2] = noise[::2, :1, :1]
        usual = _stored(extractor, noise)
        _alike[key] = all(
            np.array_equal(np.roll(_stored(extractor, np.roll(noise, shift, axis=0)), -shift, axis=0), usual)
            for shift in {1, size // 2, size - 1}
        )
    return size == 1 or _alike[key]


def _stored(extractor: FeatureExtractor, pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
    return extractor(pictures).astype(np.float16)
