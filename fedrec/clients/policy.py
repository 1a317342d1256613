"""Define a merchant's own rules and check plans, costs and rounds against them.

The rules are in a TOML file that only the merchant writes; no message of a server can change a rule. The
sensitivity is neither a rule nor part of a plan: the merchant derives it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from datetime import UTC, datetime, time
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fedrec._internal.text import counted
from fedrec.clients.event_hook import HookCommand
from fedrec.clients.photo_counts import ChangedData
from fedrec.clients.policy_file import (
    PolicyFile,
    check_approved,
    check_at_least,
    check_at_most,
    check_keeps_key,
    check_one_of,
)
from fedrec.errors import ConfigError, RefusedError
from fedrec.privacy.accounting.budget_rating import largest_delta
from fedrec.privacy.aggregation.committee import LARGEST_SEAT_RISK
from fedrec.privacy.derived_parameters import Derived
from fedrec.protocol.modes import Mode
from fedrec.protocol.plan import TrainingPlan, Unit
from fedrec.protocol.schema import MAX_COMMITTEE, MAX_PEERS, Hash

_SPAN = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]")


def _span(text: str) -> str:
    if _SPAN.fullmatch(text) is None or text[:5] == text[6:]:
        raise ValueError(f"must be a span of hours such as 22:00-06:00, not '{text}'")
    return text


Positive = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(ge=1)]
Delta = Annotated[float, Field(gt=0, lt=1)]
Span = Annotated[str, AfterValidator(_span)]
Argument = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")]


class MerchantPolicy(PolicyFile):
    """A merchant's rules; :mod:`fedrec.clients.policy_template` explains each of them.

    ``lifetime_epsilon`` at ``lifetime_delta`` caps all trainings together; the lifetime filter enforces it.
    None, for no cap, is for simulations only: :meth:`load` requires both. In simulations alone the limits on
    a training's size may be None, for no limit, and ``witness_keys`` may be, for all witnesses. A merchant
    with a cap can't take part in a mode without noise, even if ``modes`` allows it.
    """

    lifetime_epsilon: Positive | None = None
    lifetime_delta: Delta | None = None
    largest_training_epsilon: Positive | None = 8.0
    largest_training_delta: Delta | None = None
    modes: Annotated[frozenset[Mode], Field(min_length=1)] = frozenset({"distributed", "local"})
    units: Annotated[frozenset[Unit], Field(min_length=1)] = frozenset({"record", "product"})
    site_figures: bool = False
    schemes: Annotated[frozenset[str], Field(min_length=1)] = frozenset({"kahe"})
    largest_sample_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    least_noise_multiplier: Annotated[float, Field(ge=0)] = 0.3
    least_contributors: Annotated[int, Field(ge=1)] = 3
    least_colluders: Annotated[int, Field(ge=0)] = 1
    least_committee: Annotated[int, Field(ge=1, le=MAX_COMMITTEE)] = 3
    least_corrupt_members: Annotated[int, Field(ge=1, le=MAX_COMMITTEE)] = 1
    largest_seat_risk: Annotated[float, Field(ge=0, lt=1)] = 1e-8
    least_witnesses: Annotated[int, Field(ge=0, le=MAX_COMMITTEE)] = 0
    witness_keys: frozenset[Hash] | None = frozenset()
    largest_steps: Size | None = 2000
    largest_parameters: Size | None = 30_000_000
    largest_image_size: Size | None = 320
    largest_input_mib: Size | None = 16_384
    largest_classes: Size | None = 1000
    models: frozenset[str] | None = None
    initial_models: frozenset[Hash] | None = None
    model_code: frozenset[Hash] = frozenset()
    least_vouchers: Annotated[int, Field(ge=1, le=MAX_PEERS)] | None = None
    rotated_keys: Literal["accept", "by_hand"] = "accept"
    roster_fingerprint: Hash | None = None
    server_key: Hash | None = None
    largest_rounds_per_day: Annotated[int, Field(ge=0)] | None = None
    hours: tuple[Span, ...] | None = None
    clock: Literal["utc", "local"] = "utc"
    largest_lost_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    reply_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    training_expires_days: Annotated[int, Field(ge=1, le=36500)] = 30
    changed_data: ChangedData = "count_together"
    # No rules, and none of an auditor's business: left out of `rules` and of the hash.
    on_event: Annotated[tuple[Argument, ...] | None, Field(min_length=1, max_length=50, exclude=True)] = None
    on_event_seconds: Annotated[float, Field(gt=0, le=600, exclude=True)] = 30.0

    @model_validator(mode="after")
    def _require_both_cap_values(self) -> Self:
        if (self.lifetime_epsilon is None) != (self.lifetime_delta is None):
            raise ValueError("'lifetime_epsilon' and 'lifetime_delta' go together")
        return self

    @model_validator(mode="after")
    def _one_voucher_is_honest(self) -> Self:
        if self.least_vouchers is not None and self.least_vouchers <= self.least_colluders:
            raise ValueError(
                f"'least_vouchers' must be at least {self.least_colluders + 1}, one more than "
                "'least_colluders': otherwise colluders alone could vouch for an invented merchant"
            )
        return self

    @classmethod
    def without_limits(
        cls, *, modes: Collection[Mode], schemes: Collection[str], model_code: Collection[Hash] = ()
    ) -> MerchantPolicy:
        """Return the rules of a simulated merchant, without limits.

        Args:
            modes: the allowed privacy modes.
            schemes: the allowed aggregation schemes.
            model_code: SHA-256 of the code of each allowed installed model.

        Returns:
            The rules.
        """
        return cls(
            modes=frozenset(modes),
            schemes=frozenset(schemes),
            model_code=frozenset(model_code),
            witness_keys=None,
            site_figures=True,
            largest_training_epsilon=None,
            least_noise_multiplier=0.0,
            least_contributors=1,
            least_committee=1,
            largest_seat_risk=LARGEST_SEAT_RISK,
            largest_steps=None,
            largest_parameters=None,
            largest_image_size=None,
            largest_input_mib=None,
            largest_classes=None,
            largest_lost_share=1.0,
        )

    @classmethod
    def checked(cls, values: dict[str, Any]) -> Self:
        """Check the values of a policy file; raise ``ConfigError`` also if it has no lifetime cap."""
        policy = super().checked(values)
        if policy.lifetime_epsilon is None:
            raise ConfigError("'lifetime_epsilon' and 'lifetime_delta' are required; set the lifetime cap.")
        return policy

    @property
    def hook(self) -> HookCommand | None:
        """The command to run for events; None for none."""
        return None if self.on_event is None else HookCommand(self.on_event, self.on_event_seconds)

    def check(self, plan: TrainingPlan) -> None:
        """Check a plan against the rules.

        Sizes are checked first, with a few multiplications, however large the plan is.

        Raises:
            RefusedError: the plan breaks a rule, which the message names.
        """
        self._check_size(plan)
        check_delta(plan)
        check_one_of("modes", plan.mode, self.modes, what="privacy mode")
        check_one_of("units", plan.unit, self.units, what="unit")
        check_one_of("schemes", plan.scheme, self.schemes, what="secure aggregation")
        check_one_of("models", plan.model, self.models, what="model")
        if plan.model_code is not None and plan.model_code not in self.model_code:
            raise RefusedError(
                f"policy 'model_code': model '{plan.model}' with the code {plan.model_code} is not allowed",
                code="policy",
            )
        check_one_of("initial_models", plan.initial_model_hash, self.initial_models, what="initial model")
        if plan.site_figures is not None and not self.site_figures:
            raise RefusedError(
                "policy 'site_figures': the plan asks for a round of site figures, counts by class, accuracy "
                "and loss of this merchant's data, noised and summed over all merchants: set "
                "site_figures = true in the policy to allow that, or the operator must plan without them",
                code="policy",
            )
        check_at_most("largest_sample_rate", plan.sample_rate, self.largest_sample_rate)
        check_at_most("largest_training_delta", plan.delta, self.largest_training_delta)
        check_at_least("least_contributors", plan.min_contributors, self.least_contributors)
        if plan.privacy_mode.shares_noise or plan.trust.opened_by != "nobody":
            check_at_least("least_colluders", plan.colluders, self.least_colluders)
        if plan.trust.opened_by == "committee":
            check_at_least("least_committee", len(plan.committee), self.least_committee)
            check_at_least("least_corrupt_members", plan.corrupt_members, self.least_corrupt_members)
            check_at_most("largest_seat_risk", plan.seat_risk, self.largest_seat_risk)
            self._check_witnesses(plan)
        check_approved(plan, roster_fingerprint=self.roster_fingerprint, server_key=self.server_key)

    def _check_witnesses(self, plan: TrainingPlan) -> None:
        """Check the seats of named witnesses; the plan must take all others to be corrupt."""
        keys = [witness.signing_key for witness in plan.witnesses]
        named = sum(self.witness_keys is None or key in self.witness_keys for key in keys)
        check_at_least("least_witnesses", named, self.least_witnesses)
        if plan.corrupt_witnesses < len(keys) - named:
            raise RefusedError(
                f"policy 'witness_keys': {counted(len(keys) - named, 'witness', plural='witnesses')} of the "
                f"plan aren't named, and it takes only {plan.corrupt_witnesses} to be corrupt: the operator "
                "must raise corrupt_witnesses or plan without them, or witness_keys name those that you know",
                code="policy",
            )

    def _check_size(self, plan: TrainingPlan) -> None:
        check_at_most("largest_steps", plan.rounds * plan.local_steps, self.largest_steps)
        check_at_most("largest_parameters", plan.dimension, self.largest_parameters)
        check_at_most("largest_classes", len(plan.classes), self.largest_classes)
        check_at_most("largest_image_size", plan.image_size, self.largest_image_size)
        check_at_most("largest_input_mib", plan.input_bytes / 2**20, self.largest_input_mib)

    def check_cost(self, plan: TrainingPlan, derived: Derived) -> None:
        """Check a plan's noise multipliers and its whole epsilon, site figures included, against the rules.

        The merchant derives both, in the view that it reports. Epsilon is the proved bound (PLD) of all the
        plan's steps at the policy's ``lifetime_delta``, so that a plan gains nothing by naming a larger
        delta. Without a lifetime delta, as in simulations, it is at the plan's delta.

        Args:
            plan: the plan.
            derived: the parameters derived from it.

        Raises:
            RefusedError: the plan breaks a rule, which the message names.
        """
        spend = derived.whole_spend
        for kind in (spend, spend.figures):
            if kind is not None:
                check_at_least("least_noise_multiplier", kind.multiplier, self.least_noise_multiplier)
        if self.largest_training_epsilon is None:
            return
        epsilon = spend.with_delta(
            plan.delta if self.lifetime_delta is None else self.lifetime_delta
        ).epsilon()
        if epsilon == math.inf:
            raise RefusedError(
                "policy 'largest_training_epsilon': the plan has no privacy guarantee", code="policy"
            )
        check_at_most("largest_training_epsilon", epsilon, self.largest_training_epsilon)

    def check_window(self, plan: TrainingPlan) -> None:
        """Check that this merchant keeps its key of a campaign until the sum is opened.

        Only a member of the committee has such a key.

        Args:
            plan: the plan.

        Raises:
            RefusedError: the plan's window is as long as the time after which the key is deleted, or longer.
        """
        check_keeps_key(plan, days=self.training_expires_days)

    def day_start(self, now: datetime) -> datetime:
        """Return the start of the day of ``now`` (with a time zone) by the policy's clock."""
        midnight = datetime.combine(self._by_clock(now).date(), time())
        # Taken in the local zone as of then: on two days a year its offset is another than that of now.
        return midnight.replace(tzinfo=UTC) if self.clock == "utc" else midnight.astimezone()

    def check_round(self, *, now: datetime, rounds_today: int) -> None:
        """Check that another round may be charged now.

        Args:
            now: the time, with a time zone.
            rounds_today: the number of rounds charged since :meth:`day_start`.

        Raises:
            RefusedError: the hour or the number of rounds breaks a rule, which the message names.
        """
        if self.hours is not None:
            here = self._by_clock(now).time()
            if not any(_within(here, span) for span in self.hours):
                raise RefusedError(
                    "policy 'hours': rounds are not answered at this time of day", code="policy"
                )
        if self.largest_rounds_per_day is not None and rounds_today >= self.largest_rounds_per_day:
            raise RefusedError(
                f"policy 'largest_rounds_per_day': at most {self.largest_rounds_per_day} a day are charged",
                code="policy",
            )

    def check_lost(self, *, lost: int, rounds: int) -> None:
        """Check the share of lost rounds; see :func:`fedrec.clients.charging.lost_rounds`.

        Args:
            lost: the number of lost rounds.
            rounds: the number of rounds of the training.

        Raises:
            RefusedError: too many rounds were lost.
        """
        check_at_most("largest_lost_share", lost / rounds, self.largest_lost_share)

    def _by_clock(self, now: datetime) -> datetime:
        return now.astimezone(UTC if self.clock == "utc" else None)


def check_delta(plan: TrainingPlan) -> None:
    """Raise ``RefusedError`` if a plan's delta exceeds 1 / its records: it could disclose whole records."""
    most = largest_delta(plan.records_total)
    if plan.privacy_mode.private and plan.delta > most:
        raise RefusedError(
            f"the plan's delta of {plan.delta:.3g} is above {most:.3g}: with {plan.records_total} records it "
            "allows whole records to be disclosed",
            code="plan",
        )


def _within(here: time, span: str) -> bool:
    """Return whether a time is in a span such as 08:00-12:30 or 22:00-06:00; the end is excluded."""
    start, end = (time.fromisoformat(part) for part in span.split("-"))
    return start <= here < end if start < end else here >= start or here < end
