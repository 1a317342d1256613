"""Explain a plan before it is filed: epsilon, time, bytes, who would refuse it, and who may be absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Final

from fedrec._internal import number_format
from fedrec._internal.durations import duration_text
from fedrec._internal.text import counted, listed
from fedrec.cli.explanation_types import (
    SCHEMA,
    Absences,
    Explanation,
    PlanCost,
    PolicyGroup,
    PrivacyForeseen,
)
from fedrec.clients.charging import round_charge
from fedrec.clients.default_policy_check import refusals_by_defaults
from fedrec.privacy.accounting.entry_contents import Charge
from fedrec.privacy.derived_parameters import Derived, derive
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.cohort_defaults import default_colluders, default_min_contributors
from fedrec.server.planning import Task
from fedrec.server.receipts import rounds_with_receipt
from fedrec.server.report.epsilons import epsilon_after
from fedrec.server.report.figures_json import foreseen_figures
from fedrec.server.report.plan_rating import rate_plan
from fedrec.server.server_home import ServerHome
from fedrec.server.trainings import readable_trainings
from fedrec.simulations.plan_trial import Trial, cost_of_rounds
from fedrec.vision.feature_room import photo_bytes

EXCHANGE_SECONDS: Final = 0.27
"""What one exchange with merchants takes by itself, over TLS on loopback (docs/measurements.md)."""
_LINE_BITS: Final = 10e6
"""Bits a second of the uplink that the time of an upload is told for."""
_MOST_SEARCHED: Final = 8


def explain(plan: TrainingPlan, task: Task, home: ServerHome) -> Explanation:
    """Predict what a plan costs, and what can stop it; nothing is written or filed.

    Args:
        plan: the plan.
        task: what is learnt.
        home: the server's folder, for what merchants were charged for in earlier trainings.

    Returns:
        The explanation.
    """
    derived = derive(plan)
    return Explanation(
        schema=SCHEMA,
        filed=False,
        model=plan.model,
        parameters=plan.dimension,
        merchants=tuple(peer.name for peer in plan.roster),
        witnesses=tuple(peer.name for peer in plan.witnesses),
        rounds=plan.rounds,
        upload_window_seconds=plan.upload_window,
        privacy=_privacy(plan, derived),
        site_figures=foreseen_figures(plan, derived),
        absences=_absences(plan),
        policies=tuple(_policies(plan, derived, home)),
        cost=cost_of_plan(plan, cost_of_rounds(plan, task)),
        photo_bytes_kept=photo_bytes(plan, task.spec),
    )


def _privacy(plan: TrainingPlan, derived: Derived) -> PrivacyForeseen:
    steps = plan.rounds * plan.local_steps
    epsilon = epsilon_after(plan, derived, steps=steps, figures=True)
    return PrivacyForeseen(
        mode=plan.mode,
        unit=plan.unit,
        delta=plan.delta,
        epsilon=epsilon,
        epsilon_aggregation_broken=epsilon_after(plan, derived, steps=steps, figures=True, broken=True),
        rating=rate_plan(plan, epsilon).sentence,
    )


def _absences(plan: TrainingPlan) -> Absences:
    members = len(plan.committee)
    spare = plan.cohort - plan.min_contributors
    spare_members = members - plan.threshold if plan.corrupt_members else 0
    return Absences(
        merchants=plan.cohort,
        contributors_needed=plan.min_contributors,
        merchants_that_may_be_absent=spare,
        # One merchant holds the key where there is no threshold.
        key_holder=plan.committee[0] if plan.trust.opened_by == "holder" else None,
        committee=members,
        answers_needed=plan.threshold,
        members_that_may_be_absent=spare_members,
        limits=tuple(_limits(plan, spare=spare, spare_members=spare_members)),
    )


def _limits(plan: TrainingPlan, *, spare: int, spare_members: int) -> Iterator[str]:
    """Say what this cohort can't do."""
    if spare <= 0:
        yield (
            f"all {plan.cohort} merchants must take part in every round: no round begins while one is away, "
            "and one that goes away within a round costs that round, which stays charged to the others"
        )
        yield (
            "if sums don't open, nobody can be left out to find out who spoils them: the training stops "
            "after two such rounds"
        )
        more = _merchants_for_slack(plan)
        if more is not None:
            yield f"with {counted(more, 'more merchant')}, one may be absent by default"
    elif plan.corrupt_members and spare_members <= 0:
        yield "every member of the committee must answer for a sum to be opened"
    if plan.colluders and plan.min_contributors - plan.colluders <= 2:
        honest = plan.min_contributors - plan.colluders
        yield (
            f"epsilon counts the noise of {counted(honest, 'merchant')}; it doesn't hold if more than "
            f"{plan.colluders} side with the server"
        )


