"""Describe the status of a merchant or a witness, and a merchant's budget, as lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fedrec._internal import number_format
from fedrec._internal.durations import duration_text
from fedrec._internal.moments import moment
from fedrec._internal.text import counted
from fedrec.clients.status_types import (
    Budget,
    MerchantStatus,
    PlanSummary,
    RefusedRequest,
    TrainingHistory,
)
from fedrec.clients.witness.status import WitnessedPlan, WitnessStatus
from fedrec.protocol.enrolment import grouped

_SHOWN_DIGITS, _GAUGE = 16, 20


def budget_lines(budget: Budget) -> Iterator[str]:
    """Describe what each training spent, and what is left."""
    if not budget.trainings:
        yield "this merchant has been charged for no round"
    for training in budget.trainings:
        yield (
            f"training {training.training_id[:_SHOWN_DIGITS]}: "
            f"{counted(training.charges, 'charge')} of "
            f"{training.model}, the last at {moment(training.last_at)}; epsilon "
            f"{_epsilon(training.epsilon)} with the declared size, at its delta "
            f"{number_format.delta(training.delta)}"
            + (f"; {training.seeded} of them SEEDED, which guarantee nothing" if training.seeded else "")
        )
    what = "products" if budget.unit == "product" else "photos"
    yield (
        f"size     {budget.declared} {what} declared, with noise"
        + (f"; counted {budget.counts} times, each charged" if budget.counts > 1 else "; charged once")
    )
    spent = f"{_epsilon(budget.spent)}{_of_cap(budget)} at delta {number_format.delta(budget.delta)}"
    yield f"spent    epsilon {spent}, as the lifetime cap counts it"
    yield f"rating   {budget.sentence}"
    yield f"broken   epsilon {_epsilon(budget.spent_broken)}, against anyone who breaks the encryption"
    if any(training.seeded for training in budget.trainings):
        yield "SEEDED   noise of some charges came from a seed: no epsilon holds against anyone who knows it"


def _party_lines(status: MerchantStatus | WitnessStatus, *, command: str) -> Iterator[str]:
    """Describe what merchants and witnesses have in common; ``command`` is the group of their commands."""
    yield f"daemon      {_daemon(status)}"
    if status.server is None or status.fingerprint is None:
        yield f"server      none was joined yet: run fedrec {command} join FILE"
    else:
        yield f"server      {status.server}, with {', '.join(status.roster)}"
        yield f"fingerprint {grouped(status.fingerprint)}"
    if status.new_key_waits:
        yield "node key    a new one isn't enrolled by the operator yet"
    if status.policy_problem is not None:
        yield f"policy      can't be used: {status.policy_problem}"


def witness_status_lines(status: WitnessStatus) -> Iterator[str]:
    """Describe a witness's status, in a line or two for each topic."""
    yield f"witness     {status.witness}, signing key {status.signing_key}"
    yield from _party_lines(status, command="witness")
    yield f"training    {'none is open' if status.training is None else _witnessed(status.training)}"
    if status.paused:
        yield "paused      nothing is opened until 'fedrec witness resume'"
    last = "" if status.last_opening is None else f", the last at {moment(status.last_opening)}"
    most = "" if status.most_openings_per_day is None else f" of {status.most_openings_per_day} allowed"
    yield (
        f"opened      {counted(status.openings, 'sum')} of {counted(status.trainings, 'training')}{last}; "
        f"{status.openings_today}{most} today (UTC)"
    )
    yield from _earlier(status)
    for refused in (each for each in status.refusals if each.standing):
        yield _refused(refused)


def _witnessed(plan: WitnessedPlan) -> str:
    return (
        f"{plan.training_id[:_SHOWN_DIGITS]}, {plan.model}, {plan.mode}, {plan.scheme}, {plan.merchants} "
        f"merchants, a committee of {plan.committee} with "
        f"{counted(plan.witnesses, 'witness', plural='witnesses')}; "
        f"{plan.opened} of {counted(plan.rounds, 'sum')} opened"
    )


def _earlier(status: MerchantStatus | WitnessStatus) -> Iterator[str]:
    # What would be granted by now is of no use to anybody but an auditor, who has it from the bundle.
    earlier = sum(not each.standing for each in status.refusals)
    if earlier:
        number = counted(earlier, "refusal is", plural="refusals are")
        yield f"earlier     {number} no longer true; --json has them"


def _refused(refused: RefusedRequest) -> str:
    times = f"{refused.times} times, the last " if refused.times > 1 else ""
    return f"refused     {refused.kind}, {times}at {moment(refused.at)}: {refused.reason}"


def status_lines(status: MerchantStatus) -> Iterator[str]:
    """Describe a merchant's status, in a line or two for each topic."""
    yield f"merchant    {status.merchant}"
    yield from _party_lines(status, command="client")
    if status.training is None:
        yield "training    none is open"
    else:
        yield f"training    {_plan(status.training)}; charged up to round {status.training.last_round}"
        yield f"  cost      {_cost(status.training)}"
        yield from _window(status.training, merchant=status.merchant)
        yield from (f"  alarm     NOT PRIVATE: {alarm}" for alarm in status.training.alarms)
        yield from _next_round(status)
        yield f"  photos    {status.photos or 'are inspected after the join is answered'}"
    if status.paused:
        yield "paused      new rounds are refused until 'fedrec client resume'"
    elif status.resumed is not None:
        yield (
            f"resumed     at {moment(status.resumed)}: takes part again from the round for which the server "
            "asks next, within about ten minutes"
        )
    budget = status.budget
    yield f"budget      {_gauge(budget)}epsilon {_epsilon(budget.spent)} spent{_left(budget)}"
    yield f"  rating    {budget.sentence}"
    yield f"  broken    epsilon {_epsilon(budget.spent_broken)} against anyone who breaks the encryption"
    entries = counted(status.ledger_entries, "entry", plural="entries")
    yield f"ledger      {entries}, head {status.ledger_head[:_SHOWN_DIGITS]}"
    yield from _sent(status)
    yield from (f"history     {_history(each)}" for each in status.history)
    yield from _earlier(status)
    for refused in (each for each in status.refusals if each.standing):
        yield _refused(refused)
        if refused.plan is not None:
            yield f"  plan      {_plan(refused.plan)}"
            yield f"  cost now  {_cost(refused.plan)}"
            yield from _window(refused.plan, merchant=status.merchant)
            yield from (f"  alarm     NOT PRIVATE: {alarm}" for alarm in refused.plan.alarms)


