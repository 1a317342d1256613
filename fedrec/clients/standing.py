"""How a merchant stands, for the merchant to read: its connection, its training, its budget, what it refused.

Everything is read from the merchant's folder, also while its daemon runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedrec.clients.home import MerchantHome
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.store import Refusal, read_store
from fedrec.errors import AggregationError, ConfigError, LedgerError
from fedrec.privacy.accounting.entries import (
    ChargeEntry,
    Entry,
    SpendingEntry,
    charges,
    finite,
    genesis,
    last_count,
    spending,
)
from fedrec.privacy.accounting.events import MIN_DELTA, Event
from fedrec.privacy.accounting.rdp import epsilon_rdp
from fedrec.privacy.accounting.reading import in_use, read_entries
from fedrec.privacy.derive import derive, reported_views
from fedrec.privacy.identity import verify
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex

_SHOWN_REFUSALS = 5


@dataclass(frozen=True)
class Charged:
    """What a training was charged; ``epsilon_lifetime`` is the proved one after its last charge.

    ``seeded`` counts the charges whose noise came from a seed.
    """

    training_id: str
    model: str
    charges: int
    seeded: int
    last_round: int
    last_at: str
    epsilon_lifetime: float | None


@dataclass(frozen=True)
class Budget:
    """The lifetime budget; an epsilon is None where nothing bounds it, the cap where there is no policy.

    ``spent_broken`` is the proved epsilon against somebody who saw every single upload in clear. ``declared``
    is the noised count of units that holds, of ``counts`` that were charged.
    """

    spent: float | None
    spent_pld: float | None
    spent_broken: float | None
    left: float | None
    cap: float | None
    delta: float | None
    trainings: tuple[Charged, ...]
    counts: int
    declared: int
    unit: str


@dataclass(frozen=True)
class PlanSummary:
    """A plan and its cost: ``epsilon`` that of all its rounds, proved, at the plan's own ``delta``.

    ``epsilon_lifetime`` is what the ledger would stand at after the rounds that are left, at
    ``lifetime_delta``. Both are None where nothing bounds them, or the plan can't be carried out.
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
    epsilon_lifetime: float | None
    lifetime_delta: float | None


@dataclass(frozen=True)
class Refused:
    """What was refused, so many times, the last ``at``; and the plan, unless it was joined since."""

    at: str
    times: int
    kind: str
    reason: str
    plan: PlanSummary | None


@dataclass(frozen=True)
class Standing:
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
    refusals: tuple[Refused, ...]


def read_budget(home: MerchantHome, policy: MerchantPolicy | None) -> tuple[Budget, list[Entry]]:
    """Return the budget and the ledger's entries; ``LedgerError`` if the ledger doesn't verify."""
    outcome, entries = read_entries(home.ledger, public=home.identity().public, verify=verify)
    if not outcome.ok:
        raise LedgerError(f"the ledger does not verify: {outcome.reason}")
    trainings: dict[str, list[ChargeEntry]] = {}
    for entry in charges(entries):
        trainings.setdefault(entry.charge.training_id, []).append(entry)
    costs = spending(entries)
    last = costs[-1].epsilons if costs else None
    spent = 0.0 if last is None else last.rdp_after
    declared = last_count(entries)
    cap = None if policy is None else policy.lifetime_epsilon
    left = None if cap is None else max(0.0, cap - spent) if spent is not None else 0.0
    budget = Budget(
        spent=spent,
        spent_pld=0.0 if last is None else last.pld_after,
        spent_broken=_broken(costs),
        left=left,
        cap=cap,
        delta=None if policy is None else policy.lifetime_delta,
        trainings=tuple(_charged(charged) for charged in trainings.values()),
        counts=len(costs) - len(charges(entries)),
        declared=0 if declared is None else declared.size,
        unit="" if declared is None else declared.unit,
    )
    return budget, entries


def _broken(entries: Sequence[SpendingEntry]) -> float | None:
    if not entries:
        return 0.0
    delta = entries[-1].epsilons.delta - sum(entry.cost.delta_used for entry in entries)
    events = [entry.cost.event("aggregation_broken") for entry in entries]
    return finite(epsilon_rdp(events, delta=delta)) if delta >= MIN_DELTA else None


def _charged(entries: Sequence[ChargeEntry]) -> Charged:
    last = entries[-1]
    return Charged(
        training_id=last.charge.training_id,
        model=last.charge.model,
        charges=len(entries),
        seeded=sum(entry.charge.seeded for entry in entries),
        last_round=max(entry.charge.round_number for entry in entries),
        last_at=last.created_at,
        epsilon_lifetime=last.epsilons.rdp_after,
    )


def summarise(plan: TrainingPlan, entries: Sequence[Entry], *, lifetime_delta: float | None) -> PlanSummary:
    """Work out what a plan costs, alone and on top of what was charged."""
    charged = [entry.charge for entry in charges(entries)]
    last_round = max((c.round_number for c in charged if c.training_id == plan.training_id), default=0)
    alone, lifetime = math.inf, math.inf
    try:
        noise = derive(plan).noise
        multiplier = reported_views(plan, noise).server
    except (ConfigError, AggregationError):
        noise, multiplier = None, 0.0
    if noise is not None and multiplier > 0:
        beta = noise.beta

        def cost(rounds: int, *, before: Sequence[SpendingEntry], delta: float) -> float:
            steps = rounds * plan.local_steps
            left = delta - beta * steps - sum(entry.cost.delta_used for entry in before)
            events = [entry.cost.event() for entry in before]
            events.append(Event(plan.sample_rate, multiplier, steps))
            return epsilon_rdp(events, delta=left) if left >= MIN_DELTA else math.inf

        alone = cost(plan.rounds, before=(), delta=plan.delta)
        if lifetime_delta is not None:
            lifetime = cost(plan.rounds - last_round, before=spending(entries), delta=lifetime_delta)
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
        epsilon=finite(alone),
        epsilon_lifetime=finite(lifetime),
        lifetime_delta=lifetime_delta,
    )


def read_standing(home: MerchantHome) -> Standing:
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
        return summarise(found, entries, lifetime_delta=budget.delta)

    # What a plan that was taken later would have cost when it was refused is no longer of use.
    taken = {entry.charge.training_id for entry in charges(entries)}
    taken |= set() if view.open_plan is None else {sha256_hex(view.open_plan)}

    def refused(refusal: Refusal) -> Refused:
        plan = None if refusal.plan is None or sha256_hex(refusal.plan) in taken else refusal.plan
        return Refused(refusal.at, refusal.times, refusal.kind, refusal.reason, summary(plan))

    public = home.identity().public
    return Standing(
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
        photos=view.told,
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
