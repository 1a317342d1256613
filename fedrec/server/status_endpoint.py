"""Serve the server's health, metrics and status page to its operator; only what the server may see."""

from __future__ import annotations

import json
import math
import secrets
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from fedrec.observability import prometheus
from fedrec.observability.endpoint import Answer, Route
from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.accounting.ledger_entries import finite
from fedrec.privacy.audit import claims
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.plan import TrainingPlan
from fedrec.report.html import LIVE_POLICY, render_blocks, render_live
from fedrec.server.report.report_json import epsilon_after
from fedrec.server.server_home import ServerHome
from fedrec.server.status_page import TITLE, status_blocks
from fedrec.server.training_runner import TrainingRunner
from fedrec.server.trainings import Status, Training, all_trainings
from fedrec.server.window.campaign_files import shown_progress

_LAST_REQUESTS = 20
_LONGEST_PATH = 120
_SHOWN = (
    "round", "opened", "contributors", "dropouts", "seconds", "seconds_train", "seconds_unmask",
    "bytes_up", "bytes_down", "reason", "accuracy",
)  # fmt: skip


@dataclass(frozen=True)
class _Followed:
    """The training that this process runs, or the last one that it ran."""

    number: str
    runner: TrainingRunner


class ServerObserver:
    """Report the server's status from its folder, and what only this process knows. Thread-safe."""

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._mutex = threading.Lock()
        self._accounting = threading.Lock()
        self._started = _now()
        self._followed: _Followed | None = None
        self._turned_away = 0
        self._requests: deque[dict[str, str]] = deque(maxlen=_LAST_REQUESTS)

    def turned_away(self, address: str, path: str) -> None:
        """Record a request that the guard of the public listener refused.

        Args:
            address: the client's address.
            path: the path that was asked for.

        """
        with self._mutex:
            self._turned_away += 1
            self._requests.append({"time": _now(), "address": address, "path": path[:_LONGEST_PATH]})

    def follow(self, training: Training, runner: TrainingRunner) -> None:
        """Record which training is run now.

        Args:
            training: the training.
            runner: runs its rounds.

        """
        with self._mutex:
            self._followed = _Followed(number=training.number, runner=runner)

    def routes(self) -> Mapping[str, Route]:
        """Return the endpoint's routes, by path."""
        return {
            "/healthz": Route(lambda: _json({"status": "ok"}), open=True),
            "/metrics": Route(lambda: Answer(prometheus.exposition(self._collect), prometheus.CONTENT_TYPE)),
            "/status.json": Route(lambda: _json(self.status())),
            "/status.html": Route(lambda: _html(render_blocks(status_blocks(self.status())))),
            # The page itself holds no figures: it fetches them, with the token that its reader enters.
            "/": Route(_page, open=True),
        }

    def status(self) -> dict[str, Any]:
        """Return everything that the status page shows, as a JSON document."""
        trainings = list(all_trainings(self._home.trainings))
        statuses = {training.number: training.status()[0] for training in trainings}
        shown = next((t for t in trainings if statuses[t.number] == "running"), None)
        # Next choices: one that was tried and waits for merchants, then the last one that ran.
        shown = shown or next((t for t in trainings if statuses[t.number] == "filed" and t.status()[1]), None)
        shown = shown or next((t for t in reversed(trainings) if statuses[t.number] != "filed"), None)
        with self._mutex:
            followed, turned_away, requests = self._followed, self._turned_away, list(self._requests)
        return {
            "schema": "fedrec.status/1",
            "time": _now(),
            "started": self._started,
            "enrolled": [peer.name for peer in self._home.roster()],
            "witnesses": [peer.name for peer in self._home.witnesses()],
            "waiting": sum(state == "filed" for state in statuses.values()),
            "turned_away": {"count": turned_away, "last": requests},
            "training": None if shown is None else self._training(shown, followed),
        }

    def _training(self, training: Training, followed: _Followed | None) -> dict[str, Any]:
        plan, rounds = training.plan(), [line.to_dict() for line in training.rounds()]
        state, reason = training.status()
        done = rounds[-1]["round"] if rounds else 0
        progress = shown_progress(training.folder, plan)
        with self._accounting:
            # A frozen pydantic model has a hash, which pyright doesn't see.
            epsilons = _epsilons(plan)  # pyright: ignore[reportArgumentType]
            broken = _epsilon_if_broken(plan, rounds=done)  # pyright: ignore[reportArgumentType]
        shown: dict[str, Any] = {
            "number": training.number,
            "training_id": plan.training_id,
            "state": state,
            "reason": reason,
            "model": plan.model,
            "mode": plan.mode,
            "unit": plan.unit,
            "scheme": plan.scheme,
            "alarms": list(claims.alarms({"mode": plan.mode}, plan.trust)),
            "cohort": [peer.name for peer in plan.roster],
            "witnesses": [peer.name for peer in plan.seated_witnesses],
            "committee": list(plan.committee),
            "threshold": plan.threshold,
            "min_contributors": plan.min_contributors,
            "rounds_planned": plan.rounds,
            "delta": plan.delta,
            "epsilon_planned": epsilons[-1],
            "epsilon": epsilons[done],
            "epsilon_aggregation_broken": broken,
            "in_flight": None,
            "window": None if progress is None else progress.to_dict(),
            "refusals": [],
            "noted": {},
            "heads": [],
            "rounds": [
                {key: line.get(key) for key in _SHOWN} | {"epsilon": epsilons[line["round"]]}
                for line in rounds
            ],
        }
        if followed is not None and followed.number == training.number:
            runner = followed.runner
            reserved = runner.checkpoint.last_reserved()
            receipts = [(name, runner.receipts.last(name)) for name in shown["cohort"]]
            shown |= {
                "in_flight": reserved if state == "running" and reserved > done else None,
                "refusals": [
                    {"where": where, "reason": told} for where, told in runner.refusals.copy().items()
                ],
                "noted": runner.notes(),
                "heads": [
                    {
                        "merchant": name,
                        "round": receipt.head.statement.round_number,
                        "head": receipt.head.statement.head_hash[: 2 * prometheus.HEAD_BYTES],
                    }
                    for name, receipt in receipts
                    if receipt is not None
                ],
            }
        return shown

    def _collect(self) -> Iterator[Metric]:
        status = self.status()
        yield GaugeMetricFamily(prometheus.ENROLLED, "Merchants on the roster.", len(status["enrolled"]))
        refused = CounterMetricFamily(
            prometheus.REFUSALS, "Requests turned away, and refusals in the training.", labels=("where",)
        )
        refused.add_metric(("listener",), status["turned_away"]["count"])
        if status["training"] is not None:
            refused.add_metric(("training",), len(status["training"]["refusals"]))
            yield from _training_metrics(status["training"])
        yield refused