def _next_round(status: MerchantStatus) -> Iterator[str]:
    found = status.next_round
    if found is None:
        yield "  next      no round is left"
        return
    pace = "" if found.seconds_between is None else f", {number_format.duration(found.seconds_between)} apart"
    zone = "UTC" if status.clock == "utc" else "by this machine's clock"
    hours = "" if status.hours is None else f"; rounds are answered in {', '.join(status.hours)} ({zone})"
    yield f"  next      round {found.number} of {found.rounds}{pace}{hours}"


def _sent(status: MerchantStatus) -> Iterator[str]:
    """Say what left this machine, apart from short messages without anything of the photos."""
    uploads, answers = (
        sum(getattr(each, name) for each in status.history) for name in ("uploads", "answers")
    )
    size = number_format.size(sum(each.bytes_sent for each in status.history))
    yield (
        f"sent        {size} in {counted(uploads, 'encrypted upload')} and "
        f"{counted(answers, 'answer')} that opened sums; no photo"
    )


def _history(training: TrainingHistory) -> str:
    state = "open" if training.open else "ended"
    when = (
        "" if training.first_at is None else f", {training.first_at[:10]} to {(training.last_at or '')[:10]}"
    )
    lost = f", {training.lost} of them came to nothing" if training.lost else ""
    if training.never_changed:
        lost += " (the model never changed: it probably gave nothing)"
    spent = "no epsilon" if not training.charged else f"epsilon {_epsilon(training.epsilon)}"
    gave = (
        ""
        if training.accuracy is None
        else f"; its model is right on {number_format.percent(training.accuracy)}"
    )
    alone = "; NOISE ALONE was sent at the end: no photo was used" if training.noise_alone else ""
    return (
        f"{training.training_id[:_SHOWN_DIGITS]}, {training.model}, {state}{when}: "
        f"{training.charged} of {counted(training.rounds, 'round')}{lost}; {spent} spent{gave}{alone}"
    )


def _gauge(budget: Budget) -> str:
    """Draw the spent part of the cap, where there is one."""
    if budget.cap is None:
        return ""
    share = 1.0 if budget.spent is None else min(1.0, budget.spent / budget.cap)
    full = math.ceil(_GAUGE * share)
    return f"[{'#' * full}{'-' * (_GAUGE - full)}] "


def _of_cap(budget: Budget) -> str:
    return "" if budget.cap is None else f" of {budget.cap:g}"


def _left(budget: Budget) -> str:
    if budget.cap is None:
        return ""
    delta = number_format.delta(budget.delta)
    return f", {number_format.epsilon_left(budget.left)} left of {budget.cap:g} at delta {delta}"


def _daemon(status: MerchantStatus | WitnessStatus) -> str:
    if not status.running:
        return "doesn't run" + (f" since {moment(status.connection_at)}" if status.connection_at else "")
    since = "" if status.started is None else f" since {moment(status.started)}"
    if status.connected:
        return f"runs{since}, connected since {moment(status.connection_at)}"
    doing = f"; it is {status.doing_text}" if status.doing_text else ""
    return f"runs{since}, not connected: {status.connection_reason or 'it is starting'}{doing}"


def _plan(plan: PlanSummary) -> str:
    figures = " and one of site figures" if plan.site_figures else ""
    return (
        f"{plan.training_id[:_SHOWN_DIGITS]}, {plan.model}, {len(plan.classes)} classes, "
        f"{counted(plan.rounds, 'round')}{figures}, {plan.mode}, {plan.scheme}, by {plan.unit}, "
        f"{plan.merchants} merchants"
    )


def _window(plan: PlanSummary, *, merchant: str) -> Iterator[str]:
    """Say when this merchant is needed in a campaign whose uploads arrive over days."""
    if plan.upload_window is None:
        return
    made = "its upload is made" if plan.last_round else "it is needed once, for its upload"
    later = (
        "; as a member of the committee it is needed when the sum is opened"
        if merchant in plan.committee
        else ""
    )
    rest = later or ("; it isn't needed any more" if plan.last_round else "")
    yield f"  window    {duration_text(plan.upload_window)} for all uploads: {made}{rest}"


def _cost(plan: PlanSummary) -> str:
    needed = "no bound" if plan.cap_needed is None else number_format.epsilon(plan.cap_needed)
    return (
        f"epsilon {_epsilon(plan.epsilon)} for all its rounds and the declared size, at its delta "
        f"{number_format.delta(plan.delta)} ({plan.word}); "
        f"policy.toml needs a lifetime_epsilon of {needed} at its delta "
        f"{number_format.delta(plan.lifetime_delta)}"
    )


def _epsilon(epsilon: float | None) -> str:
    return "without a bound" if epsilon is None else number_format.epsilon(epsilon)
