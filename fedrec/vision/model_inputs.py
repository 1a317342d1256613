"""Inputs of a model from photos: normalised pixels, or the features of frozen networks."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.errors import DataError
from fedrec.vision.backbones.feature_sets import FeatureSet
from fedrec.vision.feature_cache import default_cache_dir
from fedrec.vision.features import Progress, feature_matrices
from fedrec.vision.imageset import ImageSet
from fedrec.vision.model_registry import ModelSpec
from fedrec.vision.normalisation import normalise
from fedrec.vision.products import PRODUCT_PHOTOS, ProductSet
from fedrec.vision.transforms import augmented_views, to_model_input

_FOLDER_SIZE = 64


@dataclass(frozen=True)
class InputShape:
    """Shape of a model's input pictures.

    Attributes:
        channels: 1 or 3.
        size: side in pixels that pictures are scaled to.
    """

    channels: int
    size: int


def input_shape(images: ImageSet, spec: ModelSpec) -> InputShape:
    """Return the shape of a model's inputs for these photos.

    Args:
        images: the photos.
        spec: the model.

    Returns:
        The model's own side, else the side of the data's square pictures, else 64 pixels.
    """
    pixels = images.pixels()
    channels = spec.channels or (3 if pixels is None else int(pixels.shape[3]))
    if spec.image_size is not None:
        return InputShape(channels, spec.image_size)
    if pixels is None or pixels.shape[1] != pixels.shape[2]:
        return InputShape(channels, _FOLDER_SIZE)
    return InputShape(channels, int(pixels.shape[1]))


def model_inputs(
    images: ImageSet, spec: ModelSpec, shape: InputShape, *, views: int, progress: Progress
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Compute the inputs of all records; a view depends on its own record's content alone.

    Args:
        images: n records, photos or products.
        spec: the model.
        shape: shape of its input pictures.
        views: views of each record. Of products 1, for the first photo alone, or a multiple of
            ``PRODUCT_PHOTOS``, for so many views of the photo in each slot.
        progress: called as (done, total).

    Returns:
        uint8 (n, views, H, W, C), or of a model with a feature set float32 (n, views, dimension).

    Raises:
        DataError: there is no record, or a photo can't be read.
    """
    if isinstance(images, ProductSet):
        if views == 1:
            return model_inputs(images.first_photos(), spec, shape, views=1, progress=progress)
        slots = model_inputs(images.slots(), spec, shape, views=views // PRODUCT_PHOTOS, progress=progress)
        return slots.reshape(len(images), views, *slots.shape[2:])
    digests = [record.digest for record in images.records]
    if spec.features is not None:
        return _combined(spec.features, images, digests, views=views, progress=progress)
    pixels = images.pixels()
    if pixels is None or pixels.shape[1:] != (shape.size, shape.size, shape.channels):
        rows = []
        for index in range(len(images)):
            rows.append(
                to_model_input(
                    images.image(index), size=shape.size, channels=shape.channels, margin=spec.margin
                )
            )
            progress(index + 1, len(images))
        if not rows:
            raise DataError("a split holds no picture")
        pixels = np.stack(rows)
    if views == 1:
        return pixels[:, None]
    return augmented_views(pixels, views=views, seeds=digests)


def _combined(
    features: FeatureSet, images: ImageSet, digests: list[bytes], *, views: int, progress: Progress
) -> NDArray[np.float32]:
    """Compute what a feature set is made of, by way of the cache, and put it together."""
    extractors = features.extractors()
    matrices = feature_matrices(
        list(extractors.values()),
        images.image,
        digests,
        views=views,
        cache_dir=default_cache_dir(),
        workers=os.cpu_count() or 1,
        progress=progress,
    )
    return features.combine(dict(zip(extractors, matrices, strict=True)))


def to_inputs(array: NDArray[np.generic], spec: ModelSpec) -> torch.Tensor:
    """Convert stored inputs to the model's own.

    Args:
        array: uint8 pictures (n, views, H, W, C), or float32 features (n, views, dimension).
        spec: the model, whose public constants normalise pictures.

    Returns:
        float32 pictures (n, views, C, H, W), or the features as they are.
    """
    # Copied, since the array may be mapped read-only and torch wants writable memory.
    tensor = torch.from_numpy(np.array(array))
    if tensor.dtype != torch.uint8:
        return tensor
    return normalise(tensor, mean=spec.mean, std=spec.std)
