"""Compute photos' vectors on the path that a training takes: by the extractors, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fedrec.vision.backbones.feature_sets import FeatureSet
from fedrec.vision.backbones.frozen_part import FrozenPart


def vectors_as_trained(features: FeatureSet, photos: Sequence[Image.Image]) -> NDArray[np.float32]:
    """Compute the vectors that a model on frozen networks takes, without augmented views.

    Args:
        features: the model's feature set.
        photos: n photos.

    Returns:
        float32 (n, dimension).
    """
    found = {
        place: np.stack([extractor(extractor.prepare(each)[None]) for each in photos])
        for place, extractor in features.extractors(dtype=torch.float32).items()
    }
    return features.combine(found)[:, 0]


def tokens_as_trained(tokens: FrozenPart, photos: Sequence[Image.Image]) -> NDArray[np.float32]:
    """Compute the tokens that a model takes, with all digits instead of those that the cache keeps.

    Args:
        tokens: the model's frozen part.
        photos: n photos.

    Returns:
        float32 (n, count, width).
    """
    extractor = tokens.extractor(dtype=torch.float32)
    rows = [extractor(extractor.prepare(each)[None]) for each in photos]
    return np.concatenate(rows).reshape(len(photos), *tokens.shape)