def _merchants_for_slack(plan: TrainingPlan) -> int | None:
    """Return how many more merchants would let one be absent, by the defaults."""
    for more in range(1, _MOST_SEARCHED):
        cohort = plan.cohort + more
        least = default_min_contributors(
            merchants=cohort, colluders=max(plan.colluders, default_colluders(cohort)), drop=Fraction(0)
        )
        if least < cohort:
            return more
    return None


def _policies(plan: TrainingPlan, derived: Derived, home: ServerHome) -> Iterator[PolicyGroup]:
    """Yield which merchants would join by the default policy, and why the others wouldn't."""
    known = _known_charges(home)
    groups: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for peer in plan.roster:
        charged = tuple(
            (number, rounds[peer.name]) for number, (_, rounds) in known.items() if rounds.get(peer.name)
        )
        groups.setdefault(charged, []).append(peer.name)
    for charged, names in groups.items():
        earlier = (charge for number, rounds in charged for charge in _charges(known[number][0], rounds))
        refusals = refusals_by_defaults(plan, derived, earlier=earlier)
        yield PolicyGroup(merchants=tuple(names), earlier_charges=dict(charged), refusals=tuple(refusals))


def _known_charges(home: ServerHome) -> dict[str, tuple[TrainingPlan, dict[str, int]]]:
    """Return how many rounds of each earlier training every merchant has a receipt of, by number."""
    found = {}
    for training, _, earlier in readable_trainings(home.trainings):
        rounds = rounds_with_receipt(home.receipts, training_id=earlier.training_id)
        if rounds and earlier.privacy_mode.private:
            found[training.number] = (earlier, rounds)
    return found


def _charges(plan: TrainingPlan, rounds: int) -> Iterator[Charge]:
    derived = derive(plan)
    for number in range(1, rounds + 1):
        yield round_charge(
            plan,
            derived,
            round_number=number,
            model_hash=plan.initial_model_hash,
            policy_hash="",
            seeded=False,
        )


def cost_of_plan(plan: TrainingPlan, trial: Trial) -> PlanCost:
    """Return time and bytes of all rounds.

    Args:
        plan: the plan.
        trial: what a round costs each party.

    Returns:
        The cost.
    """
    # The round of site figures, if there is one, sends the model as others do, and brings back few numbers.
    members, rounds, passes = len(plan.committee), plan.rounds, plan.last_round
    exchanges = (2 if plan.committee else 1) * EXCHANGE_SECONDS
    seconds = trial.seconds_round + exchanges
    up = plan.cohort * trial.up + members * trial.member_up
    down = plan.cohort * trial.down + members * trial.member_down
    return PlanCost(
        bytes_are_counted=trial.counted,
        seconds_step=trial.seconds_step,
        seconds_answer=trial.seconds_answer,
        seconds_server=trial.seconds_server,
        seconds_exchanges=exchanges,
        seconds_round=seconds,
        seconds=None if plan.upload_window is not None else passes * seconds,
        seconds_upload_at_10_mbit=8 * trial.up / _LINE_BITS,
        merchant_bytes_up=trial.up,
        merchant_bytes_down=trial.down,
        member_bytes_up=trial.member_up,
        member_bytes_down=trial.member_down,
        join_and_close_bytes_up=trial.once_up,
        join_and_close_bytes_down=trial.once_down,
        round_bytes_up=up,
        round_bytes_down=down,
        bytes_up=rounds * up,
        bytes_down=passes * down,
    )


