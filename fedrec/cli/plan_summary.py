"""Describe a planned training and its privacy cost as lines for the operator."""

from __future__ import annotations

from collections.abc import Iterator

from fedrec._internal import number_format
from fedrec._internal.durations import duration_text
from fedrec._internal.text import counted
from fedrec.clients.default_policy_check import refusal_by_defaults
from fedrec.privacy.accounting.budget_rating import USUAL_DELTA, unit_in_words
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.audit import claims
from fedrec.privacy.derived_parameters import Derived, derive
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.optimizers.optimizer_registry import describe_objective, describe_update
from fedrec.server.planning import Task, check_model
from fedrec.server.report.epsilons import epsilon_after, epsilons_of_copies
from fedrec.server.report.figures_json import foreseen_figures
from fedrec.server.report.noise_outlook import noise_outlook
from fedrec.server.report.plan_rating import rate_plan
from fedrec.server.report.report_warnings import delta_warning
from fedrec.server.trainings import Training
from fedrec.vision import model_registry


def plan_lines(training: Training, *, fingerprint: str) -> Iterator[str]:
    """Describe a planned training.

    Args:
        training: the training.
        fingerprint: fingerprint of the join file, which merchants compare.

    Yields:
        The lines.
    """
    made = training.plan()
    yield f"training    {training.number} ({made.training_id[:16]})"
    yield from describe_plan(made, start_from=training.start_from())
    yield f"merchants   with the default policy and a new ledger {_by_default_policy(made, derive(made))}"
    yield f"fingerprint {fingerprint}"


def describe_plan(made: TrainingPlan, *, start_from: str | None) -> Iterator[str]:
    """Describe a plan.

    Args:
        made: the plan.
        start_from: number of the training whose result it starts from, if any.

    Yields:
        The lines.
    """
    derived = derive(made)
    code = "" if made.model_code is None else f" with the code {made.model_code}"
    yield f"model       {made.model}{code}, {made.dimension:,} parameters, {counted(made.rounds, 'round')}"
    note = check_model(Task.of_plan(made, model_registry.get_exact(made.model, made.model_code), seed=0))
    if note is not None:
        yield f"            {note}"
    if start_from is not None:
        yield f"start       the result of training {start_from}, as the plan's initial model"
    yield f"optimizer   {describe_update(made)}"
    yield f"loss        {describe_objective(made)}"
    if made.early_stopping is not None:
        yield f"stopping    {made.early_stopping.text}; the best round's model is kept"
    if made.upload_window is not None:
        window = duration_text(made.upload_window)
        yield f"window      {window} for uploads, once the committee's keys are there"
    yield (
        f"merchants   {made.cohort}, at least {made.min_contributors} in a sum, "
        f"{made.colluders} of them assumed to collude"
    )
    yield (
        f"privacy     {made.mode}, sampling rate {made.sample_rate:g}, clip {made.clip:g}, "
        f"noise multiplier {derived.spend.multiplier:.3f}, delta {number_format.delta(made.delta)}"
    )
    yield from _figures(made, derived)
    yield from _budget(made, derived)
    yield f"encryption  {made.scheme}{_committee(made)}"
    exposed = claims.scheme_warning(made.trust, trust_limit=schemes.get(made.scheme).trust_limit)
    if exposed is not None:
        yield f"warning     {exposed}"


def _figures(made: TrainingPlan, derived: Derived) -> Iterator[str]:
    """Describe the round of site figures, where the plan asks for one."""
    told = foreseen_figures(made, derived)
    if told is None:
        return
    cost = "" if told.epsilon is None else f", epsilon {number_format.epsilon(told.epsilon)} by itself"
    unit = unit_in_words(made.unit)
    yield (
        f"figures     one round more, of counts by class, accuracy and loss of the merchants' own {unit}s"
        f"{cost}; a class of {told.detectable:,} {unit}s or more is told from none. Only merchants whose "
        "policy says site_figures = true join"
    )


def _by_default_policy(made: TrainingPlan, derived: Derived) -> str:
    """Say whether a merchant with the default policy and a new ledger would join."""
    refusal = refusal_by_defaults(made, derived)
    if refusal is None:
        return "join it; others need its cost to be left of their budget"
    return f"refuse it: {refusal}"


def _committee(made: TrainingPlan) -> str:
    """Say how many members open a sum, how many may be absent, and how many may be corrupt."""
    members = len(made.committee)
    if not made.corrupt_members:
        return f", the key at {made.committee[0]}" if made.committee else ""
    absent = members - made.threshold
    witnesses = len(made.seated_witnesses)
    seated = f", {counted(witnesses, 'witness', plural='witnesses')} on it" if witnesses else ""
    among = f", {made.corrupt_witnesses} of them witnesses" if witnesses else ""
    rest = f", except with probability {made.seat_risk:.2g} in the draw of seats" if made.seat_risk else ""
    return (
        f", threshold {made.threshold} of {members}{seated}: {absent or 'none'} may be absent, "
        f"{made.corrupt_members} may be corrupt{among}{rest}"
    )


def _budget(made: TrainingPlan, derived: Derived) -> Iterator[str]:
    """Describe the cost of the whole training, its rating in words, and warnings."""
    if not made.privacy_mode.private:
        yield "budget      none: privacy is off"
        return
    steps = made.rounds * made.local_steps
    headline = epsilon_after(made, derived, steps=steps, figures=True)
    broken = number_format.epsilon(epsilon_after(made, derived, steps=steps, figures=True, broken=True))
    usual = ""
    if made.delta != USUAL_DELTA:
        at = number_format.epsilon(epsilon_after(made, derived, steps=steps, figures=True, delta=USUAL_DELTA))
        usual = f"; {at} at delta {number_format.delta(USUAL_DELTA)}"
    copies = ", ".join(
        f"{number_format.epsilon(value)} for {count} copies of a photo"
        for count, value in epsilons_of_copies(made, derived, steps=steps, figures=True).items()
    )
    yield (
        f"budget      epsilon {number_format.epsilon(headline)} at this delta{usual}; {copies}; {broken} "
        "against whoever breaks the encryption"
    )
    yield f"rating      {rate_plan(made, headline).sentence}"
    yield (
        "caps        a merchant's lifetime cap counts it by a filter, with earlier charges and at the "
        "merchant's own delta: a first training counts about an eighth more than its epsilon"
    )
    for warning in (delta_warning(made), noise_outlook(made, epsilon=headline)):
        if warning is not None:
            yield f"warning     {warning}"
