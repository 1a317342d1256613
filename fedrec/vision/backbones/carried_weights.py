"""Carry the weights of a discriminant over to a linear head on the whole vectors of the same networks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.vision.backbones.feature_sets import FeatureSet
from fedrec.vision.backbones.public_directions import ProjectedSet, public_projection


def carried_weights(
    weights: NDArray[np.float64], *, source: ProjectedSet, target: FeatureSet
) -> NDArray[np.float64]:
    """Turn weights on projected vectors into weights on whole ones.

    A record's scores by both are proportional. They differ by the length that the projection leaves of its
    vector, which is divided out before the weights of the source apply. On photos of clothes that length
    varies by 2% from one record to another.

    Args:
        weights: float64 (classes, source's dimension).
        source: the set that the weights are for.
        target: a set with the same blocks, which may have other weights, and further blocks.

    Returns:
        float64 (classes, target's dimension); zero for the blocks that the source lacks.

    Raises:
        ConfigError: the target lacks a block of the source.
        MissingExtraError: a package is not installed.
    """
    whole = weights @ public_projection(source.blocks, directions=source.directions).T
    lengths = [math.hypot(*(block.weight for block in features.blocks)) for features in (source, target)]
    found = np.zeros((len(weights), target.dimension))
    places = {}
    start = 0
    for block in target.blocks:
        places[replace(block, weight=1.0)] = (start, block.weight)
        start += block.dimension
    start = 0
    for block in source.blocks:
        place = places.get(replace(block, weight=1.0))
        if place is None:
            raise ConfigError(f"the head isn't on {block.backbone.name} as the discriminant is")
        part = whole[:, start : start + block.dimension]
        ratio = (block.weight / lengths[0]) / (place[1] / lengths[1])
        found[:, place[0] : place[0] + block.dimension] = ratio * part
        start += block.dimension
    return found
