"""List what qualifies the figures of a report: missing protection, lost rounds, too much noise."""

from __future__ import annotations

from collections.abc import Sequence

from fedrec._internal.text import counted
from fedrec.privacy.accounting import accountant_registry
from fedrec.privacy.accounting.noise_multiplier import MIN_NOISE_MULTIPLIER
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.audit import claims
from fedrec.privacy.derived_parameters import Derived
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.training_report.figures_section import MissingFigures, SiteFigures
from fedrec.protocol.training_report.privacy_section import PrivacySection
from fedrec.server.report.epsilons import epsilon_after
from fedrec.server.report.noise_outlook import noise_outlook
from fedrec.server.report.training_result import RunFacts, TrainingResult
from fedrec.vision.metrics import Metrics

_SHOWN_REFUSALS = 20
_SHOWN_CLASSES = 10


def report_warnings(
    result: TrainingResult,
    facts: RunFacts,
    *,
    privacy: PrivacySection,
    figures: SiteFigures | None,
    problems: Sequence[str],
) -> tuple[str, ...]:
    """List what a reader of a report must know, the worst first.

    Args:
        result: the training's result.
        facts: how the training was run.
        privacy: the report's section on privacy.
        figures: its section on site figures.
        problems: what else is to be told.

    Returns:
        The warnings.
    """
    return (
        *_warnings(result, facts),
        *figures_warnings(figures),
        *_weak_settings(result.plan, result.derived),
        *problems,
        *_contradictions(privacy),
        *_absent_classes(result.metrics),
        *(f"{who}: {why}" for who, why in list(result.refusals.items())[:_SHOWN_REFUSALS]),
    )


def delta_warning(plan: TrainingPlan) -> str | None:
    """Return a warning if a plan's delta is above a tenth of one over its number of records, else None."""
    if not plan.privacy_mode.private or plan.delta * 10 * plan.records_total <= 1 + 1e-9:
        return None
    return (
        f"delta {plan.delta:.1g} is above a tenth of 1 / {plan.records_total} records: the guarantee of "
        "each record may fail with that probability, so for a tenth of a record or more in expectation"
    )


def _warnings(result: TrainingResult, facts: RunFacts) -> list[str]:
    plan, lines = result.plan, result.lines
    warnings: list[str] = []
    if not plan.privacy_mode.private:
        warnings.append("NOT PRIVATE: privacy is off; updates carry no noise.")
    warned = claims.scheme_warning(
        plan.trust,
        trust_limit=schemes.get(plan.scheme).trust_limit,
        holder=plan.committee[0] if plan.trust.opened_by == "holder" else "",
    )
    if warned is not None:
        warnings.append(warned)
    if facts.seeded:
        warnings.append(
            "SEEDED: noise, sampling and keys come from a seed; whoever knows it can subtract the noise."
        )
    lost = [line for line in lines if not line.opened]
    if lost and len(lost) == len(lines):
        warnings.append("NO RESULT: no round's sum was opened, so that there is no trained model.")
    if lost:
        warnings.append(
            f"not opened, yet charged: {counted(len(lost), 'round')}; the first: {lost[0].reason}."
        )
    if result.stopped_early:
        ended = "a callback" if plan.early_stopping is None else "early stopping or a callback"
        warnings.append(
            f"STOPPED EARLY: {ended} ended the training after {len(lines)} of "
            f"{counted(plan.rounds, 'round')}. Its results may have influenced that, so the privacy figures "
            "are those of all planned rounds; ledgers hold the rounds that were run."
        )
    unfinished = facts.rounds_reserved - len(lines)
    if unfinished > 0 and not facts.interrupted:
        warnings.append(
            f"under way when the server was stopped, never finished, and charged: "
            f"{counted(unfinished, 'round')}."
        )
    if facts.interrupted:
        warnings.append(f"INTERRUPTED: stopped after {len(lines)} of {counted(plan.rounds, 'round')}.")
    return warnings


def _weak_settings(plan: TrainingPlan, derived: Derived) -> list[str]:
    """Warn of a guarantee that differs from what was asked for, and of noise that leaves too little."""
    if not plan.privacy_mode.private:
        return []
    warnings: list[str] = []
    if plan.noise_multiplier is not None and plan.noise_multiplier <= MIN_NOISE_MULTIPLIER:
        warnings.append(
            f"the noise multiplier is at its minimum, {MIN_NOISE_MULTIPLIER:g}: epsilon is smaller than "
            "the one asked for."
        )
    epsilon = epsilon_after(plan, derived, steps=plan.rounds * plan.local_steps, figures=True)
    told = (delta_warning(plan), noise_outlook(plan, epsilon=epsilon))
    return [*warnings, *(f"{warned}." for warned in told if warned is not None)]


def _absent_classes(metrics: Metrics | None) -> list[str]:
    """Warn of classes without records, which macro means count as 0."""
    absent = [] if metrics is None else [line.label for line in metrics.per_class if line.support == 0]
    if not absent:
        return []
    shown = ", ".join(absent[:_SHOWN_CLASSES]) + (", ..." if absent[_SHOWN_CLASSES:] else "")
    return [
        f"{counted(len(absent), 'class has', plural='classes have')} no record to measure on and count "
        f"as 0 in macro means: {shown}."
    ]


def figures_warnings(figures: SiteFigures | None) -> list[str]:
    """Return the warning of a round of site figures that came to nothing, if it did."""
    if not isinstance(figures, MissingFigures):
        return []
    charged = "yet charged" if figures.begun else "and not charged"
    return [f"SITE FIGURES: there are none, {charged}: {figures.reason}."]


def _contradictions(privacy: PrivacySection) -> list[str]:
    """Name the accountants whose epsilon is below the proved one by more than both bounds allow."""
    epsilon = privacy.epsilon
    return [
        f"accountant {name} computes {value:.4g}, below the proved {epsilon:.4g}: one of them is not a valid "
        "bound."
        for name, value in privacy.cross_checks.items()
        if value is not None
        and epsilon is not None
        and accountant_registry.contradicts(value, headline=epsilon)
    ]
