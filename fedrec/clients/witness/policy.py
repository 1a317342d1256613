"""Define a witness's own rules: for whom it opens sums, under which plans, and how often."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Final

from pydantic import Field

from fedrec.clients.policy_file import (
    PolicyFile,
    check_approved,
    check_at_least,
    check_at_most,
    check_keeps_key,
    check_one_of,
)
from fedrec.errors import RefusedError
from fedrec.privacy.aggregation.committee import LARGEST_SEAT_RISK
from fedrec.protocol.modes import Mode
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import MAX_COMMITTEE, Hash, PartyName

Count = Annotated[int, Field(ge=1)]

PAUSED: Final = "the witness has paused: it opens nothing until it resumes"
UNUSABLE: Final = "the witness's policy can't be used; its own log says why"


class WitnessPolicy(PolicyFile):
    """A witness's rules; :mod:`fedrec.clients.witness.policy_template` explains each of them.

    ``merchants`` are the names that a plan's roster may have, bound to their keys by the approved roster.
    """

    merchants: frozenset[PartyName] | None = None
    modes: Annotated[frozenset[Mode], Field(min_length=1)] = frozenset({"distributed", "local"})
    schemes: Annotated[frozenset[str], Field(min_length=1)] = frozenset({"kahe"})
    least_contributors: Annotated[int, Field(ge=1)] = 3
    least_colluders: Annotated[int, Field(ge=0)] = 1
    least_corrupt_members: Annotated[int, Field(ge=1, le=MAX_COMMITTEE)] = 1
    largest_seat_risk: Annotated[float, Field(ge=0, lt=1)] = 1e-8
    largest_openings_per_training: Count | None = 2000
    largest_openings_per_day: Count | None = None
    roster_fingerprint: Hash | None = None
    server_key: Hash | None = None
    training_expires_days: Annotated[int, Field(ge=1, le=36500)] = 30

    @classmethod
    def without_limits(cls, *, modes: Collection[Mode]) -> WitnessPolicy:
        """Return the rules of a simulated witness, without limits, for the given privacy modes."""
        return cls(
            modes=frozenset(modes),
            least_contributors=1,
            largest_seat_risk=LARGEST_SEAT_RISK,
            largest_openings_per_training=None,
        )

    def check(self, plan: TrainingPlan) -> None:
        """Check a plan against the rules.

        Raises:
            RefusedError: the plan breaks a rule, which the message names.
        """
        check_one_of("modes", plan.mode, self.modes, what="privacy mode")
        check_one_of("schemes", plan.scheme, self.schemes, what="secure aggregation")
        if self.merchants is not None:
            for peer in plan.roster:
                check_one_of("merchants", peer.name, self.merchants, what="merchant")
        check_at_most("largest_openings_per_training", plan.last_round, self.largest_openings_per_training)
        check_at_least("least_contributors", plan.min_contributors, self.least_contributors)
        check_at_least("least_colluders", plan.colluders, self.least_colluders)
        check_at_least("least_corrupt_members", plan.corrupt_members, self.least_corrupt_members)
        check_at_most("largest_seat_risk", plan.seat_risk, self.largest_seat_risk)
        check_approved(plan, roster_fingerprint=self.roster_fingerprint, server_key=self.server_key)
        check_keeps_key(plan, days=self.training_expires_days)

    def check_opening(self, *, today: int) -> None:
        """Check that another sum may be opened now.

        The sums of one training need no count: a round is opened once, and :meth:`check` bounds the rounds.

        Args:
            today: number of openings of all trainings since the start of the day, UTC.

        Raises:
            RefusedError: the day's limit is reached.
        """
        limit = self.largest_openings_per_day
        if limit is not None and today >= limit:
            raise RefusedError(
                f"policy 'largest_openings_per_day': at most {limit} sums are opened", code="policy"
            )
