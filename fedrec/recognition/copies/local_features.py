"""Local features of a photo (SIFT), also as the mirrored photo has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

MOST_FEATURES: Final = 500
_LEAST_CONTRAST: Final = 0.01
"""Below OpenCV's 0.04: blurred photos and plain garments have few strong features."""
_RATIO: Final = 0.8
"""Lowe's ratio of the distances to the nearest and the second nearest feature."""

_CELLS: Final = 4
_DIRECTIONS: Final = 8
# A descriptor counts gradients by cell and direction, in a frame turned to its feature's own direction. In a
# mirrored photo the frame is mirrored along that direction: rows of cells, and directions, run the other way.
_ORDER: Final = np.arange(_CELLS * _CELLS * _DIRECTIONS).reshape(_CELLS, _CELLS, _DIRECTIONS)
_MIRRORED: Final = _ORDER[::-1][:, :, -np.arange(_DIRECTIONS) % _DIRECTIONS].ravel()
# In a negative all gradients point the other way, and with them the frame: it is turned by half a turn.
_NEGATIVE: Final = _ORDER[::-1, ::-1].ravel()


@dataclass(frozen=True)
class LocalFeatures:
    """Places of a picture that are found again in edited copies of it.

    Attributes:
        points: float32 (n, 2), x and y in pixels.
        descriptors: uint8 (n, 128).
        width: the picture's, in pixels.
    """

    points: NDArray[np.float32]
    descriptors: NDArray[np.uint8]
    width: int

    def mirrored(self) -> LocalFeatures:
        """Return the features of the picture as a mirror shows it, left for right."""
        points = self.points.copy()
        points[:, 0] = self.width - 1 - points[:, 0]
        return LocalFeatures(points, np.ascontiguousarray(self.descriptors[:, _MIRRORED]), self.width)

    def negative(self) -> LocalFeatures:
        """Return the features of the picture's negative."""
        return LocalFeatures(self.points, np.ascontiguousarray(self.descriptors[:, _NEGATIVE]), self.width)


def local_features(luminance: NDArray[np.uint8]) -> LocalFeatures:
    """Find the strongest features of a picture (height, width): ``MOST_FEATURES`` at most."""
    finder = cv2.SIFT.create(nfeatures=MOST_FEATURES, contrastThreshold=_LEAST_CONTRAST)
    found, descriptors = finder.detectAndCompute(luminance, None)
    # With several of one response, the finder returns more than it was asked for.
    found = found[:MOST_FEATURES]
    if not found:
        return LocalFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), luminance.shape[1])
    points = np.array([place.pt for place in found], dtype=np.float32)
    return LocalFeatures(points, descriptors[: len(found)].astype(np.uint8), luminance.shape[1])


def matched(first: LocalFeatures, second: LocalFeatures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pair features of two pictures whose descriptors are much nearer than the second best.

    Args:
        first: features of a picture.
        second: features of another one.

    Returns:
        The points of the pairs in the first and in the second picture, float32 (n, 2) each.
    """
    if not len(first.points) or len(second.points) < 2:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    similarity = rooted(first.descriptors) @ rooted(second.descriptors).T
    nearest = np.argmax(similarity, axis=1)
    rows = np.arange(len(nearest))
    best = similarity[rows, nearest].copy()
    similarity[rows, nearest] = -1.0
    # Of vectors of length 1 the squared distance is 2 - 2 times their inner product.
    clear = 1 - best < _RATIO**2 * (1 - similarity.max(axis=1))
    return first.points[clear], second.points[nearest[clear]]


def rooted(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return float32 (n, 128) of length 1 whose inner product is the Hellinger kernel ("RootSIFT")."""
    values = descriptors.astype(np.float32)
    rooted_values: NDArray[np.float32] = np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))
    return rooted_values
