"""Local features of a photo (SIFT), also as the mirrored photo has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.copies.seams import Cell

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
    """Find the ``MOST_FEATURES`` strongest features of a picture (height, width), in that order."""
    finder = cv2.SIFT.create(nfeatures=MOST_FEATURES, contrastThreshold=_LEAST_CONTRAST)
    found, descriptors = finder.detectAndCompute(luminance, None)
    # In any order; with several of one response, more than were asked for.
    order = np.argsort([-place.response for place in found], kind="stable")[:MOST_FEATURES]
    if not len(order):
        return LocalFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), luminance.shape[1])
    points = np.array([found[place].pt for place in order], dtype=np.float32)
    return LocalFeatures(points, descriptors[order].astype(np.uint8), luminance.shape[1])


@dataclass(frozen=True)
class Pairs:
    """Features of two pictures that look alike.

    Attributes:
        source: points of the first picture, or of its mirror image; float32 (n, 2).
        target: points of the second picture, float32 (n, 2).
        mirrored: whether the first picture is mirrored, left for right.
        width: the first picture's.
    """

    source: NDArray[np.float32]
    target: NDArray[np.float32]
    mirrored: bool
    width: int

    def inside(self, cell: Cell) -> Pairs:
        """Return those whose first point lies in a part of the first picture."""
        x, y = self.source.T
        if self.mirrored:
            x = self.width - 1 - x
        chosen = (x >= cell.left) & (x < cell.right) & (y >= cell.top) & (y < cell.bottom)
        return Pairs(self.source[chosen], self.target[chosen], self.mirrored, self.width)


class Sought:
    """Features of a picture that is compared with many: what all comparisons need is computed once.

    Args:
        features: of the picture.

    Attributes:
        width: the picture's.
    """

    def __init__(self, features: LocalFeatures) -> None:
        both = features, features.mirrored()
        self.width = features.width
        self._points = [each.points for each in both]
        self._rooted = np.concatenate([rooted(each.descriptors) for each in both])

    def matched(self, other: LocalFeatures) -> list[Pairs]:
        """Pair features with those of another picture that are much nearer than the second best.

        Args:
            other: features of the other picture.

        Returns:
            The pairs of the picture as it is, and those of its mirror image.
        """
        if not len(self._rooted) or len(other.points) < 2:
            return []
        similarity = self._rooted @ rooted(other.descriptors).T
        nearest = np.argmax(similarity, axis=1)
        rows = np.arange(len(nearest))
        best = similarity[rows, nearest].copy()
        similarity[rows, nearest] = -1.0
        # Of vectors of length 1 the squared distance is 2 - 2 times their inner product.
        clear = 1 - best < _RATIO**2 * (1 - similarity.max(axis=1))
        count = len(self._points[0])
        halves = (slice(0, count), slice(count, None))
        return [
            Pairs(points[clear[half]], other.points[nearest[half][clear[half]]], mirrored, self.width)
            for points, half, mirrored in zip(self._points, halves, (False, True), strict=True)
        ]


def rooted(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return float32 (n, 128) of length 1 whose inner product is the Hellinger kernel ("RootSIFT")."""
    values = descriptors.astype(np.float32)
    rooted_values: NDArray[np.float32] = np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))
    return rooted_values
