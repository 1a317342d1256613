"""The running sums of a window of photos: all that a watch keeps of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.drift.photo_statistics import PhotoStatistics


@dataclass
class Sums:
    """Sums over the photos of a window.

    Attributes:
        embedding: float64 (dimension,), of the vectors.
        labels: float64 (classes,), how often each class was the most probable; empty without classes.
        photos: how many there are.
        confidence: of the largest probabilities.
        luminance: of the photos' luminance.
        sharpness: of the photos' sharpness.
    """

    embedding: NDArray[np.float64]
    labels: NDArray[np.float64]
    photos: int = 0
    confidence: float = 0.0
    luminance: float = 0.0
    sharpness: float = 0.0

    @classmethod
    def empty(cls, *, dimension: int, classes: int) -> Self:
        """Return the sums of no photo.

        Args:
            dimension: length of a vector.
            classes: number of classes; 0 for a backbone alone.

        Returns:
            The sums.
        """
        return cls(np.zeros(dimension), np.zeros(classes))

    def add(
        self, embedding: NDArray[np.float32], probabilities: NDArray[np.float32], look: PhotoStatistics
    ) -> None:
        """Add a photo.

        Args:
            embedding: its vector.
            probabilities: of the classes; empty without classes.
            look: its luminance and sharpness.
        """
        self.photos += 1
        self.embedding += embedding
        self.luminance += look.luminance
        self.sharpness += look.sharpness
        if len(self.labels):
            self.labels[int(np.argmax(probabilities))] += 1
            self.confidence += float(np.max(probabilities))
