"""Make the section ``site_figures`` of a report, from what the server stored of their round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fedrec.privacy.accounting.ledger_entries import finite
from fedrec.privacy.derived_parameters import Derived
from fedrec.privacy.dp.figures_noise import largest_loss
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.figures_estimates import CONFIDENCE, Estimate, FiguresNoise, interval, ratio, scaled


def figures_section(
    plan: TrainingPlan, derived: Derived, stored: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return the section, None where the plan asks for no site figures.

    Args:
        plan: the training's plan.
        derived: what follows from it.
        stored: what the checkpoint has of the round; None before it was begun.

    Returns:
        JSON values. Where the round isn't opened, they say why, and there are no figures.
    """
    if derived.figures is None:
        return None
    spend = derived.figures.spend.with_delta(plan.delta)
    record = {} if stored is None else stored.get("record", {})
    values = None if stored is None else stored.get("values")
    section: dict[str, Any] = {
        "round": plan.last_round,
        "begun": stored is not None,
        "opened": values is not None,
        "reason": _reason(stored),
        "contributors": record.get("contributors", 0),
        "unit": plan.unit,
        "noise_multiplier": spend.multiplier if plan.privacy_mode.private else None,
        "epsilon": finite(spend.epsilon()),
        "epsilon_aggregation_broken": finite(spend.epsilon("aggregation_broken")),
        "confidence": CONFIDENCE,
        "largest_loss": largest_loss(len(plan.classes)),
    }
    if values is None:
        return section
    noise = derived.figures.noise
    known = FiguresNoise.of(noise, contributors=record["contributors"])
    counts, correct, loss = scaled(values, noise)
    records = sum(counts)
    return section | {
        "deviation": {"count": known.count, "correct": known.correct, "loss": known.loss},
        "threshold": known.threshold,
        "detectable": known.detectable,
        "classes": [
            {"label": label, **_named(estimate, "count"), "found": count > known.threshold}
            for label, count, estimate in zip(plan.classes, counts, known.counts(counts), strict=True)
        ],
        "records": _named(interval(records, known.records), "estimate"),
        "correct": _named(interval(correct, known.correct), "estimate"),
        "loss_sum": _named(interval(loss, known.loss), "estimate"),
        "accuracy": _named(
            ratio(correct, records, above_deviation=known.correct, below_deviation=known.records), "estimate"
        ),
        "mean_loss": _named(
            ratio(loss, records, above_deviation=known.loss, below_deviation=known.records), "estimate"
        ),
    }


def foreseen_figures(plan: TrainingPlan, derived: Derived) -> dict[str, Any] | None:
    """Return what a plan's site figures will cost and show; None where it asks for none.

    Args:
        plan: the plan.
        derived: what follows from it.

    Returns:
        Their own epsilon in both views, and the least count that is told from none if all merchants
        contribute, which makes the most noise.
    """
    if derived.figures is None:
        return None
    spend = derived.figures.spend.with_delta(plan.delta)
    return {
        "epsilon": finite(spend.epsilon()),
        "epsilon_aggregation_broken": finite(spend.epsilon("aggregation_broken")),
        "noise_multiplier": spend.multiplier if plan.privacy_mode.private else None,
        "detectable": FiguresNoise.of(derived.figures.noise, contributors=plan.cohort).detectable,
    }


def figures_warnings(section: Mapping[str, Any] | None) -> list[str]:
    """Return the warning of a round of site figures that came to nothing, if it did."""
    if section is None or section["opened"]:
        return []
    charged = "yet charged" if section["begun"] else "and not charged"
    return [f"SITE FIGURES: there are none, {charged}: {section['reason']}."]


def _reason(stored: Mapping[str, Any] | None) -> str | None:
    """Say why there are no figures; None where there are."""
    if stored is None:
        return "the round was not begun"
    if "record" not in stored:
        return "the server was stopped in the round, which is never run twice"
    reason: str | None = stored["record"]["reason"]
    return reason


def _named(estimate: Estimate, name: str) -> dict[str, float | None]:
    values = asdict(estimate)
    return {name: values.pop("value"), **values}
