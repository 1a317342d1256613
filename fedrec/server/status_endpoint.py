"""Serve the server's health, metrics and status page to its operator; only what the server may see."""

from __future__ import annotations

import json
import secrets
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from fedrec._internal.moments import now_text
from fedrec.observability import prometheus
from fedrec.observability.endpoint import Answer, Route
from fedrec.report.html import LIVE_POLICY, render_blocks, render_live
from fedrec.server.live_state import (
    WRITE_SECONDS,
    AwaitedReplies,
    Connection,
    LiveState,
    TurnedAway,
    read_live,
)
from fedrec.server.presence import Presence
from fedrec.server.server_home import ServerHome
from fedrec.server.status_document import refusal_notes, server_status
from fedrec.server.status_metrics import status_metrics
from fedrec.server.status_page import TITLE, status_blocks
from fedrec.server.status_types import ServerStatus, SignedHead
from fedrec.server.training_runner import TrainingRunner
from fedrec.server.trainings import Training

_LAST_REQUESTS = 20
_LONGEST_PATH = 120


@dataclass(frozen=True)
class _Followed:
    """The training that this process runs, or the last one that it ran."""

    number: str
    cohort: tuple[str, ...]
    runner: TrainingRunner


class ServerObserver:
    """Report the server's status from its folder, and what only this process knows. Thread-safe.

    Args:
        home: the server's folder.
        presence: who is connected.
    """

    def __init__(self, home: ServerHome, presence: Presence | None = None) -> None:
        self._home = home
        self._presence = presence or Presence()
        self._mutex = threading.Lock()
        self._composing = threading.Lock()
        self._started = _now()
        self._followed: _Followed | None = None
        self._turned_away = 0
        self._requests: deque[TurnedAway] = deque(maxlen=_LAST_REQUESTS)
        self._written: LiveState | None = None
        # By training, place and reason. A counter must not fall, and a runner drops the note about a merchant
        # that takes part again.
        self._old_refusals: set[tuple[str, str, str]] = set()
        self._new_refusals: set[tuple[str, str, str]] = set()
        earlier = read_live(home.folder)
        if earlier is not None:
            seen = {name: found.last_seen for name, found in earlier.connections.items()}
            self._presence.restore({name: at.timestamp() for name, at in seen.items() if at is not None})

    def turned_away(self, address: str, path: str) -> None:
        """Record a request that the guard of the public listener refused.

        Args:
            address: the client's address.
            path: the path that was asked for.
        """
        with self._mutex:
            self._turned_away += 1
            time = now_text()
            self._requests.append(TurnedAway(time=time, address=address, path=path[:_LONGEST_PATH]))

    def follow(self, training: Training, runner: TrainingRunner) -> None:
        """Record which training is run now.

        Args:
            training: the training.
            runner: runs its rounds.
        """
        cohort = tuple(peer.name for peer in training.plan().roster)
        known = {(training.number, where, told) for where, told in runner.refusals.copy().items()}
        with self._mutex:
            self._followed = _Followed(number=training.number, cohort=cohort, runner=runner)
            self._old_refusals |= known - self._new_refusals

    def routes(self) -> Mapping[str, Route]:
        """Return the endpoint's routes, by path."""
        return {
            "/healthz": Route(lambda: _json({"status": "ok"}), open=True),
            "/metrics": Route(self._metrics),
            "/status.json": Route(lambda: _json(asdict(self.status()))),
            "/status.html": Route(lambda: _html(render_blocks(status_blocks(self.status())))),
            # The page itself holds no figures: it fetches them, with the token that its reader enters.
            "/": Route(_page, open=True),
        }

    def live(self, *, running: bool = True) -> LiveState:
        """Return what only this process knows.

        Args:
            running: False once the server has stopped.

        Returns:
            The state.
        """
        with self._mutex:
            followed, turned_away, requests = self._followed, self._turned_away, tuple(self._requests)
        board = None if followed is None else followed.runner.board
        awaited, replies = (None, {}) if board is None else (board.awaited(), board.seconds())
        names = [peer.name for peer in (*self._home.roster(), *self._home.witnesses())]
        return LiveState(
            time=_now(),
            started=self._started,
            running=running,
            connections={name: self._connection(name, replies.get(name)) for name in names},
            training=None if followed is None else followed.number,
            in_flight=None if followed is None else followed.runner.checkpoint.last_reserved(),
            awaited=None
            if awaited is None
            else AwaitedReplies(what=awaited.what, merchants=awaited.merchants, since=_moment(awaited.since)),
            noted={} if followed is None else followed.runner.notes(),
            turned_away=turned_away,
            last_turned_away=requests,
        )

    def _connection(self, name: str, reply_seconds: float | None) -> Connection:
        seen = self._presence.of(name)
        if seen is None:
            return Connection(reply_seconds=reply_seconds)
        return Connection(
            connected=seen.connected,
            since=None if seen.since is None else _moment(seen.since),
            last_seen=_moment(seen.last),
            round_trip_seconds=seen.round_trip,
            reply_seconds=reply_seconds,
        )

    def publish(self, *, running: bool = True) -> None:
        """Write what only this process knows to a file, for ``fedrec server status``, if it has changed.

        Args:
            running: False once the server has stopped.

        Raises:
            OSError: the file can't be written.
        """
        state, last = self.live(running=running), self._written
        recent = last is not None and (state.time - last.time).total_seconds() < WRITE_SECONDS
        if recent and state.same_but_for_times(last):
            return
        state.write(self._home.folder)
        self._written = state

    def status(self) -> ServerStatus:
        """Return everything that the status page shows."""
        with self._mutex:
            followed = self._followed
        # One at a time: the first status of a training composes its epsilons.
        with self._composing:
            status = server_status(self._home, self.live())
        training = status.training
        if followed is None or training is None or followed.number != training.number:
            return status
        # Newer in the process than in the files of the training that it runs.
        refusals = refusal_notes(followed.runner.refusals.copy())
        return replace(status, training=replace(training, refusals=refusals, heads=_heads(followed)))

    def _metrics(self) -> Answer:
        ends = _certificate_ends(self._home)
        status = self.status()
        refusals = self._refusals_since_start()
        text = prometheus.exposition(lambda: status_metrics(status, refusals=refusals, certificate_ends=ends))
        return Answer(text, prometheus.CONTENT_TYPE)

    def _refusals_since_start(self) -> int:
        """Count the different refusals in trainings that were seen since the process started."""
        with self._mutex:
            followed = self._followed
            if followed is not None:
                noted = followed.runner.refusals.copy().items()
                seen = {(followed.number, where, told) for where, told in noted}
                self._new_refusals |= seen - self._old_refusals
            return len(self._new_refusals)


def _heads(followed: _Followed) -> tuple[SignedHead, ...]:
    """Return the last ledger heads that the merchants signed, without those that signed none."""
    receipts = [(name, followed.runner.receipts.last(name)) for name in followed.cohort]
    return tuple(
        SignedHead(
            merchant=name,
            round=receipt.head.statement.round_number,
            head=receipt.head.statement.head_hash[: 2 * prometheus.HEAD_BYTES],
        )
        for name, receipt in receipts
        if receipt is not None
    )


def _certificate_ends(home: ServerHome) -> datetime | None:
    try:
        return _not_after(home.certificate.read_bytes())
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=1)
def _not_after(pem: bytes) -> datetime:
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(pem).not_valid_after_utc


def _now() -> datetime:
    return datetime.now(UTC)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _json(document: Mapping[str, Any]) -> Answer:
    return Answer(json.dumps(document, allow_nan=False).encode(), "application/json")


def _html(text: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(text.encode(), "text/html; charset=utf-8", headers=headers or {})


def _page() -> Answer:
    nonce = secrets.token_urlsafe(16)
    page = render_live(title=TITLE, source="status.html", nonce=nonce)
    policy = LIVE_POLICY.format(nonce=nonce)
    return _html(page, {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})
