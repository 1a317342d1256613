"""Notice, in a merchant's store, what its owner may want to know: a training, its end, a refused plan."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from fedrec._internal.text import one_line
from fedrec.clients.event_hook import Event, EventHook, EventName
from fedrec.clients.refusals import PAUSED
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_view import readable_plan
from fedrec.protocol.schema import MAX_REASON, sha256_hex

_MOST_REMEMBERED: Final = 1000


class EventWatch:
    """Compares a store with what it was before, and emits events; for the thread that opened the store.

    Args:
        store: the merchant's open store.
        hook: runs the merchant's command.
        merchant: the merchant's name.

    """

    def __init__(self, store: MerchantStore, hook: EventHook, *, merchant: str) -> None:
        self._store, self._hook, self._merchant = store, hook, merchant
        self._open = frozenset(store.open_trainings())
        self._refusal = (store.last_refusal() or (0,))[0]
        self._told: dict[tuple[str, str], None] = {}

    def look(self) -> None:
        """Emit an event for everything that is new."""
        now_open = frozenset(self._store.open_trainings())
        for training_id in sorted(self._open - now_open):
            self._emit("training-ended", self._store.training(training_id).plan)
        for training_id in sorted(now_open - self._open):
            self._emit("training-started", self._store.training(training_id).plan)
        self._open = now_open
        last = self._store.last_refusal()
        if last is not None and last[0] != self._refusal:
            self._refusal, kind, reason, plan = last
            if kind == "query.join" and reason != PAUSED:
                self.decision(reason, plan)

    def decision(self, reason: str, plan: bytes | None = None) -> None:
        """Say once that something needs a decision.

        Args:
            reason: what was refused, and why.
            plan: canonical bytes of the refused plan, if it is about one.

        """
        topic = ("" if plan is None else sha256_hex(plan), reason)
        if topic in self._told:
            return
        self._told[topic] = None
        if len(self._told) > _MOST_REMEMBERED:
            del self._told[next(iter(self._told))]
        self._emit("decision-needed", plan, reason=one_line(reason, most=MAX_REASON))

    def _emit(self, name: EventName, raw: bytes | None, *, reason: str = "") -> None:
        plan = None if raw is None else readable_plan(raw)
        self._hook.emit(
            Event(
                event=name,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                merchant=self._merchant,
                training_id="" if raw is None else sha256_hex(raw),
                model="" if plan is None else plan.model,
                rounds=0 if plan is None else plan.rounds,
                reason=reason,
            )
        )
