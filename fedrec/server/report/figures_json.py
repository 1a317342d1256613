"""Make the section ``site_figures`` of a report, from what the server stored of their round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrec.privacy.accounting.ledger_entries import finite
from fedrec.privacy.derived_parameters import Derived
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.dp.figures_noise import largest_loss
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.training_report.figures_section import (
    ClassCount,
    FigureLine,
    FiguresDeviation,
    MissingFigures,
    OpenedFigures,
    SiteFigures,
)
from fedrec.server.figures_estimates import CONFIDENCE, Estimate, FiguresNoise, interval, ratio, scaled
from fedrec.server.stored_figures import StoredFigures


def figures_section(plan: TrainingPlan, derived: Derived, stored: StoredFigures | None) -> SiteFigures | None:
    """Return the section, None where the plan asks for no site figures.

    Args:
        plan: the training's plan.
        derived: what follows from it.
        stored: what the checkpoint has of the round; None before it was begun.

    Returns:
        The figures; where the round isn't opened, why there are none.
    """
    if derived.figures is None:
        return None
    spend = derived.figures.spend.with_delta(plan.delta)
    record = None if stored is None else stored.record
    missing = MissingFigures(
        round=plan.last_round,
        begun=stored is not None,
        opened=False,
        reason=_reason(stored),
        contributors=0 if record is None else record.contributors,
        unit=plan.unit,
        noise_multiplier=spend.multiplier if plan.privacy_mode.private else None,
        epsilon=finite(spend.epsilon()),
        epsilon_aggregation_broken=finite(spend.epsilon("aggregation_broken")),
        confidence=CONFIDENCE,
        largest_loss=largest_loss(len(plan.classes)),
    )
    if stored is None or stored.values is None:
        return missing
    return _opened(missing, plan, derived.figures.noise, stored.values)


def _opened(
    known: MissingFigures, plan: TrainingPlan, noise_plan: NoisePlan, values: Sequence[int]
) -> OpenedFigures:
    """Return the section of an opened round.

    Args:
        known: what is known without its sum.
        plan: the training's plan.
        noise_plan: the noise plan of the round.
        values: the opened sum, in grid units.

    Returns:
        The figures.
    """
    noise = FiguresNoise.of(noise_plan, contributors=known.contributors)
    counts, correct, loss = scaled(values, noise_plan)
    records = sum(counts)
    return OpenedFigures(
        round=known.round,
        begun=known.begun,
        opened=True,
        reason=None,
        contributors=known.contributors,
        unit=known.unit,
        noise_multiplier=known.noise_multiplier,
        epsilon=known.epsilon,
        epsilon_aggregation_broken=known.epsilon_aggregation_broken,
        confidence=known.confidence,
        largest_loss=known.largest_loss,
        deviation=FiguresDeviation(count=noise.count, correct=noise.correct, loss=noise.loss),
        threshold=noise.threshold,
        detectable=noise.detectable,
        classes=tuple(
            ClassCount(
                label=label, count=count, low=bounds.low, high=bounds.high, found=count > noise.threshold
            )
            for label, count, bounds in zip(plan.classes, counts, noise.counts(counts), strict=True)
        ),
        records=_line(interval(records, noise.records)),
        correct=_line(interval(correct, noise.correct)),
        loss_sum=_line(interval(loss, noise.loss)),
        accuracy=_line(ratio(correct, records, above_deviation=noise.correct, below_deviation=noise.records)),
        mean_loss=_line(ratio(loss, records, above_deviation=noise.loss, below_deviation=noise.records)),
    )


@dataclass(frozen=True)
class ForeseenFigures:
    """What a plan's site figures will cost and show.

    Attributes:
        epsilon: their own, in the server's view; None without a guarantee.
        epsilon_aggregation_broken: likewise, for somebody who sees every upload in clear.
        noise_multiplier: noise over sensitivity, in the server's view; None without noise.
        detectable: the least count that is told from none if all merchants contribute, which makes the most
            noise.
    """

    epsilon: float | None
    epsilon_aggregation_broken: float | None
    noise_multiplier: float | None
    detectable: int


def foreseen_figures(plan: TrainingPlan, derived: Derived) -> ForeseenFigures | None:
    """Return what a plan's site figures will cost and show; None where it asks for none.

    Args:
        plan: the plan.
        derived: what follows from it.

    Returns:
        The foreseen figures.
    """
    if derived.figures is None:
        return None
    spend = derived.figures.spend.with_delta(plan.delta)
    return ForeseenFigures(
        epsilon=finite(spend.epsilon()),
        epsilon_aggregation_broken=finite(spend.epsilon("aggregation_broken")),
        noise_multiplier=spend.multiplier if plan.privacy_mode.private else None,
        detectable=FiguresNoise.of(derived.figures.noise, contributors=plan.cohort).detectable,
    )


def _reason(stored: StoredFigures | None) -> str:
    """Say why there are no figures; empty where there are."""
    if stored is None:
        return "the round was not begun"
    if stored.record is None:
        return "the server was stopped in the round, which is never run twice"
    return stored.record.reason or ""


def _line(estimate: Estimate) -> FigureLine:
    return FigureLine(estimate=estimate.value, low=estimate.low, high=estimate.high)
