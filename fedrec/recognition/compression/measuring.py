"""Measure a compressed graph against the original: size, time, agreement, accuracy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.recognition.bundle.photo_inputs import prepared
from fedrec.recognition.bundle.session import Session

SURE: Final = 0.5
"""Foreign photos count for the agreement if the original gives a class at least this probability."""
LEAST_COUNTED: Final = 50
"""Where it is sure of fewer, these many of which it is surest count: a few say nothing of 97%."""
_REPEATS: Final = 11


@dataclass(frozen=True)
class PhotoSample:
    """Photos to measure on.

    Attributes:
        photos: the photos.
        labels: number of each photo's class; None where it isn't one of the model's.
        text: what they are.
        foreign: whether they show other things than the model was trained on, so that it is often unsure.
    """

    photos: Sequence[Image.Image]
    labels: Sequence[int | None]
    text: str
    foreign: bool


@dataclass(frozen=True)
class Measurement:
    """What a graph does.

    Attributes:
        probabilities: float32 (n, classes), of the photos.
        milliseconds: processor time of one photo on one core, median.
    """

    probabilities: NDArray[np.float32]
    milliseconds: float

    def accuracy(self, labels: Sequence[int | None]) -> float | None:
        """Return the share of labelled photos that it recognises; None without labels."""
        known = [(row, label) for row, label in enumerate(labels) if label is not None]
        if not known:
            return None
        found = self.probabilities.argmax(axis=1)
        return float(np.mean([found[row] == label for row, label in known]))


def measured(session: Session, photos: Sequence[Image.Image], *, beside: Session) -> Measurement:
    """Measure a graph.

    Args:
        session: the graph.
        photos: the photos.
        beside: another graph, which is run in turn with it, so that a slow moment hits both.

    Returns:
        The measurement.
    """
    rows = [session.run(prepared(session.inputs, [photo])).probabilities[0] for photo in photos]
    pictures, others = prepared(session.inputs, [photos[0]]), prepared(beside.inputs, [photos[0]])
    times = []
    for _ in range(_REPEATS):
        beside.run(others)
        session.run(pictures)
        started = time.process_time()
        session.run(pictures)
        times.append(time.process_time() - started)
    return Measurement(np.stack(rows), 1000 * statistics.median(times))


def agreement(original: Measurement, other: Measurement, *, foreign: bool) -> tuple[float, int]:
    """Compute the share of photos to which two graphs give the same class.

    Args:
        original: of the original.
        other: of the compressed graph.
        foreign: whether to count only photos of which the original is sure, or surest.

    Returns:
        The share, and the number of photos that count.
    """
    largest = original.probabilities.max(axis=1)
    counted = np.ones(len(largest), dtype=bool)
    if foreign and len(largest) > LEAST_COUNTED:
        counted = largest >= min(SURE, float(np.partition(largest, -LEAST_COUNTED)[-LEAST_COUNTED]))
    same = original.probabilities.argmax(axis=1) == other.probabilities.argmax(axis=1)
    return float(same[counted].mean()), int(counted.sum())
