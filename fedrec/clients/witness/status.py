"""Read a witness's status from its folder, even while its daemon runs: connection, training, openings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fedrec.clients.liveness import Liveness, liveness
from fedrec.clients.status_types import RefusedRequest
from fedrec.clients.store_view import StoredRefusal, read_store, readable_plan
from fedrec.clients.witness.home import WitnessHome
from fedrec.clients.witness.openings import OpeningCounts, read_counts
from fedrec.clients.witness.policy import PAUSED, UNUSABLE, WitnessPolicy
from fedrec.errors import ConfigError, RefusedError
from fedrec.protocol.plan import TrainingPlan

_SHOWN_REFUSALS = 5


@dataclass(frozen=True)
class WitnessedPlan:
    """The open training.

    Attributes:
        training_id: the training.
        model: name of its model.
        mode: its privacy mode.
        scheme: its aggregation scheme.
        rounds: its number of rounds.
        merchants: size of its cohort.
        committee: number of the members that help to open sums.
        witnesses: how many of them are witnesses.
        opened: sums of it that this witness helped to open.
    """

    training_id: str
    model: str
    mode: str
    scheme: str
    rounds: int
    merchants: int
    committee: int
    witnesses: int
    opened: int


@dataclass(frozen=True)
class WitnessStatus(Liveness):
    """The whole status of a witness; what a merchant's status has too means the same.

    Attributes:
        witness: its name.
        signing_key: the key that merchants name in ``witness_keys``.
        server: the server's address; None before a join file is confirmed.
        roster: names of the merchants on the confirmed roster.
        witnesses: names of the witnesses beside it.
        fingerprint: fingerprint of the confirmed join file.
        new_key_waits: whether a new node key waits to be enrolled.
        policy_problem: why the policy can't be used; None if it can.
        training: the open training.
        paused: whether the witness is paused.
        trainings: number of the trainings that it joined.
        openings: sums of all trainings that it helped to open.
        openings_today: those since the start of the day, UTC.
        most_openings_per_day: the policy's limit on them.
        last_opening: time of the last one.
        refusals: the last refused requests, the oldest first.
    """

    witness: str
    signing_key: str
    server: str | None
    roster: tuple[str, ...]
    witnesses: tuple[str, ...]
    fingerprint: str | None
    new_key_waits: bool
    policy_problem: str | None
    training: WitnessedPlan | None
    paused: bool
    trainings: int
    openings: int
    openings_today: int
    most_openings_per_day: int | None
    last_opening: str | None
    refusals: tuple[RefusedRequest, ...]


def read_witness_status(home: WitnessHome) -> WitnessStatus:
    """Read the whole status of a witness.

    Returns:
        The status.

    Raises:
        LedgerError: the store or the record of openings can't be read.
        ConfigError: another file of the folder can't be read.
    """
    now = datetime.now(UTC)
    join = home.joined() if home.has_joined else None
    policy, problem = None, None
    try:
        policy = home.policy() if join is not None else WitnessPolicy.load(home.folder / "policy.toml")
    except ConfigError as error:
        problem = str(error)
    view, counts = read_store(home.store), read_counts(home.openings, now=now)
    plan = None if view.open_plan is None else readable_plan(view.open_plan)
    standing = _Standing(policy, paused=home.paused, now=now)
    return WitnessStatus(
        witness=home.name,
        signing_key=home.identity().public.hex(),
        **vars(liveness(home)),
        server=None if join is None else join.address,
        roster=() if join is None else tuple(peer.name for peer in join.roster),
        witnesses=() if join is None else tuple(peer.name for peer in join.witnesses),
        fingerprint=None if join is None else join.fingerprint,
        new_key_waits=home.next_node_key_file.exists(),
        policy_problem=problem,
        training=None if plan is None else _witnessed(plan, counts),
        paused=home.paused,
        trainings=len(view.plans),
        openings=sum(counts.by_training.values()),
        openings_today=counts.today,
        most_openings_per_day=None if policy is None else policy.largest_openings_per_day,
        last_opening=counts.last_at,
        refusals=_refused(view.refusals, standing),
    )


def _witnessed(plan: TrainingPlan, counts: OpeningCounts) -> WitnessedPlan:
    return WitnessedPlan(
        training_id=plan.training_id,
        model=plan.model,
        mode=plan.mode,
        scheme=plan.scheme,
        rounds=plan.last_round,
        merchants=plan.cohort,
        committee=len(plan.committee),
        witnesses=sum(name in plan.witness_keys for name in plan.committee),
        opened=counts.by_training.get(plan.training_id, 0),
    )


@dataclass(frozen=True)
class _Standing:
    """What decides whether a refusal is still true."""

    policy: WitnessPolicy | None
    paused: bool
    now: datetime

    def holds(self, refusal: StoredRefusal) -> bool:
        if refusal.reason == PAUSED:
            return self.paused
        if refusal.reason == UNUSABLE:
            return self.policy is None
        if refusal.is_old(self.now) or refusal.answered_since:
            return False
        plan = None if refusal.plan is None else readable_plan(refusal.plan)
        if self.policy is None or plan is None or not refusal.reason.startswith("policy '"):
            return True
        try:
            self.policy.check(plan)
        except RefusedError:
            return True
        return False


def _refused(refusals: Sequence[StoredRefusal], standing: _Standing) -> tuple[RefusedRequest, ...]:
    return tuple(
        RefusedRequest(each.at, each.times, each.kind, each.reason, standing.holds(each))
        for each in refusals[-_SHOWN_REFUSALS:]
    )
