"""Count what the service does, as Prometheus reads it; nothing of a photo but its class and confidence."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fedrec.recognition.drift.watch import Standing
from fedrec.recognition.model import Recognition

_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class Metrics:
    """The service's metrics.

    Args:
        classes: the model's, each a value of a label.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._names = tuple(classes)
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "fedrec_service_seconds",
            "Time of a request, waiting included",
            ["path", "outcome"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._confidence = Histogram(
            "fedrec_service_confidence",
            "Probability of the most probable class",
            buckets=_SHARES,
            registry=self._registry,
        )
        self._classes = Counter(
            "fedrec_service_photos", "Photos by their most probable class", ["class"], registry=self._registry
        )
        self._alarm = Gauge(
            "fedrec_service_alarm",
            "1 while a measure of the current window of photos is beyond its limit",
            ["measure"],
            registry=self._registry,
        )
        self._drift = Gauge(
            "fedrec_service_drift",
            "What was measured of the current window of photos",
            ["measure"],
            registry=self._registry,
        )
        for name in classes:
            self._classes.labels(name)

    @contextmanager
    def timing(self, path: str) -> Iterator[None]:
        """Measure a request.

        Args:
            path: the route, never what a client wrote.

        Yields:
            None.
        """
        begun = time.perf_counter()
        outcome = "refused"
        try:
            yield
            outcome = "answered"
        finally:
            self._seconds.labels(path, outcome).observe(time.perf_counter() - begun)

    def recognised(self, found: Recognition) -> None:
        """Count a photo by its class and the class's probability."""
        if not self._names:
            return
        self._classes.labels(self._names[found.label]).inc()
        self._confidence.observe(float(found.probabilities[found.label]))

    def watched(self, standing: Standing) -> None:
        """Show what the current window of photos is like."""
        raised = {alarm.measure for alarm in standing.alarms}
        for measure, value in standing.values.items():
            self._drift.labels(measure).set(value)
            self._alarm.labels(measure).set(float(measure in raised))

    def exposition(self) -> bytes:
        """Return the metrics as Prometheus text."""
        return generate_latest(self._registry)
