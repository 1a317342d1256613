"""Find the limits of a watch: how far windows of the reference itself are from it, by resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import DataError
from fedrec.recognition.drift.measures import Means, measures
from fedrec.recognition.drift.photo_statistics import PhotoStatistics

CHECKS: Final = (50, 100)
"""Photos of a window after which it is compared with the reference; the last one ends it. At most 199
photos after a change began, there was a window of nothing else."""
FALSE_ALARMS: Final = 0.002
"""Share of windows with an alarm, for all measures and checks together, among windows drawn from the
reference: a fifth of the one in a hundred that is promised."""
LEAST_PHOTOS: Final = 100
_UNSEEN: Final = 3
"""A kind of photo that n photos lack may be 3 / n of all that they stand for, with 95% confidence."""
_WIDENED: Final = 1.2
"""Limits are a fifth beyond that: the photos of a day are more alike than photos drawn one by one."""
_RESAMPLED: Final = 10_000
_MOST_PHOTOS: Final = 1000
"""Of a larger reference, limits are found from so many."""
_AT_ONCE: Final = 500
_SEED: Final = 0


@dataclass(frozen=True)
class Photos:
    """What a model and a look say of each photo of a reference.

    Attributes:
        embeddings: float32 (n, dimension).
        probabilities: float32 (n, classes); no classes for a backbone alone.
        looks: of each photo.
    """

    embeddings: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    looks: Sequence[PhotoStatistics]

    def some(self, places: NDArray[np.int64]) -> Photos:
        """Return the photos at these places."""
        looks = [self.looks[int(place)] for place in places]
        return Photos(self.embeddings[places], self.probabilities[places], looks)

    def means(self, weights: NDArray[np.float64]) -> Means:
        """Return weighted means.

        Args:
            weights: float64 (..., n), whose sum is 1.

        Returns:
            The means, with the leading axes of the weights.
        """
        classes = self.probabilities.shape[1]
        likeliest = self.probabilities.argmax(axis=1) if classes else np.zeros(len(self.looks), dtype=int)
        confidence = self.probabilities.max(axis=1) if classes else np.zeros(len(self.looks))
        return Means(
            embedding=(weights.astype(np.float32) @ self.embeddings).astype(np.float64),
            shares=weights @ np.eye(classes)[likeliest] if classes else np.zeros((*weights.shape[:-1], 0)),
            confidence=weights @ confidence,
            luminance=weights @ np.array([look.luminance for look in self.looks]),
            sharpness=weights @ np.array([look.sharpness for look in self.looks]),
        )


def limits(photos: Photos) -> dict[int, dict[str, float]]:
    """Find the limit of each measure at each check.

    A window is drawn from the photos, and so is the reference that it is compared with: the photos are one
    draw of what they stand for. A model that is sure of nearly all photos is unsure of a few, of which a
    small reference may have none.

    Args:
        photos: of the reference.

    Returns:
        The limits by the number of photos and the measure.

    Raises:
        DataError: there are too few photos.
    """
    count = len(photos.looks)
    if count < LEAST_PHOTOS:
        raise DataError(f"a reference needs {LEAST_PHOTOS} photos or more, not {count}")
    rng = np.random.default_rng(_SEED)
    if count > _MOST_PHOTOS:
        photos = photos.some(rng.choice(count, _MOST_PHOTOS, replace=False))
        count = _MOST_PHOTOS
    found: dict[int, dict[str, float]] = {}
    for size in CHECKS:
        values: dict[str, list[NDArray[np.float64]]] = {}
        for _ in range(0, _RESAMPLED, _AT_ONCE):
            windows, references = (
                rng.multinomial(drawn, np.full(count, 1 / count), size=_AT_ONCE) / drawn
                for drawn in (size, count)
            )
            window = _with_unseen(photos.means(windows), photos, size=size, rng=rng)
            for name, value in measures(window, photos.means(references)).items():
                values.setdefault(name, []).append(value)
        share = FALSE_ALARMS / (len(CHECKS) * len(values))
        found[size] = {
            name: _WIDENED * float(np.quantile(np.concatenate(parts), 1 - share))
            for name, parts in values.items()
        }
    return found


def _with_unseen(means: Means, photos: Photos, *, size: int, rng: np.random.Generator) -> Means:
    """Let some photos of windows be of a kind of which the model is as unsure as can be.

    Args:
        means: of the windows.
        photos: of the reference.
        size: photos of a window.
        rng: draws how many.

    Returns:
        The means.
    """
    classes = photos.probabilities.shape[1]
    if not classes:
        return means
    share = _UNSEEN / (_UNSEEN + len(photos.looks))
    parts = rng.binomial(size, share, size=means.confidence.shape) / size
    return replace(means, confidence=(1 - parts) * means.confidence + parts / classes)
