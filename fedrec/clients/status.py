"""How a merchant stands, for the merchant to read: its connection, its training, its budget, what it refused.

Everything is read from the merchant's folder, also while its daemon runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedrec.clients.charging import round_charge
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.store_view import Refusal, read_store
from fedrec.errors import AggregationError, ConfigError, LedgerError
from fedrec.privacy.accounting.budget_rating import Word, rate_budget, unit_in_words
from fedrec.privacy.accounting.ledger_entries import (
    ChargeEntry,
    CountEntry,
    Entry,
    charges,
    finite,
    genesis,
    last_count,
    spending,
)
from fedrec.privacy.accounting.ledger_history import History
from fedrec.privacy.accounting.ledger_reader import in_use, read_entries
from fedrec.privacy.accounting.lifetime_cap import LifetimeCap
from fedrec.privacy.accounting.lifetime_spend import Lifetime
from fedrec.privacy.audit import claims
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import verify
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex

_SHOWN_REFUSALS = 5


@dataclass(frozen=True)
class TrainingCharges:
    """What a training was charged; ``epsilon`` is the proved one of its charges and the declared counts.

    It holds at the training's ``delta``.

    ``seeded`` counts the charges whose noise came from a seed.
    """

    training_id: str
    model: str
    charges: int
    seeded: int
    last_round: int
    last_at: str
    epsilon: float | None
    delta: float


@dataclass(frozen=True)
class Budget:
    """The lifetime budget by the policy of today; an epsilon is None where nothing bounds it.

    ``spent`` and ``left`` are what the lifetime filter reads in the ledger's entries for ``cap`` and
    ``delta``, whatever these were when the entries were written. Where there is no cap, None, they are read
    for a nominal one, at the delta of the last entry. ``spent_broken`` is the same rule's, against somebody
    who saw every single upload in clear. ``word`` and ``sentence`` rate what was spent. ``declared`` is the
    noised count of units that holds, of ``counts`` that were charged.
    """

    spent: float | None
    spent_broken: float | None
    left: float | None
    cap: float | None
    delta: float
    word: Word
    sentence: str
    trainings: tuple[TrainingCharges, ...]
    counts: int
    declared: int
    unit: str


@dataclass(frozen=True)
class PlanSummary:
    """A plan and its cost: ``epsilon`` that of all its rounds and the declared counts, proved.

    It holds at the plan's own ``delta``.
    ``cap_needed`` is the least lifetime cap, to the hundredth and at ``lifetime_delta``, which lets in the
    rounds that are left. Both are None where nothing bounds them, or the plan can't be carried out.
    ``word`` rates ``epsilon``; ``alarms`` say where no noise is added, or the server reads single updates.
    """

    training_id: str
    model: str
    mode: str
    scheme: str
    unit: str
    rounds: int
    merchants: int
    classes: tuple[str, ...]
    last_round: int
    delta: float
    epsilon: float | None
    word: Word
    cap_needed: float | None
    lifetime_delta: float
    alarms: tuple[str, ...]


@dataclass(frozen=True)
class RefusedRequest:
    """What was refused, so many times, the last ``at``; and the plan, unless it was joined since."""

    at: str
    times: int
    kind: str
    reason: str
    plan: PlanSummary | None


@dataclass(frozen=True)
class MerchantStatus:
    """Everything at once; ``connection`` is how it stood at ``connection_at``, while ``running``.

    ``photos`` says what became of the photos in the open training, None before its records are fixed.
    """

    merchant: str
    running: bool
    connected: bool
    connection_at: str | None
    connection_reason: str
    server: str | None
    roster: tuple[str, ...]
    fingerprint: str | None
    new_key_waits: bool
    policy_problem: str | None
    training: PlanSummary | None
    photos: str | None
    paused: bool
    budget: Budget
    ledger_entries: int
    ledger_head: str
    refusals: tuple[RefusedRequest, ...]


def read_budget(home: MerchantHome, policy: MerchantPolicy | None) -> tuple[Budget, list[Entry]]:
    """Return the budget and the ledger's entries; ``LedgerError`` if the ledger doesn't verify."""
    outcome, entries = read_entries(home.ledger, public=home.identity().public, verify=verify)
    if not outcome.ok:
        raise LedgerError(f"the ledger does not verify: {outcome.reason}")
    trainings: dict[str, list[ChargeEntry]] = {}
    for entry in charges(entries):
        trainings.setdefault(entry.charge.training_id, []).append(entry)
    costs = spending(entries)
    lifetime = Lifetime.of(costs)
    cap = LifetimeCap() if policy is None else LifetimeCap(policy.lifetime_epsilon, policy.lifetime_delta)
    reading, broken = (
        cap.read(lifetime, delta=costs[-1].epsilons.delta, view=view)
        for view in ("server", "aggregation_broken")
    )
    _, delta = cap.filter_parameters(costs[-1].epsilons.delta)
    declared = last_count(entries)
    unit = "record" if declared is None else declared.unit
    rated = rate_budget(finite(reading.spent), delta=delta, unit=unit_in_words(unit))
    budget = Budget(
        spent=finite(reading.spent),
        spent_broken=finite(broken.spent),
        left=None if cap.epsilon is None else reading.left,
        cap=cap.epsilon,
        delta=delta,
        word=rated.word,
        sentence=rated.sentence,
        trainings=tuple(_charged(lifetime, charged) for charged in trainings.values()),
        counts=len(costs) - len(charges(entries)),
        declared=0 if declared is None else declared.size,
        unit=unit,
    )
    return budget, entries


def _charged(lifetime: Lifetime, entries: Sequence[ChargeEntry]) -> TrainingCharges:
    last = entries[-1]
    return TrainingCharges(
        training_id=last.charge.training_id,
        model=last.charge.model,
        charges=len(entries),
        seeded=sum(entry.charge.seeded for entry in entries),
        last_round=max(entry.charge.round_number for entry in entries),
        last_at=last.created_at,
        epsilon=finite(lifetime.training_epsilon(last.charge)),
        delta=last.charge.delta,
    )


def summarise_plan(plan: TrainingPlan, entries: Sequence[Entry], *, lifetime_delta: float) -> PlanSummary:
    """Work out what a plan costs, with the counts alone and on top of what was charged."""
    history = History.of(entries)
    last_round = history.last_round(plan.training_id)
    whole, needed = math.inf, math.inf
    try:
        derived = derive(plan)
    except (ConfigError, AggregationError):
        derived = None
    if derived is not None and derived.spend.multiplier > 0:
        charge = round_charge(
            plan,
            derived,
            round_number=plan.rounds,
            model_hash=plan.initial_model_hash,
            policy_hash="",
            seeded=False,
        )
        counted = Lifetime.of(entry for entry in spending(entries) if isinstance(entry, CountEntry))
        whole = counted.training_epsilon(charge, charges=plan.rounds)
        needed = history.lifetime.needed_cap(charge, charges=plan.rounds - last_round, delta=lifetime_delta)
    rated = rate_budget(
        finite(whole), delta=plan.delta, unit=unit_in_words(plan.unit), public_total=plan.records_total
    )
    return PlanSummary(
        training_id=plan.training_id,
        model=plan.model,
        mode=plan.mode,
        scheme=plan.scheme,
        unit=plan.unit,
        rounds=plan.rounds,
        merchants=plan.cohort,
        classes=plan.classes,
        last_round=last_round,
        delta=plan.delta,
        epsilon=finite(whole),
        word=rated.word,
        cap_needed=finite(needed),
        lifetime_delta=lifetime_delta,
        alarms=claims.alarms({"mode": plan.mode}, plan.trust),
    )


def read_status(home: MerchantHome) -> MerchantStatus:
    """Read how a merchant stands.

    Raises ``LedgerError`` if ledger or store can't be read, ``ConfigError`` if the folder can't.
    """
    policy, problem = None, None
    try:
        policy = MerchantPolicy.load(home.folder / "policy.toml")
    except ConfigError as error:
        problem = str(error)
    budget, entries = read_budget(home, policy)
    view = read_store(home.store)
    join = home.joined() if home.has_joined else None
    running, last = in_use(home.ledger), home.connection()

    def summary(plan: bytes | None) -> PlanSummary | None:
        if plan is None:
            return None
        found = TrainingPlan.model_validate_json(plan)
        return summarise_plan(found, entries, lifetime_delta=budget.delta)

    # What a plan that was taken later would have cost when it was refused is no longer of use.
    taken = {entry.charge.training_id for entry in charges(entries)}
    taken |= set() if view.open_plan is None else {sha256_hex(view.open_plan)}

    def refused(refusal: Refusal) -> RefusedRequest:
        plan = None if refusal.plan is None or sha256_hex(refusal.plan) in taken else refusal.plan
        return RefusedRequest(refusal.at, refusal.times, refusal.kind, refusal.reason, summary(plan))

    public = home.identity().public
    return MerchantStatus(
        merchant=home.settings().name,
        running=running,
        connected=running and last is not None and last.connected,
        connection_at=None if last is None else last.at,
        connection_reason="" if last is None else last.reason,
        server=None if join is None else join.address,
        roster=() if join is None else tuple(peer.name for peer in join.roster),
        fingerprint=None if join is None else join.fingerprint,
        new_key_waits=home.next_node_key_file.exists(),
        policy_problem=problem,
        training=summary(view.open_plan),
        photos=view.photo_summary,
        paused=home.paused,
        budget=budget,
        ledger_entries=len(entries),
        ledger_head=(entries[-1].hash if entries else genesis(public)).hex(),
        refusals=tuple(refused(refusal) for refusal in view.refusals[-_SHOWN_REFUSALS:]),
    )


def plan_of_last_charge(home: MerchantHome, entries: Sequence[Entry]) -> TrainingPlan | None:
    """Return the plan that the last charge was for, if the store still has it."""
    charged = charges(entries)
    if not charged:
        return None
    wanted = charged[-1].charge.training_id
    for plan in read_store(home.store).plans:
        if sha256_hex(plan) == wanted:
            return TrainingPlan.model_validate_json(plan)
    return None