def explanation_lines(told: Explanation) -> Iterator[str]:
    """Describe an explanation, beside what :func:`fedrec.cli.plan_summary.describe_plan` says of the plan.

    Args:
        told: from :func:`explain`.

    Yields:
        The lines.
    """
    yield from _epsilon_lines(told.privacy)
    yield from _cost_lines(told)
    if told.photo_bytes_kept:
        kept = number_format.size(told.photo_bytes_kept)
        yield f"disk        a merchant keeps {kept} of each of its photos, in the cache of its features"
    yield from _absence_lines(told.absences)
    for group in told.policies:
        yield from _policy_lines(group)
    yield "filed       nothing: run the same command without --explain to file it"


def _epsilon_lines(privacy: PrivacyForeseen) -> Iterator[str]:
    if privacy.epsilon is None:
        yield "epsilon     none: privacy is off"
        return
    server = number_format.epsilon(privacy.epsilon)
    broken = number_format.epsilon(privacy.epsilon_aggregation_broken)
    yield (
        f"epsilon     {server} against the server, {broken} if aggregation were broken; both for all rounds, "
        f"at delta {number_format.delta(privacy.delta)}"
    )


def _cost_lines(told: Explanation) -> Iterator[str]:
    cost, rounds = told.cost, told.rounds
    parts = {
        "a merchant's step": cost.seconds_step,
        "a member's answer" if told.absences.key_holder is None else "an opening": cost.seconds_answer,
        "the server": cost.seconds_server,
        "messages over TLS": cost.seconds_exchanges,
    }
    shown = ", ".join(f"{name} {number_format.duration(value)}" for name, value in parts.items() if value)
    if told.upload_window_seconds is not None:
        window = duration_text(told.upload_window_seconds)
        yield f"time        {window} for uploads, and the opening ({shown})"
    else:
        yield (
            f"time        about {number_format.duration(cost.seconds_round)} a round, "
            f"{number_format.duration(cost.seconds)} for {counted(rounds, 'round')} ({shown}), where "
            "merchants have machines like this one"
        )
    line = number_format.duration(cost.seconds_upload_at_10_mbit)
    yield f"            and {line} more a round for an upload at 10 Mbit/s"
    how = "counted" if cost.bytes_are_counted else "estimated"
    yield (
        f"bytes       a merchant sends {number_format.size(cost.merchant_bytes_up)} a round and receives "
        f"{number_format.size(cost.merchant_bytes_down)} ({how}); in all "
        f"{number_format.size(rounds * cost.merchant_bytes_up)} and "
        f"{number_format.size(rounds * cost.merchant_bytes_down)}"
    )
    if cost.member_bytes_down:
        holder = told.absences.key_holder
        who = "a member of the committee" if holder is None else f"{holder}, which holds the key,"
        yield (
            f"            {who} sends {number_format.size(cost.member_bytes_up)} a "
            f"round and receives {number_format.size(cost.member_bytes_down)} beside that"
        )
    yield (
        f"            the server receives {number_format.size(cost.bytes_up)} in all and sends "
        f"{number_format.size(cost.bytes_down)}"
    )


def _absence_lines(absences: Absences) -> Iterator[str]:
    spare = absences.merchants_that_may_be_absent
    text = f"absent      {spare or 'none'} of {counted(absences.merchants, 'merchant')} may be, in any round"
    if absences.key_holder is not None:
        text += f"; {absences.key_holder}, which holds the key, must be there at every opening"
    elif absences.answers_needed:
        members = absences.members_that_may_be_absent
        text += f"; {members or 'none'} of the {absences.committee} members of the committee, at an opening"
    yield text
    yield from (f"limit       {limit}" for limit in absences.limits)


def _policy_lines(group: PolicyGroup) -> Iterator[str]:
    ledger = "a new ledger"
    if group.earlier_charges:
        rounds = _rounds_in_words(group.earlier_charges)
        ledger = f"a ledger of {rounds} (by this server's receipts)"
    who = f"policy      {listed(group.merchants)}, with the default policy and {ledger}:"
    if not group.refusals:
        yield f"{who} would join"
        return
    yield f"{who} would refuse"
    yield from (f"            {reason}" for reason in group.refusals)


def _rounds_in_words(charged: Mapping[str, int]) -> str:
    return listed([f"{counted(rounds, 'round')} of training {number}" for number, rounds in charged.items()])
