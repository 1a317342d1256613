"""Inputs of a model from photos: normalised pixels, or the features of frozen networks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.errors import DataError
from fedrec.vision.backbones.feature_sets import FeatureSet
from fedrec.vision.feature_cache import FeatureExtractor, default_cache_dir
from fedrec.vision.features import Progress, feature_matrices
from fedrec.vision.imageset import ImageSet
from fedrec.vision.model_spec import ModelSpec
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
) -> NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.float16]:
    """Compute the inputs of all records; a view depends on its own record's content alone.

    Args:
        images: n records, photos or products.
        spec: the model.
        shape: shape of its input pictures.
        views: views of each record. Of products 1, for the first photo alone, or a multiple of
            ``PRODUCT_PHOTOS``, for so many views of the photo in each slot.
        progress: called as (done, total).

    Returns:
        uint8 (n, views, H, W, C); of a model with a feature set float32 (n, views, dimension); of one with
        frozen blocks float16 (n, views, count, width), mapped from disk where they are many.

    Raises:
        DataError: there is no record, or a photo can't be read.
    """
    if isinstance(images, ProductSet):
        if views == 1:
            return model_inputs(images.first_photos(), spec, shape, views=1, progress=progress)
        slots = model_inputs(images.slots(), spec, shape, views=views // PRODUCT_PHOTOS, progress=progress)
        return slots.reshape(len(images), views, *slots.shape[2:])
    if spec.features is not None:
        return _combined(spec.features, images, views=views, progress=progress)
    if spec.tokens is not None:
        extractors = [spec.tokens.extractor()]
        (tokens,) = _cached(extractors, images, views=views, progress=progress)
        return tokens.reshape(len(images), views, *spec.tokens.shape)
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
    return augmented_views(pixels, views=views, seeds=[record.digest for record in images.records])


def _combined(
    features: FeatureSet, images: ImageSet, *, views: int, progress: Progress
) -> NDArray[np.float32]:
    """Compute what a feature set is made of, by way of the cache, and put it together."""
    extractors = features.extractors()
    matrices = _cached(list(extractors.values()), images, views=views, progress=progress)
    return features.combine(dict(zip(extractors, matrices, strict=True)))


def _cached(
    extractors: Sequence[FeatureExtractor], images: ImageSet, *, views: int, progress: Progress
) -> list[NDArray[np.float16]]:
    return feature_matrices(
        extractors,
        images.image,
        [record.digest for record in images.records],
        views=views,
        cache_dir=default_cache_dir(),
        workers=os.cpu_count() or 1,
        progress=progress,
    )


def to_inputs(array: NDArray[np.generic], spec: ModelSpec) -> torch.Tensor:
    """Convert stored inputs to the model's own.

    Args:
        array: uint8 pictures (n, views, H, W, C), float32 features (n, views, dimension), or float16 tokens
            (n, views, count, width), in memory or mapped from disk so that they can be written to.
        spec: the model, whose public constants normalise pictures.

    Returns:
        float32 pictures (n, views, C, H, W), or features or tokens as they are. Mapped tokens stay on
        disk until they are used.
    """
    if array.dtype == np.float16:
        return torch.from_numpy(array)
    # Copied, since the array may be mapped read-only and torch wants writable memory.
    tensor = torch.from_numpy(np.array(array))
    if tensor.dtype != torch.uint8:
        return tensor
    return normalise(tensor, mean=spec.mean, std=spec.std)
