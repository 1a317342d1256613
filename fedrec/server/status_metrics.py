"""Express a server's status as Prometheus metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from fedrec.observability import prometheus
from fedrec.server.round_records import lost_rounds
from fedrec.server.status_types import PartyStatus, ServerStatus, TrainingStatus, WaitingFor
from fedrec.server.training_files import Status


def status_metrics(
    status: ServerStatus, *, refusals: int, certificate_ends: datetime | None
) -> Iterator[Metric]:
    """Yield the metrics of a status.

    Args:
        status: the status.
        refusals: how many different refusals in trainings were seen since the process started.
        certificate_ends: when the server's certificate runs out; None if that isn't known.

    Yields:
        The metrics.
    """
    yield GaugeMetricFamily(prometheus.ENROLLED, "Merchants on the roster.", len(status.enrolled))
    yield GaugeMetricFamily(prometheus.WAITING, "Trainings that are filed.", status.waiting)
    if status.started is not None:
        yield GaugeMetricFamily(prometheus.STARTED, "When the process started.", _seconds(status.started))
    if certificate_ends is not None:
        ends = certificate_ends.timestamp()
        yield GaugeMetricFamily(prometheus.CERTIFICATE_ENDS, "When the certificate runs out.", ends)
    yield from _merchant_metrics(status.merchants)
    yield from _waiting_metrics(status.waiting_for, now=_seconds(status.time))
    refused = CounterMetricFamily(
        prometheus.REFUSALS, "Requests turned away, and refusals in the training.", labels=("where",)
    )
    refused.add_metric(("listener",), status.turned_away.count)
    refused.add_metric(("training",), refusals)
    yield refused
    if status.training is not None:
        yield from _training_metrics(status.training, failed=_failed(status, shown=status.training.number))


def _failed(status: ServerStatus, *, shown: str) -> list[str]:
    """Return the numbers of failed trainings besides the one that is shown: each still wants a decision."""
    return [each.number for each in status.trainings if each.state == "failed" and each.number != shown]


def _merchant_metrics(merchants: Iterable[PartyStatus]) -> Iterator[Metric]:
    def family(name: str, what: str, values: Mapping[str, float]) -> Metric:
        made = GaugeMetricFamily(name, what, labels=("merchant",))
        for merchant, value in values.items():
            made.add_metric((merchant,), value)
        return made

    known = {merchant.name: merchant for merchant in merchants}
    connected = {name: float(bool(found.connected)) for name, found in known.items()}
    seen = {name: _seconds(found.last_seen) for name, found in known.items() if found.last_seen}
    trips = {
        name: found.round_trip_seconds
        for name, found in known.items()
        if found.round_trip_seconds is not None
    }
    replies = {name: found.reply_seconds for name, found in known.items() if found.reply_seconds is not None}
    needed = {name: float(found.in_cohort or found.on_committee) for name, found in known.items()}
    yield family(prometheus.MERCHANT_CONNECTED, "1 for a merchant that is connected.", connected)
    yield family(prometheus.MERCHANT_IN_TRAINING, "1 for a merchant or witness of the training.", needed)
    yield family(prometheus.MERCHANT_SEEN, "When a merchant was last heard of.", seen)
    yield family(prometheus.MERCHANT_ROUND_TRIP, "Seconds to a merchant and back, by TCP.", trips)
    yield family(prometheus.MERCHANT_REPLY, "Seconds that a merchant's last reply took.", replies)


def _waiting_metrics(waiting: WaitingFor | None, *, now: float) -> Iterator[Metric]:
    awaited = GaugeMetricFamily(
        prometheus.AWAITED, "1 for a merchant that is waited for.", labels=("merchant",)
    )
    seconds = 0.0
    if waiting is not None:
        for name in waiting.merchants:
            awaited.add_metric((name,), 1.0)
        if waiting.since is not None:
            seconds = max(0.0, now - _seconds(waiting.since))
    yield awaited
    yield GaugeMetricFamily(
        prometheus.WAITING_SECONDS,
        "How long the training has waited for merchants or replies; 0 if it doesn't.",
        seconds,
    )


def _training_metrics(training: TrainingStatus, *, failed: Iterable[str]) -> Iterator[Metric]:
    number, rounds = training.number, training.rounds
    last = rounds[-1] if rounds else None

    def gauge(name: str, what: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, what, labels=("training",))
        family.add_metric((number,), value)
        return family

    def counter(name: str, what: str, label: str, values: Mapping[str, float]) -> Metric:
        family = CounterMetricFamily(name, what, labels=("training", label))
        for key, value in values.items():
            family.add_metric((number, key), value)
        return family

    state = GaugeMetricFamily(
        prometheus.TRAINING_STATE, "1 for the training's current state.", labels=("training", "state")
    )
    for name in get_args(Status):
        state.add_metric((number, name), float(name == training.state))
    for other in failed:
        state.add_metric((other, "failed"), 1.0)
    yield state
    yield gauge(prometheus.ROUNDS_PLANNED, "Rounds that the plan has.", training.rounds_planned)
    yield gauge(prometheus.ROUND, "The last finished round.", last.round if last else 0)
    contributors, dropouts = (last.contributors, last.dropouts) if last else (0, 0)
    yield gauge(prometheus.CONTRIBUTORS, "Contributors of the last round.", contributors)
    yield gauge(prometheus.DROPOUTS, "Dropouts of the last round.", dropouts)
    least = training.min_contributors
    yield gauge(prometheus.MIN_CONTRIBUTORS, "Contributors that a round needs.", least)
    yield gauge(prometheus.COHORT, "Merchants of the training.", len(training.cohort))
    if training.accuracy is not None:
        yield gauge(prometheus.ACCURACY, "Accuracy on the operator's photos.", training.accuracy)
    if training.seconds_left is not None:
        yield gauge(prometheus.SECONDS_LEFT, "Time left at the last rounds' pace.", training.seconds_left)
    opened = sum(bool(line.opened) for line in rounds)
    outcomes = {"opened": opened, "lost": lost_rounds((line.round, line.opened) for line in rounds)}
    yield counter(prometheus.ROUNDS, "Finished rounds.", "outcome", outcomes)
    phases = {
        "train": math.fsum(line.seconds_train for line in rounds),
        "unmask": math.fsum(line.seconds_unmask for line in rounds),
    }
    yield counter(prometheus.PHASE_SECONDS, "Seconds spent in each phase.", "phase", phases)
    moved = {"up": sum(line.bytes_up for line in rounds), "down": sum(line.bytes_down for line in rounds)}
    yield counter(prometheus.BYTES, "Bytes of messages, from and to merchants.", "direction", moved)
    spent, planned = (_number(value) for value in (training.epsilon, training.epsilon_planned))
    yield gauge(prometheus.EPSILON_SPENT, "Epsilon (PLD, server's view) of the finished rounds.", spent)
    broken = _number(training.epsilon_aggregation_broken)
    yield gauge(prometheus.EPSILON_BROKEN, "Epsilon (PLD) if every upload were seen in clear.", broken)
    left = planned - spent if math.isfinite(spent) else 0.0
    yield gauge(prometheus.EPSILON_LEFT, "Epsilon that the plan has left.", left)
    head = GaugeMetricFamily(
        prometheus.LEDGER_HEAD, "Round of the last head that a merchant signed.", labels=("merchant", "head")
    )
    for entry in training.heads:
        head.add_metric((entry.merchant, entry.head), entry.round)
    yield head


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _number(epsilon: float | None) -> float:
    return math.inf if epsilon is None else epsilon
