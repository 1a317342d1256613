"""How a merchant stands, as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.clients.status import Budget, MerchantStatus, PlanSummary
from fedrec.protocol.enrolment import grouped

_SHOWN_DIGITS = 16


def budget_lines(budget: Budget) -> Iterator[str]:
    """Yield what was spent by training, and what is left."""
    if not budget.trainings:
        yield "this merchant has been charged for no round"
    for training in budget.trainings:
        yield (
            f"training {training.training_id[:_SHOWN_DIGITS]}: "
            f"{counted(training.charges, 'charge')} of "
            f"{training.model}, the last at {training.last_at}; epsilon "
            f"{_figure(training.epsilon)} with the declared size, at its delta {training.delta:g}"
            + (f"; {training.seeded} of them SEEDED, which guarantee nothing" if training.seeded else "")
        )
    what = "products" if budget.unit == "product" else "photos"
    yield (
        f"size     {budget.declared} {what} declared, with noise"
        + (f"; counted {budget.counts} times, each charged" if budget.counts > 1 else "; charged once")
    )
    spent = f"{_figure(budget.spent)}{_of(budget)} at delta {budget.delta:g}"
    yield f"spent    epsilon {spent}, as the lifetime cap counts it"
    yield f"rating   {budget.sentence}"
    yield f"broken   epsilon {_figure(budget.spent_broken)}, against whoever breaks the encryption"
    if any(training.seeded for training in budget.trainings):
        yield "SEEDED   noise of some charges came from a seed: against whoever knows it no epsilon holds"


def status_lines(standing: MerchantStatus) -> Iterator[str]:
    """Yield how a merchant stands, a line or two for each matter."""
    yield f"merchant    {standing.merchant}"
    yield f"daemon      {_daemon(standing)}"
    if standing.server is None or standing.fingerprint is None:
        yield "server      none was joined yet: fedrec client join FILE"
    else:
        yield f"server      {standing.server}, with {', '.join(standing.roster)}"
        yield f"fingerprint {grouped(standing.fingerprint)}"
    if standing.new_key_waits:
        yield "node key    a new one waits for the operator to enrol it"
    if standing.policy_problem is not None:
        yield f"policy      can't be used: {standing.policy_problem}"
    if standing.training is None:
        yield "training    none is open"
    else:
        yield f"training    {_plan(standing.training)}; charged up to round {standing.training.last_round}"
        yield f"  cost      {_cost(standing.training)}"
        yield from (f"  alarm     NOT PRIVATE: {alarm}" for alarm in standing.training.alarms)
        yield f"  photos    {standing.photos or 'are looked through once the join is answered'}"
    if standing.paused:
        yield "paused      no new round is answered: 'fedrec client resume' ends it"
    budget = standing.budget
    yield f"budget      epsilon {_figure(budget.spent)} spent{_left(budget)}"
    yield f"  rating    {budget.sentence}"
    yield f"  broken    epsilon {_figure(budget.spent_broken)} against whoever breaks the encryption"
    entries = counted(standing.ledger_entries, "entry", plural="entries")
    yield f"ledger      {entries}, head {standing.ledger_head[:_SHOWN_DIGITS]}"
    for refused in standing.refusals:
        often = f"{refused.times} times, the last " if refused.times > 1 else ""
        yield f"refused     {refused.kind}, {often}at {refused.at}: {refused.reason}"
        if refused.plan is not None:
            yield f"  plan      {_plan(refused.plan)}"
            yield f"  cost now  {_cost(refused.plan)}"
            yield from (f"  alarm     NOT PRIVATE: {alarm}" for alarm in refused.plan.alarms)


def _of(budget: Budget) -> str:
    return "" if budget.cap is None else f" of {budget.cap:g}"


def _left(budget: Budget) -> str:
    if budget.cap is None:
        return ""
    return f", {number_format.epsilon_left(budget.left)} left of {budget.cap:g} at delta {budget.delta:g}"


def _daemon(standing: MerchantStatus) -> str:
    if not standing.running:
        return "doesn't run"
    if standing.connected:
        return f"runs, connected since {standing.connection_at}"
    return f"runs, not connected: {standing.connection_reason or 'it starts'}"


def _plan(plan: PlanSummary) -> str:
    return (
        f"{plan.training_id[:_SHOWN_DIGITS]}, {plan.model}, {len(plan.classes)} classes, "
        f"{counted(plan.rounds, 'round')}, {plan.mode}, {plan.scheme}, by {plan.unit}, "
        f"{plan.merchants} merchants"
    )


def _cost(plan: PlanSummary) -> str:
    needed = "no bound" if plan.cap_needed is None else number_format.epsilon(plan.cap_needed)
    return (
        f"epsilon {_figure(plan.epsilon)} for all its rounds and the declared size, at its delta "
        f"{plan.delta:g} ({plan.word}); "
        f"policy.toml needs a lifetime_epsilon of {needed} at lifetime_delta {plan.lifetime_delta:g}"
    )


def _figure(epsilon: float | None) -> str:
    return "without a bound" if epsilon is None else number_format.epsilon(epsilon)
