"""Tell which of the requests that a merchant refused it would refuse still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.status_types import PlanSummary
from fedrec.clients.store_view import StoredRefusal
from fedrec.errors import AggregationError, ConfigError, RefusedError
from fedrec.privacy.accounting.ledger_entries import Entry, charges
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.plan import TrainingPlan

PAUSED: Final = "the merchant has paused: it takes part in no new round until it resumes"
UNUSABLE: Final = "the merchant's policy can't be used; its own log says why"
_STALE: Final = timedelta(days=3)
"""A server asks every few seconds as long as it wants an answer: after this time it has given up."""


@dataclass(frozen=True)
class Standing:
    """What decides whether a refusal is still true.

    Attributes:
        policy: the rules in force; None if they can't be used.
        paused: whether the merchant is paused.
        entries: the ledger's entries.
        now: the time, with a time zone.

    """

    policy: MerchantPolicy | None
    paused: bool
    entries: Sequence[Entry]
    now: datetime

    def holds(self, refusal: StoredRefusal, plan: PlanSummary | None) -> bool:
        """Tell whether a request would be refused for the same reason now.

        Args:
            refusal: the refusal.
            plan: the refused plan and what it would cost now; None for another request, and for a plan that
                was joined since.

        Returns:
            Whether it would. Of a reason that can't be examined again: whether nothing was charged since.

        """
        if refusal.reason == PAUSED:
            return self.paused
        if refusal.reason == UNUSABLE:
            return self.policy is None
        at = datetime.fromisoformat(refusal.at)
        if self.now - at > _STALE or self._charged_since(at):
            return False
        if refusal.plan is None:
            return self._round_refused(refusal.reason)
        return plan is not None and self._plan_refused(refusal, plan)

    def _charged_since(self, at: datetime) -> bool:
        """Whether the merchant took part in a round later: the server has gone on."""
        charged = charges(self.entries)
        return bool(charged) and datetime.fromisoformat(charged[-1].created_at) > at

    def _round_refused(self, reason: str) -> bool:
        if self.policy is None or not reason.startswith(
            ("policy 'hours'", "policy 'largest_rounds_per_day'")
        ):
            return True
        start = self.policy.day_start(self.now).astimezone(UTC)
        today = sum(datetime.fromisoformat(entry.created_at) >= start for entry in charges(self.entries))
        try:
            self.policy.check_round(now=self.now, rounds_today=today)
        except RefusedError:
            return True
        return False

    def _plan_refused(self, refusal: StoredRefusal, summary: PlanSummary) -> bool:
        if self.policy is None or refusal.plan is None:
            return True
        cap = self.policy.lifetime_epsilon
        if cap is not None and (summary.cap_needed is None or summary.cap_needed > cap):
            return True
        if not refusal.reason.startswith("policy '"):
            # The budget is enough by now; anything else can't be examined without the server.
            return "budget" not in refusal.reason
        plan = TrainingPlan.model_validate_json(refusal.plan)
        try:
            self.policy.check(plan)
            self.policy.check_cost(plan, derive(plan))
            if plan.committee:
                self.policy.check_window(plan)
        except (RefusedError, ConfigError, AggregationError):
            return True
        return False
