"""Watch a model at work: an alarm when the photos differ from the reference."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.drift.measures import MEASURES, Means, measures
from fedrec.recognition.drift.photo_statistics import PhotoStatistics
from fedrec.recognition.drift.reference import Reference
from fedrec.recognition.drift.sums import Sums


@dataclass(frozen=True)
class Alarm:
    """A measure beyond its limit.

    Attributes:
        measure: its name, a key of :data:`MEASURES`.
        value: what was measured.
        limit: the limit.
        photos: photos of the window.
        label: the class that grew, for ``one-class``.
    """

    measure: str
    value: float
    limit: float
    photos: int
    label: str | None = None

    @property
    def text(self) -> str:
        """Say what is wrong, for an operator."""
        meaning = MEASURES[self.measure]
        which = "" if self.label is None else f" ({self.label})"
        return f"{meaning.problem[:-1]}{which}. Look at: {meaning.cause[0].lower()}{meaning.cause[1:]}"


@dataclass(frozen=True)
class Standing:
    """How things stood at the latest check.

    Attributes:
        windows: windows that have ended.
        alarmed: how many of them had an alarm.
        values: each measure; empty before the first check.
        limits: the limit of each.
        alarms: of the window.
    """

    windows: int
    alarmed: int
    values: dict[str, float]
    limits: dict[str, float]
    alarms: tuple[Alarm, ...]


class Watch:
    """A watch over the photos that a model is asked, for several threads.

    It keeps sums of the current window in memory, and nothing of a single photo or of a window that has ended
    but its measures.

    Args:
        reference: what photos usually look like.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._means = reference.means
        self._checks = sorted(reference.limits)
        self._mutex = threading.Lock()
        self._sums = self._fresh()
        self._alarms: dict[str, Alarm] = {}
        self._standing = Standing(0, 0, {}, {}, ())

    @property
    def standing(self) -> Standing:
        """Return how things stood at the latest check."""
        with self._mutex:
            return self._standing

    def add(
        self, embedding: NDArray[np.float32], probabilities: NDArray[np.float32], look: PhotoStatistics
    ) -> tuple[Alarm, ...]:
        """Add a photo that the model was asked.

        Args:
            embedding: its vector, of length 1.
            probabilities: of the classes; empty for a backbone alone.
            look: its luminance and sharpness.

        Returns:
            Alarms that this photo's check raises; each measure raises one in a window.
        """
        with self._mutex:
            self._sums.add(embedding, probabilities, look)
            return self._check() if self._sums.photos in self._reference.limits else ()

    def _check(self) -> tuple[Alarm, ...]:
        count = self._sums.photos
        window = Means(
            embedding=self._sums.embedding / count,
            shares=self._sums.labels / count,
            confidence=np.array(self._sums.confidence / count),
            luminance=np.array(self._sums.luminance / count),
            sharpness=np.array(self._sums.sharpness / count),
        )
        limits = self._reference.limits[count]
        values = {name: float(value) for name, value in measures(window, self._means).items()}
        raised = []
        for name, value in values.items():
            # Not-a-number is beyond every limit.
            if name in limits and not value <= limits[name] and name not in self._alarms:
                label = self._grown(window) if name == "one-class" else None
                raised.append(Alarm(name, value, limits[name], count, label))
        self._alarms |= {alarm.measure: alarm for alarm in raised}
        ended = count == self._checks[-1]
        self._standing = Standing(
            windows=self._standing.windows + ended,
            alarmed=self._standing.alarmed + (ended and bool(self._alarms)),
            values=values,
            limits=limits,
            alarms=tuple(self._alarms.values()),
        )
        if ended:
            self._sums, self._alarms = self._fresh(), {}
        return tuple(raised)

    def _grown(self, window: Means) -> str:
        return self._reference.classes[int(np.argmax(window.shares - self._means.shares))]

    def _fresh(self) -> Sums:
        return Sums.empty(dimension=len(self._reference.embedding), classes=len(self._reference.classes))
