"""Collect the metrics and the health of a merchant's daemon: connection, messages, budget, ledger head."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from http import HTTPStatus

from flwr.app import Message
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from fedrec.observability import prometheus
from fedrec.observability.endpoint import Answer, Route
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.protocol.transport import content_bytes, is_refusal

_KINDS = ("train", "query.join", "query.unmask", "query.close")
"""Message types that become labels. Other types are counted together, so the server can't choose a label."""

_MOST_DIGITS = 9


class PartyObserver:
    """Counts messages, bytes and seconds of a daemon. Safe to use from several threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._connected = False
        self._round = 0
        self._messages: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, float] = {}
        self._bytes = {"down": 0, "up": 0}

    def connection(self, *, up: bool) -> None:
        """Record that the connection to the server was made or lost."""
        with self._mutex:
            self._connected = up

    def answered(self, message: Message, reply: Message, *, seconds: float) -> None:
        """Record a message that was answered.

        Args:
            message: the server's message.
            reply: the merchant's reply.
            seconds: time from the message to the reply.
        """
        kind = message.metadata.message_type
        kind = kind if kind in _KINDS else "other"
        down = content_bytes(message.content) if message.has_content() else 0
        up = content_bytes(reply.content) if reply.has_content() else 0
        group = message.metadata.group_id
        with self._mutex:
            self._messages[kind, _outcome(reply)] += 1
            self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
            self._bytes["down"] += down
            self._bytes["up"] += up
            if group.isascii() and group.isdigit() and len(group) <= _MOST_DIGITS:
                self._round = int(group)

    def routes(self) -> Mapping[str, Route]:
        """Return the routes of the observation endpoint, by path."""
        return {
            "/healthz": Route(self._health, open=True),
            "/metrics": Route(lambda: Answer(prometheus.exposition(self._collect), prometheus.CONTENT_TYPE)),
        }

    def _health(self) -> Answer:
        with self._mutex:
            connected = self._connected
        said = self._problem() or ("ok" if connected else "disconnected")
        status = HTTPStatus.OK if said == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(json.dumps({"status": said}).encode(), "application/json", status)

    def _collect(self) -> Iterator[Metric]:
        with self._mutex:
            connected, last = self._connected, self._round
            messages, seconds, sizes = self._messages.copy(), dict(self._seconds), dict(self._bytes)
        yield GaugeMetricFamily(prometheus.CONNECTED, "1 while the server is connected.", float(connected))
        yield GaugeMetricFamily(prometheus.ROUND, "The last round that was answered.", last)
        counted = CounterMetricFamily(prometheus.MESSAGES, "Messages answered.", labels=("kind", "outcome"))
        for (kind, outcome), count in messages.items():
            counted.add_metric((kind, outcome), count)
        yield counted
        refused = sum(count for (_, outcome), count in messages.items() if outcome == "refused")
        yield CounterMetricFamily(prometheus.REFUSALS, "Messages refused by this party's rules.", refused)
        took = CounterMetricFamily(prometheus.PHASE_SECONDS, "Seconds spent on answers.", labels=("phase",))
        for kind, total in seconds.items():
            took.add_metric((kind,), total)
        yield took
        moved = CounterMetricFamily(prometheus.BYTES, "Bytes of messages.", labels=("direction",))
        for direction, size in sizes.items():
            moved.add_metric((direction,), size)
        yield moved
        yield from self._more()

    def _problem(self) -> str | None:
        """Return what keeps the party from working, beside the connection; nothing by default."""
        return None

    def _more(self) -> Iterator[Metric]:
        """Yield further metrics; none by default."""
        return iter(())


class MerchantObserver(PartyObserver):
    """Adds a merchant's budget and the head of its ledger.

    Args:
        ledger: the merchant's open ledger.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def _problem(self) -> str | None:
        return None if self._ledger.usable else "the ledger can't be used"

    def _more(self) -> Iterator[Metric]:
        reading = self._ledger.reading()
        left = reading.left if self._ledger.has_cap else math.inf
        yield GaugeMetricFamily(
            prometheus.EPSILON_SPENT, "Lifetime epsilon spent, as the cap counts it.", reading.spent
        )
        yield GaugeMetricFamily(prometheus.EPSILON_LEFT, "Lifetime epsilon left below the cap.", left)
        count, digest = self._ledger.head()
        yield GaugeMetricFamily(prometheus.LEDGER_ENTRIES, "Entries of the ledger.", count)
        head = GaugeMetricFamily(prometheus.LEDGER_HEAD, "The ledger's head, in its label.", labels=("head",))
        head.add_metric((digest[: prometheus.HEAD_BYTES].hex(),), 1)
        yield head


def _outcome(reply: Message) -> str:
    if reply.has_error():
        return "failed"
    return "refused" if is_refusal(reply.content) else "answered"
