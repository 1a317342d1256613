"""Name the metrics of both daemons and write them in Prometheus text format.

No label contains a secret, a file name or a loss. The server's metrics contain only what its operator may see
anyway: counts, sizes, times, the plan, and opaque ledger heads. A merchant's metrics stay on its own machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ENROLLED = "fedrec_merchants_enrolled"
STARTED = "fedrec_start_timestamp_seconds"
CERTIFICATE_ENDS = "fedrec_certificate_expires_timestamp_seconds"
WAITING = "fedrec_trainings_filed"
WAITING_SECONDS = "fedrec_waiting_seconds"
AWAITED = "fedrec_merchant_awaited"
MERCHANT_CONNECTED = "fedrec_merchant_connected"
MERCHANT_IN_TRAINING = "fedrec_merchant_in_training"
MERCHANT_SEEN = "fedrec_merchant_last_seen_timestamp_seconds"
MERCHANT_ROUND_TRIP = "fedrec_merchant_round_trip_seconds"
MERCHANT_REPLY = "fedrec_merchant_reply_seconds"
TRAINING_STATE = "fedrec_training_state"
ROUND = "fedrec_round"
ROUNDS_PLANNED = "fedrec_rounds_planned"
ROUNDS = "fedrec_rounds"
CONTRIBUTORS = "fedrec_round_contributors"
MIN_CONTRIBUTORS = "fedrec_min_contributors"
COHORT = "fedrec_cohort"
ACCURACY = "fedrec_accuracy"
SECONDS_LEFT = "fedrec_seconds_left"
DROPOUTS = "fedrec_round_dropouts"
PHASE_SECONDS = "fedrec_phase_seconds"
BYTES = "fedrec_bytes"
REFUSALS = "fedrec_refusals"
EPSILON_SPENT = "fedrec_epsilon_spent"
EPSILON_LEFT = "fedrec_epsilon_left"
EPSILON_BROKEN = "fedrec_epsilon_aggregation_broken"
LEDGER_ENTRIES = "fedrec_ledger_entries"
LEDGER_HEAD = "fedrec_ledger_head"
CONNECTED = "fedrec_connected"
MESSAGES = "fedrec_messages"

HEAD_BYTES = 8
"""Bytes of a ledger head in a label: enough to distinguish two heads."""


class _Scrape(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def exposition(collect: Callable[[], Iterable[Metric]]) -> bytes:
    """Return the metrics that ``collect`` returns now as Prometheus text; no other metrics are included."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(collect))
    return generate_latest(registry)
