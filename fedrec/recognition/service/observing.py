"""Look at each photo that the service is asked, for metrics and alarms; nothing of a single photo is kept."""

from __future__ import annotations

import logging

from PIL import Image

from fedrec.recognition.drift.photo_statistics import photo_statistics
from fedrec.recognition.drift.watch import Watch
from fedrec.recognition.model import Recognition
from fedrec.recognition.service.metrics import Metrics

_log = logging.getLogger(__name__)


class Observer:
    """Counts photos, and watches whether they differ from the reference.

    Args:
        metrics: counts.
        watch: watches; None without a reference.
    """

    def __init__(self, metrics: Metrics, watch: Watch | None) -> None:
        self._metrics, self._watch = metrics, watch

    def __call__(self, photo: Image.Image, found: Recognition) -> None:
        """Take note of a photo.

        Args:
            photo: the photo.
            found: what the model says of it.
        """
        self._metrics.recognised(found)
        if self._watch is None:
            return
        for alarm in self._watch.add(found.embedding, found.probabilities, photo_statistics(photo)):
            _log.warning("%s", alarm.text)
        self._metrics.watched(self._watch.standing)
