"""Make the content of ``report.json``, schema ``fedrec.report/1``, which every training ends with.

A simulation knows more than a deployed server: the merchants' ledgers and costs are on the same machine. What
the reporter can't know is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from fedrec._internal.text import counted
from fedrec.privacy.accounting import accountant_registry
from fedrec.privacy.accounting.budget_rating import USUAL_DELTA, Rating
from fedrec.privacy.accounting.noise_multiplier import MIN_NOISE_MULTIPLIER
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.audit import claims
from fedrec.privacy.derived_parameters import ADJACENCY, DUPLICATE_POLICY, Derived
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.early_stopping import describe_stopping
from fedrec.server.optimizers.optimizer_registry import describe_objective, describe_update
from fedrec.server.report.epsilons import charged_events, cross_checks, epsilon_after, epsilons_of_copies
from fedrec.server.report.figures_json import figures_section, figures_warnings
from fedrec.server.report.noise_outlook import class_over_noise, noise_outlook
from fedrec.server.round_records import RoundLine, RoundRecord, read_record
from fedrec.vision.metrics import Metrics
from fedrec.vision.model_registry import is_solved

SCHEMA = "fedrec.report/1"
_SHOWN_REFUSALS = 20
_SHOWN_CLASSES = 10


@dataclass(frozen=True)
class RunFacts:
    """How a training was run, and what was measured of it.

    Attributes:
        id: the run's id.
        engine: what ran the merchants.
        seconds: how long it took.
        peak_memory_bytes: the largest memory use.
        interrupted: whether it was interrupted.
        rounds_reserved: how many rounds may have been charged, one that was under way at an interruption
            included.
        seeded: whether any merchant's noise came from a seed, as far as it is known.
        workers: number of worker processes.
        dataset: name of the data.
        partition: how it was divided among merchants.
        seed: the run's seed, if any.
        seconds_train: CPU seconds of training, all merchants together.
        seconds_encrypt: CPU seconds of encryption, all merchants together.
    """

    id: str
    engine: str
    seconds: float
    peak_memory_bytes: int
    interrupted: bool
    rounds_reserved: int
    seeded: bool
    workers: int | None = None
    dataset: str | None = None
    partition: str | None = None
    seed: int | None = None
    seconds_train: float | None = None
    seconds_encrypt: float | None = None


def rate_plan(plan: TrainingPlan, epsilon: float | None, *, seeded: bool = False) -> Rating:
    """Rate the epsilon of a training in words.

    Args:
        plan: the training's plan.
        epsilon: the epsilon to rate, None without a guarantee.
        seeded: whether noise came from a seed.

    Returns:
        The rating.
    """
    privacy = {
        "mode": plan.mode,
        "unit": plan.unit,
        "epsilon": epsilon,
        "delta": plan.delta,
        "seeded": seeded,
    }
    return claims.rating(privacy, public_total=plan.records_total)


def delta_warning(plan: TrainingPlan) -> str | None:
    """Return a warning if a plan's delta is above a tenth of one over its number of records, else None."""
    if not plan.privacy_mode.private or plan.delta * 10 * plan.records_total <= 1 + 1e-9:
        return None
    return (
        f"delta {plan.delta:.1g} is above a tenth of 1 / {plan.records_total} records: the guarantee of "
        "each record may fail with that probability, so for a tenth of a record or more in expectation"
    )


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of a finished or interrupted training.

    Attributes:
        plan: the training's plan.
        derived: the parameters derived from the plan.
        lines: the records of the finished rounds.
        metrics: metrics of the final model, None if it wasn't evaluated.
        split: name of the data that ``metrics`` were computed on.
        refusals: reasons by which merchant refused what.
        stopped_early: whether results ended the training; then only the whole plan's epsilon holds.
        figures: what is stored of the round of site figures, None if it was not begun.
    """

    plan: TrainingPlan
    derived: Derived
    lines: Sequence[RoundLine]
    metrics: Metrics | None
    split: str | None
    refusals: Mapping[str, str]
    stopped_early: bool = False
    figures: Mapping[str, Any] | None = None


def build_report(
    result: TrainingResult,
    *,
    facts: RunFacts,
    data: Mapping[str, Any],
    per_merchant: Sequence[Mapping[str, Any]],
    problems: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the report of a finished or interrupted training, ready for JSON.

    Args:
        result: the training's result.
        facts: how the training was run.
        data: the section ``data``.
        per_merchant: the section ``per_merchant``.
        problems: further warnings.

    Returns:
        The content of ``report.json``.
    """
    section = figures_section(result.plan, result.derived, result.figures)
    privacy = _privacy(result, facts) | {"per_merchant": list(per_merchant)}
    warnings = [
        *_warnings(result, facts),
        *figures_warnings(section),
        *_weak_settings(result.plan, result.derived),
        *problems,
        *_contradictions(privacy),
        *_absent_classes(result.metrics),
        *(f"{who}: {why}" for who, why in list(result.refusals.items())[:_SHOWN_REFUSALS]),
    ]
    return {
        "schema": SCHEMA,
        "refusals": dict(result.refusals),
        "warnings": warnings,
        "run": _run(result, facts),
        "data": dict(data),
        "metrics": _metrics(result.metrics, split=result.split),
        "site_figures": section,
        "privacy": privacy,
        "secure_aggregation": _secure_aggregation(result, facts),
        "cost": _cost(result, facts),
        "rounds": [line.to_dict() for line in result.lines],
    }


