"""Read a merchant's status: its connection, its training, its budget, and the requests that it refused.

Everything is read from the merchant's folder, even while its daemon runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from fedrec._internal.moments import iso_text
from fedrec.clients.charging import figures_charge, round_charge
from fedrec.clients.liveness import liveness
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.photo_counts import photo_text
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.refusals import Standing, broken_rule, cause_of
from fedrec.clients.status_types import (
    Budget,
    MerchantStatus,
    PlanSummary,
    RefusedByMerchant,
    TrainingCharges,
)
from fedrec.clients.store_view import StoreView, read_store, readable_plan
from fedrec.clients.training_history import histories, next_round
from fedrec.errors import AggregationError, ConfigError, LedgerError
from fedrec.privacy.accounting.budget_rating import rate_budget, unit_in_words
from fedrec.privacy.accounting.entry_encoding import genesis
from fedrec.privacy.accounting.ledger_entries import (
    ChargeEntry,
    CountEntry,
    Entry,
    charges,
    finite,
    last_count,
    spending,
)
from fedrec.privacy.accounting.ledger_history import History
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.accounting.lifetime_cap import LifetimeCap
from fedrec.privacy.accounting.lifetime_spend import Lifetime
from fedrec.privacy.audit import claims
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import verify
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex

_SHOWN_REFUSALS = 5


def read_budget(home: MerchantHome, policy: MerchantPolicy | None) -> tuple[Budget, list[Entry]]:
    """Read the ledger and compute the lifetime budget.

    Args:
        home: the merchant's folder.
        policy: the rules with the lifetime cap; None to compute without a cap.

    Returns:
        The budget, and the ledger's entries.

    Raises:
        LedgerError: the ledger doesn't verify.
    """
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
        trainings=tuple(_training_charges(lifetime, charged) for charged in trainings.values()),
        counts=len(costs) - len(charges(entries)),
        declared=0 if declared is None else declared.size,
        unit=unit,
    )
    return budget, entries


def _training_charges(lifetime: Lifetime, entries: Sequence[ChargeEntry]) -> TrainingCharges:
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
    """Compute the cost of a plan, by itself and in addition to what the ledger has.

    Args:
        plan: the plan.
        entries: the ledger's entries.
        lifetime_delta: the delta of the lifetime budget.

    Returns:
        The plan and its cost.
    """
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
        figures = figures_charge(plan, derived, charge)
        whole = counted.training_epsilon(charge, charges=plan.rounds, figures=figures)
        needed = history.lifetime.needed_cap(
            charge,
            charges=plan.rounds - last_round,
            delta=lifetime_delta,
            figures=None if last_round > plan.rounds else figures,
        )
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
        alarms=claims.alarms(plan.privacy_mode, plan.trust),
        upload_window=plan.upload_window,
        committee=plan.committee,
        site_figures=plan.site_figures is not None,
    )


def read_status(home: MerchantHome) -> MerchantStatus:
    """Read the whole status of a merchant.

    Returns:
        The status.

    Raises:
        LedgerError: the ledger or the store can't be read.
        ConfigError: another file of the folder can't be read.
    """
    policy, problem = None, None
    try:
        policy = MerchantPolicy.load(home.folder / "policy.toml")
    except ConfigError as error:
        problem = str(error)
    budget, entries = read_budget(home, policy)
    view = read_store(home.store)
    join = home.joined() if home.has_joined else None
    open_plan = None if view.open_plan is None else readable_plan(view.open_plan)
    training = _summary(view.open_plan, entries, budget)
    standing = Standing(
        policy=_in_force(home, policy),
        paused=home.paused,
        entries=entries,
        now=datetime.now(UTC),
        open_plan=open_plan,
        open_cost=training,
    )
    rule = MerchantPolicy.model_fields["changed_data"].default if policy is None else policy.changed_data
    counts, photos = view.photo_counts, view.photo_summary
    if counts is not None:
        photos = photo_text(counts, changed_data=rule)
    public = home.identity().public
    return MerchantStatus(
        merchant=home.name,
        **vars(liveness(home)),
        server=None if join is None else join.address,
        roster=() if join is None else tuple(peer.name for peer in join.roster),
        fingerprint=None if join is None else join.fingerprint,
        new_key_waits=home.next_node_key_file.exists(),
        policy_problem=problem,
        training=training,
        next_round=None if open_plan is None else next_round(open_plan, entries),
        photos=photos,
        photo_counts=None if counts is None else counts.model_dump(),
        changed_data=rule,
        paused=home.paused,
        resumed=None if training is None else _resumed(home, entries),
        budget=budget,
        ledger_entries=len(entries),
        ledger_head=(entries[-1].hash if entries else genesis(public)).hex(),
        refusals=_refusals(view, standing, budget),
        history=histories(view, entries, budget, home=home.folder),
        hours=None if policy is None else policy.hours,
        clock="utc" if policy is None else policy.clock,
        forgotten=view.forgotten,
    )


def _summary(plan: bytes | None, entries: Sequence[Entry], budget: Budget) -> PlanSummary | None:
    """Summarise a stored plan; None where there is none or this version can't read it."""
    readable = None if plan is None else readable_plan(plan)
    return None if readable is None else summarise_plan(readable, entries, lifetime_delta=budget.delta)


def _refusals(view: StoreView, standing: Standing, budget: Budget) -> tuple[RefusedByMerchant, ...]:
    """Return the latest refusals; each has its plan's cost unless the plan was joined since."""
    joined = {entry.charge.training_id for entry in charges(standing.entries)}
    joined |= set() if view.open_plan is None else {sha256_hex(view.open_plan)}
    shown = []
    for refusal in view.refusals[-_SHOWN_REFUSALS:]:
        plan = None if refusal.plan is None or sha256_hex(refusal.plan) in joined else refusal.plan
        summary = _summary(plan, standing.entries, budget)
        shown.append(
            RefusedByMerchant(
                at=refusal.at,
                times=refusal.times,
                kind=refusal.kind,
                reason=refusal.reason,
                standing=standing.holds(refusal, summary),
                cause=cause_of(refusal.reason),
                rule=broken_rule(refusal.reason),
                plan=summary,
            )
        )
    return tuple(shown)


def _resumed(home: MerchantHome, entries: Sequence[Entry]) -> str | None:
    """Return when the last pause ended, if no round was charged since."""
    at = home.resumed
    charged = charges(entries)
    if at is None or (charged and datetime.fromisoformat(charged[-1].created_at) > at):
        return None
    return iso_text(at)


def _in_force(home: MerchantHome, policy: MerchantPolicy | None) -> MerchantPolicy | None:
    """Return the rules with the roster and the server of the join file, if they can be used."""
    if policy is None or not home.has_joined:
        return policy
    try:
        return home.policy()
    except ConfigError:
        return None


def plan_of_last_charge(home: MerchantHome, entries: Sequence[Entry]) -> TrainingPlan | None:
    """Return the plan of the last charge.

    Args:
        home: the merchant's folder.
        entries: the ledger's entries.

    Returns:
        The plan; None if nothing was charged, or the store has no such plan that can be read.
    """
    charged = charges(entries)
    if not charged:
        return None
    wanted = charged[-1].charge.training_id
    for plan in read_store(home.store).plans:
        if sha256_hex(plan) == wanted:
            return readable_plan(plan)
    return None