def _training_metrics(training: Mapping[str, Any]) -> Iterator[Metric]:
    number, rounds = training["number"], training["rounds"]
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
        state.add_metric((number, name), float(name == training["state"]))
    yield state
    yield gauge(prometheus.ROUNDS_PLANNED, "Rounds that the plan has.", training["rounds_planned"])
    yield gauge(prometheus.ROUND, "The last finished round.", last["round"] if last else 0)
    contributors, dropouts = (last["contributors"], last["dropouts"]) if last else (0, 0)
    yield gauge(prometheus.CONTRIBUTORS, "Contributors of the last round.", contributors)
    yield gauge(prometheus.DROPOUTS, "Dropouts of the last round.", dropouts)
    opened = sum(bool(line["opened"]) for line in rounds)
    outcomes = {"opened": opened, "lost": len(rounds) - opened}
    yield counter(prometheus.ROUNDS, "Finished rounds.", "outcome", outcomes)
    phases = {phase: math.fsum(line[f"seconds_{phase}"] for line in rounds) for phase in ("train", "unmask")}
    yield counter(prometheus.PHASE_SECONDS, "Seconds spent in each phase.", "phase", phases)
    moved = {way: sum(line[f"bytes_{way}"] for line in rounds) for way in ("up", "down")}
    yield counter(prometheus.BYTES, "Bytes of messages, from and to merchants.", "direction", moved)
    spent, planned = (_number(training[key]) for key in ("epsilon", "epsilon_planned"))
    yield gauge(prometheus.EPSILON_SPENT, "Epsilon (PLD, server's view) of the finished rounds.", spent)
    broken = _number(training["epsilon_aggregation_broken"])
    yield gauge(prometheus.EPSILON_BROKEN, "Epsilon (PLD) if every upload were seen in clear.", broken)
    left = planned - spent if math.isfinite(spent) else 0.0
    yield gauge(prometheus.EPSILON_LEFT, "Epsilon that the plan has left.", left)
    head = GaugeMetricFamily(
        prometheus.LEDGER_HEAD, "Round of the last head that a merchant signed.", labels=("merchant", "head")
    )
    for entry in training["heads"]:
        head.add_metric((entry["merchant"], entry["head"]), entry["round"])
    yield head


@lru_cache(maxsize=1)
def _epsilon_if_broken(plan: TrainingPlan, *, rounds: int) -> float | None:
    """Return epsilon by PLD if every upload were seen in clear, after so many rounds.

    None without a guarantee.
    """
    return epsilon_after(plan, derive(plan), steps=rounds * plan.local_steps, broken=True)


@lru_cache(maxsize=4)
def _epsilons(plan: TrainingPlan) -> tuple[float | None, ...]:
    """Return epsilon by PLD, in the server's view, of the declared count and 0, 1, ... rounds.

    Each is None without a guarantee.
    """
    if not plan.privacy_mode.private:
        return (None,) * (plan.rounds + 1)
    spend = derive(plan).spend.with_releases(count_event())
    return tuple(finite(epsilon) for epsilon in spend.schedule(every=plan.local_steps))


def _number(epsilon: float | None) -> float:
    return math.inf if epsilon is None else epsilon


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(document: Mapping[str, Any]) -> Answer:
    return Answer(json.dumps(document, allow_nan=False).encode(), "application/json")


def _html(text: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(text.encode(), "text/html; charset=utf-8", headers=headers or {})


def _page() -> Answer:
    nonce = secrets.token_urlsafe(16)
    page = render_live(title=TITLE, source="status.html", nonce=nonce)
    policy = LIVE_POLICY.format(nonce=nonce)
    return _html(page, {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})