def _run(result: TrainingResult, facts: RunFacts) -> dict[str, Any]:
    plan = result.plan
    return {
        "id": facts.id,
        "seconds": facts.seconds,
        "engine": facts.engine,
        "workers": facts.workers,
        "merchants": plan.cohort,
        "rounds": plan.rounds,
        "dataset": facts.dataset,
        "partition": facts.partition,
        "model": plan.model,
        "model_code": plan.model_code,
        "optimizer": describe_update(plan),
        "learning_rate": None if is_solved(plan.model) else plan.server_update.learning_rate,
        "local_steps": plan.local_steps,
        "local_learning_rate": plan.local_learning_rate if plan.sends_moves else None,
        "loss": describe_objective(plan),
        "early_stopping": describe_stopping(plan, result.lines),
        "parameters": plan.dimension,
        "seed": facts.seed,
        "training_id": plan.training_id,
    }


def _privacy(result: TrainingResult, facts: RunFacts) -> dict[str, Any]:
    """Return the section on privacy, without the merchants' own figures."""
    plan, derived, figures = result.plan, result.derived, result.figures is not None
    over_noise = class_over_noise(plan)
    # The epsilon of the rounds that were run holds only if no result influenced their number.
    rounds = plan.rounds if result.stopped_early else max(len(result.lines), facts.rounds_reserved)
    steps = rounds * plan.local_steps
    private = plan.privacy_mode.private
    epsilon = epsilon_after(plan, derived, steps=steps, figures=figures)
    rated = rate_plan(plan, epsilon, seeded=facts.seeded)
    return {
        "mode": plan.mode,
        "unit": plan.unit,
        "adjacency": ADJACENCY,
        "duplicate_policy": DUPLICATE_POLICY[plan.unit],
        "epsilon": epsilon,
        "cross_checks": cross_checks(derived, steps=steps, figures=figures),
        "epsilon_aggregation_broken": epsilon_after(plan, derived, steps=steps, figures=figures, broken=True),
        "epsilon_at_1e-5": epsilon_after(plan, derived, steps=steps, figures=figures, delta=USUAL_DELTA),
        "epsilon_of_copies": epsilons_of_copies(plan, derived, steps=steps, figures=figures),
        "rating": {"word": rated.word, "sentence": rated.sentence},
        "delta": plan.delta if private else None,
        "sample_rate": plan.sample_rate,
        "clip": plan.clip,
        "clipping": plan.clipping,
        "noise_multiplier": derived.spend.multiplier if private else None,
        "steps": steps,
        "class_over_noise": over_noise if over_noise < math.inf else None,
        "events": charged_events(plan, derived, steps=steps, figures=figures),
        "colluders": plan.colluders,
        "min_contributors": plan.min_contributors,
        "accountant": accountant_registry.report_accountants(),
        "seeded": facts.seeded,
    }


def _secure_aggregation(result: TrainingResult, facts: RunFacts) -> dict[str, Any]:
    plan, parameters = result.plan, result.derived.scheme.parameters
    records = [line.record for line in result.lines]
    upload = max((record.upload_bytes for record in records), default=0)
    return {
        "scheme": plan.scheme,
        "trust": plan.trust.model_dump(mode="json"),
        "trust_limit": schemes.get(plan.scheme).trust_limit,
        "threshold": plan.threshold,
        "committee": len(plan.committee),
        "corrupt_members": plan.corrupt_members,
        "witnesses": [peer.name for peer in plan.seated_witnesses],
        "corrupt_witnesses": plan.corrupt_witnesses,
        "seat_risk": plan.seat_risk,
        "min_contributors": plan.min_contributors,
        "noise_levels": list(plan.noise_levels),
        "value_bits": parameters.field_bits,
        "ring_degree": parameters.ring_degree,
        "modulus_bits": parameters.modulus_bits,
        "upload_bytes_per_parameter": upload / plan.dimension,
        "seconds_encrypt": facts.seconds_encrypt,
        "seconds_unmask": sum(record.seconds_unmask for record in records),
    }


def _cost(result: TrainingResult, facts: RunFacts) -> dict[str, Any]:
    records = [*(line.record for line in result.lines), *_figures_records(result)]
    return {
        "bytes_up": sum(record.bytes_up for record in records),
        "bytes_down": sum(record.bytes_down for record in records),
        "peak_memory_bytes": facts.peak_memory_bytes,
        "seconds_train": facts.seconds_train,
    }


def _contradictions(privacy: Mapping[str, Any]) -> list[str]:
    """Name the accountants whose epsilon is below the proved one by more than both bounds allow."""
    epsilon = privacy["epsilon"]
    return [
        f"accountant {name} computes {value:.4g}, below the proved {epsilon:.4g}: one of them is not a valid "
        "bound."
        for name, value in privacy["cross_checks"].items()
        if value is not None
        and epsilon is not None
        and accountant_registry.contradicts(value, headline=epsilon)
    ]


def _figures_records(result: TrainingResult) -> list[RoundRecord]:
    """Return the record of the round of site figures, if it has ended."""
    stored = {} if result.figures is None else result.figures
    return [read_record(stored["record"])] if "record" in stored else []


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
    lost = [line.record for line in lines if not line.record.opened]
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


def _metrics(metrics: Metrics | None, *, split: str | None) -> dict[str, Any]:
    if metrics is None:
        nothing: dict[str, Any] = {field.name: None for field in fields(Metrics)}
        return nothing | {"confusion": [], "per_class": [], "split": split}
    values = asdict(metrics)
    values["confusion"] = np.asarray(metrics.confusion).tolist()
    return values | {"split": split}
