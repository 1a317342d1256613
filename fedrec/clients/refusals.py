"""Tell which of the requests that a merchant refused it would refuse still."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from fedrec.clients.charging import lost_rounds
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.status_types import Cause, PlanSummary
from fedrec.clients.store_view import StoredRefusal
from fedrec.errors import AggregationError, ConfigError, RefusedError
from fedrec.privacy.accounting.ledger_entries import Entry, charges
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.plan import TrainingPlan

PAUSED: Final = "the merchant has paused: it takes part in no new round until it resumes"
UNUSABLE: Final = "the merchant's policy can't be used; its own log says why"
_BUDGET: Final = "privacy budget: "
_RULE: Final = re.compile(r"policy '(\w+)'")
_ROUND_RULES: Final = ("policy 'hours'", "policy 'largest_rounds_per_day'")


def broken_rule(reason: str) -> str | None:
    """Return the rule of ``policy.toml`` that a reason begins with; None if it begins with none."""
    if reason.startswith(_BUDGET):
        return "lifetime_epsilon"
    named = _RULE.match(reason)
    return None if named is None else named[1]


def cause_of(reason: str) -> Cause:
    """Return what a reason comes from."""
    if reason == PAUSED:
        return "pause"
    if reason == UNUSABLE:
        return "unusable_policy"
    return "other" if broken_rule(reason) is None else "rule"


@dataclass(frozen=True)
class Standing:
    """What decides whether a refusal is still true.

    Attributes:
        policy: the rules in force; None if they can't be used.
        paused: whether the merchant is paused.
        entries: the ledger's entries.
        now: the time, with a time zone.
        open_plan: plan of the open training; None without one.
        open_cost: what that plan costs; None without one.
    """

    policy: MerchantPolicy | None
    paused: bool
    entries: Sequence[Entry]
    now: datetime
    open_plan: TrainingPlan | None = None
    open_cost: PlanSummary | None = None

    def holds(self, refusal: StoredRefusal, plan: PlanSummary | None) -> bool:
        """Tell whether a request would be refused for the same reason now.

        Args:
            refusal: the refusal.
            plan: the refused plan and what it would cost now; None for another request, and for a plan that
                was joined since.

        Returns:
            Whether it would. Of a reason that can't be examined again: whether nothing was uploaded since.
        """
        cause = cause_of(refusal.reason)
        if cause == "pause":
            return self.paused
        if cause == "unusable_policy":
            return self.policy is None
        if refusal.is_old(self.now) or refusal.uploaded_since:
            return False
        if refusal.plan is None:
            return self._round_refused(refusal.reason)
        return plan is not None and self._plan_refused(refusal, plan)

    def _round_refused(self, reason: str) -> bool:
        """Whether a round of the open training would be refused still; a training that is closed has none."""
        if self.policy is None:
            return True
        if reason.startswith(_ROUND_RULES):
            return self._breaks_rule(self._check_round)
        if "'largest_lost_share'" in reason:
            return self._breaks_rule(self._check_lost)
        plan, cost = self.open_plan, self.open_cost
        if broken_rule(reason) is None:
            return True
        if plan is None or cost is None:
            return False
        # The roster that was approved as the training was joined stays approved for it.
        rules = self.policy.model_copy(update={"roster_fingerprint": None})
        return replace(self, policy=rules)._forbidden(plan, cost)

    def _check_round(self, policy: MerchantPolicy) -> None:
        start = policy.day_start(self.now).astimezone(UTC)
        today = sum(datetime.fromisoformat(entry.created_at) >= start for entry in charges(self.entries))
        policy.check_round(now=self.now, rounds_today=today)

    def _check_lost(self, policy: MerchantPolicy) -> None:
        plan = self.open_plan
        if plan is None:
            return
        mine = [entry for entry in charges(self.entries) if entry.charge.training_id == plan.training_id]
        if mine:
            # The round that was refused starts from the last charged round's model, or there were fewer lost.
            last = mine[-1].charge.model_hash
            lost = lost_rounds(mine, training_id=plan.training_id, model_hash=last)
            policy.check_lost(lost=lost, rounds=plan.rounds)

    def _breaks_rule(self, check: Callable[[MerchantPolicy], None]) -> bool:
        try:
            if self.policy is not None:
                check(self.policy)
        except (RefusedError, ConfigError, AggregationError):
            return True
        return False

    def _forbidden(self, plan: TrainingPlan, summary: PlanSummary) -> bool:
        """Whether the rules or the lifetime cap forbid what is left of a plan."""
        cap = None if self.policy is None else self.policy.lifetime_epsilon
        if cap is not None and (summary.cap_needed is None or summary.cap_needed > cap):
            return True

        def check(policy: MerchantPolicy) -> None:
            policy.check(plan)
            policy.check_cost(plan, derive(plan))
            if plan.committee:
                policy.check_window(plan)

        return self._breaks_rule(check)

    def _plan_refused(self, refusal: StoredRefusal, summary: PlanSummary) -> bool:
        if self.policy is None or refusal.plan is None:
            return True
        if not refusal.reason.startswith("policy '") and "budget" not in refusal.reason:
            # It can't be examined without the server.
            return True
        return self._forbidden(TrainingPlan.model_validate_json(refusal.plan), summary)
