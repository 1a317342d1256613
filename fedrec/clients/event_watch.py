"""Notice, in a merchant's store, what its owner may want to know: a training, its end, a refused plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from fedrec._internal.moments import now_text
from fedrec._internal.text import one_line
from fedrec.clients.event_hook import Event, EventHook, EventName
from fedrec.clients.event_limit import EventLimit
from fedrec.clients.refusals import PAUSED
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_view import readable_plan
from fedrec.protocol.schema import MAX_REASON, sha256_hex

_MOST_REMEMBERED: Final = 1000
_DAY: Final = 86_400.0
_NOISE_ALONE: Final = (
    "no photo of this machine is used: noise alone is sent, and it costs budget; "
    "'fedrec client status' says why"
)
"""Without a number or a name: a command learns nothing of the photos."""


class EventWatch:
    """Compares a store with what it was before, and emits events; for the thread that opened the store.

    Args:
        store: the merchant's open store.
        hook: runs the merchant's command.
        merchant: the merchant's name.
        clock: returns seconds that only increase.
    """

    def __init__(
        self,
        store: MerchantStore,
        hook: EventHook,
        *,
        merchant: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._merchant, self._clock = store, merchant, clock
        self._limit = EventLimit(hook.emit, clock=clock)
        self._open = frozenset(store.open_trainings())
        self._refusal = (store.last_refusal() or (0,))[0]
        self._told: dict[str, float] = {}

    def poll(self) -> None:
        """Emit an event for everything that is new, and those that waited for their turn."""
        self._limit.pass_on_held()
        now_open = frozenset(self._store.open_trainings())
        for training_id in sorted(self._open - now_open):
            self._emit("training-ended", self._store.training(training_id).plan)
        for training_id in sorted(now_open - self._open):
            self._emit("training-started", self._store.training(training_id).plan)
        self._open = now_open
        for training_id in sorted(now_open):
            counts = self._store.photo_counts(training_id)
            if counts is not None and not counts.used:
                self.decision(_NOISE_ALONE, self._store.training(training_id).plan)
        last = self._store.last_refusal()
        if last is not None and last[0] != self._refusal:
            self._refusal, kind, reason, plan = last
            if kind == "query.join" and reason != PAUSED:
                self.decision(reason, plan)

    def decision(self, reason: str, plan: bytes | None = None) -> None:
        """Say once a day that something needs a decision.

        Args:
            reason: what was refused, and why.
            plan: canonical bytes of the refused plan, if it is about one.
        """
        # By the reason alone: a server makes as many plans that differ as it likes.
        reason = one_line(reason, most=MAX_REASON)
        if self._clock() < self._told.get(reason, float("-inf")) + _DAY:
            return
        self._told[reason] = self._clock()
        if len(self._told) > _MOST_REMEMBERED:
            del self._told[next(iter(self._told))]
        self._emit("decision-needed", plan, reason=reason)

    def _emit(self, name: EventName, raw: bytes | None, *, reason: str = "") -> None:
        plan = None if raw is None else readable_plan(raw)
        self._limit.pass_on(
            Event(
                event=name,
                at=now_text(),
                merchant=self._merchant,
                training_id="" if raw is None else sha256_hex(raw),
                model="" if plan is None else plan.model,
                rounds=0 if plan is None else plan.last_round,
                reason=reason,
            )
        )
