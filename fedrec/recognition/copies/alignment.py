"""Find the map from one picture onto another that takes features to the features they match."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.copies.local_features import Pairs

LEAST_INLIERS: Final = 6
_NEAR: Final = 4.0
"""Pixels that a matched point may lie beside where the map takes it."""
_AROUND: Final = 16.0
"""The same for matches among which a perspective map is looked for, after one without perspective."""
_TRIALS: Final = 2000
_SCALES: Final = (0.1, 10.0)
_MOST_STRETCH: Final = 4.0
_MOST_PERSPECTIVE: Final = 0.5


@dataclass(frozen=True)
class Alignment:
    """Where a picture lies in another one.

    Attributes:
        matrix: float64 (3, 3), takes points (x, y, 1) of the first picture to the second.
        inliers: matched features that agree with it; 0 where it wasn't found by features.
    """

    matrix: NDArray[np.float64]
    inliers: int


def mirror(width: int) -> NDArray[np.float64]:
    """Return the matrix (3, 3) that swaps left and right of a picture."""
    return np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def alignments(matched: Iterable[Pairs]) -> list[Alignment]:
    """Find plausible maps from one picture onto another, also mirrored ones; the best first."""
    found = [alignment for pairs in matched for alignment in _aligned(pairs)]
    return sorted(found, key=lambda alignment: -alignment.inliers)


def _aligned(pairs: Pairs) -> list[Alignment]:
    source, target = pairs.source, pairs.target
    if len(source) < LEAST_INLIERS:
        return []
    affine, _ = cv2.estimateAffine2D(
        source, target, method=cv2.USAC_MAGSAC, ransacReprojThreshold=_NEAR, maxIters=_TRIALS
    )
    if affine is None or not np.isfinite(affine).all():
        return []
    maps = [np.vstack([affine, [0.0, 0.0, 1.0]])]
    near = _distances(maps[0], source, target) < _AROUND
    if near.sum() > LEAST_INLIERS:
        full, _ = cv2.findHomography(source[near], target[near], cv2.USAC_MAGSAC, _NEAR, maxIters=_TRIALS)
        if full is not None and np.isfinite(full).all():
            maps.append(full)
    found = []
    for matrix in maps:
        inliers = int((_distances(matrix, source, target) < _NEAR).sum())
        if inliers >= LEAST_INLIERS and _plausible(matrix, source):
            found.append(Alignment(matrix @ mirror(pairs.width) if pairs.mirrored else matrix, inliers))
    return found


def _distances(
    matrix: NDArray[np.float64], source: NDArray[np.float32], target: NDArray[np.float32]
) -> NDArray[np.float64]:
    mapped = source @ matrix[:, :2].T + matrix[:, 2]
    depth = np.where(mapped[:, 2] > 1e-6, mapped[:, 2], np.nan)
    distances = np.linalg.norm(mapped[:, :2] / depth[:, None] - target, axis=1)
    return np.where(np.isnan(distances), np.inf, distances)


def _plausible(matrix: NDArray[np.float64], source: NDArray[np.float32]) -> bool:
    """Return whether a map neither mirrors, nor shrinks, stretches or tilts beyond what people do."""
    depth = source @ matrix[2, :2] + matrix[2, 2]
    if depth.min() <= 0 or depth.max() > depth.min() * (1 + _MOST_PERSPECTIVE) / (1 - _MOST_PERSPECTIVE):
        return False
    x, y = source.mean(axis=0)
    bottom = matrix[2] @ (x, y, 1)
    middle = (matrix @ (x, y, 1))[:2] / bottom
    slope = (matrix[:2, :2] - np.outer(middle, matrix[2, :2])) / bottom
    largest, smallest = np.linalg.svd(slope, compute_uv=False)
    return bool(
        np.linalg.det(slope) > 0
        and _SCALES[0] <= smallest
        and largest <= _SCALES[1]
        and largest <= _MOST_STRETCH * smallest
    )
