"""Make the report that every training ends with.

A simulation knows more than a deployed server: the merchants' ledgers and costs are on the same machine. What
the reporter can't know is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedrec.privacy.accounting import accountant_registry
from fedrec.privacy.accounting.budget_rating import USUAL_DELTA
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.derived_parameters import ADJACENCY, DUPLICATE_POLICY
from fedrec.protocol.training_report.aggregation_section import AggregationSection
from fedrec.protocol.training_report.metrics_section import ClassLine, MetricsSection
from fedrec.protocol.training_report.privacy_section import MerchantLine, PrivacySection, RatingLine
from fedrec.protocol.training_report.report import SCHEMA, TrainingReport
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.protocol.training_report.run_section import CostSection, DataSection, RunSection
from fedrec.server.early_stopping import describe_stopping
from fedrec.server.optimizers.optimizer_registry import describe_objective, describe_update
from fedrec.server.report.epsilons import charged_events, cross_checks, epsilon_after, epsilons_of_copies
from fedrec.server.report.figures_json import figures_section
from fedrec.server.report.noise_outlook import class_over_noise
from fedrec.server.report.plan_rating import rate_plan
from fedrec.server.report.report_warnings import report_warnings
from fedrec.server.report.training_result import RunFacts, TrainingResult
from fedrec.vision.metrics import Metrics
from fedrec.vision.model_registry import is_solved


def build_report(
    result: TrainingResult,
    *,
    facts: RunFacts,
    data: DataSection,
    per_merchant: Sequence[MerchantLine],
    problems: Sequence[str] = (),
) -> TrainingReport:
    """Return the report of a finished or interrupted training.

    Args:
        result: the training's result.
        facts: how the training was run.
        data: the training's photos.
        per_merchant: what each merchant spent.
        problems: further warnings.

    Returns:
        The report.
    """
    figures = figures_section(result.plan, result.derived, result.figures)
    privacy = _privacy(result, facts, per_merchant)
    return TrainingReport(
        schema_name=SCHEMA,
        refusals=result.refusals,
        warnings=report_warnings(result, facts, privacy=privacy, figures=figures, problems=problems),
        run=_run(result, facts),
        data=data,
        metrics=_metrics(result.metrics, split=result.split),
        site_figures=figures,
        privacy=privacy,
        secure_aggregation=_secure_aggregation(result, facts),
        cost=_cost(result, facts),
        rounds=tuple(result.lines),
    )


def _run(result: TrainingResult, facts: RunFacts) -> RunSection:
    plan = result.plan
    return RunSection(
        id=facts.id,
        seconds=facts.seconds,
        engine=facts.engine,
        workers=facts.workers,
        merchants=plan.cohort,
        rounds=plan.rounds,
        dataset=facts.dataset,
        partition=facts.partition,
        model=plan.model,
        model_code=plan.model_code,
        optimizer=describe_update(plan),
        learning_rate=None if is_solved(plan.model) else plan.server_update.learning_rate,
        local_steps=plan.local_steps,
        local_learning_rate=plan.local_learning_rate if plan.sends_moves else None,
        loss=describe_objective(plan),
        early_stopping=describe_stopping(plan, result.lines),
        parameters=plan.dimension,
        seed=facts.seed,
        training_id=plan.training_id,
    )


def _privacy(result: TrainingResult, facts: RunFacts, per_merchant: Sequence[MerchantLine]) -> PrivacySection:
    plan, derived, figures = result.plan, result.derived, result.figures is not None
    over_noise = class_over_noise(plan)
    # The epsilon of the rounds that were run holds only if no result influenced their number.
    rounds = plan.rounds if result.stopped_early else max(len(result.lines), facts.rounds_reserved)
    steps = rounds * plan.local_steps
    private = plan.privacy_mode.private
    epsilon = epsilon_after(plan, derived, steps=steps, figures=figures)
    rated = rate_plan(plan, epsilon, seeded=facts.seeded)
    return PrivacySection(
        mode=plan.mode,
        unit=plan.unit,
        adjacency=ADJACENCY,
        duplicate_policy=DUPLICATE_POLICY[plan.unit],
        epsilon=epsilon,
        cross_checks=cross_checks(derived, steps=steps, figures=figures),
        epsilon_aggregation_broken=epsilon_after(plan, derived, steps=steps, figures=figures, broken=True),
        epsilon_at_usual_delta=epsilon_after(plan, derived, steps=steps, figures=figures, delta=USUAL_DELTA),
        epsilon_of_copies=epsilons_of_copies(plan, derived, steps=steps, figures=figures),
        rating=RatingLine(word=rated.word, sentence=rated.sentence),
        delta=plan.delta if private else None,
        sample_rate=plan.sample_rate,
        clip=plan.clip,
        clipping=plan.clipping,
        noise_multiplier=derived.spend.multiplier if private else None,
        steps=steps,
        class_over_noise=over_noise if over_noise < math.inf else None,
        events=charged_events(plan, derived, steps=steps, figures=figures),
        colluders=plan.colluders,
        min_contributors=plan.min_contributors,
        accountant=accountant_registry.report_accountants(),
        seeded=facts.seeded,
        per_merchant=tuple(per_merchant),
    )


def _secure_aggregation(result: TrainingResult, facts: RunFacts) -> AggregationSection:
    plan, parameters = result.plan, result.derived.scheme.parameters
    upload = max((line.upload_bytes for line in result.lines), default=0)
    return AggregationSection(
        scheme=plan.scheme,
        trust=plan.trust,
        trust_limit=schemes.get(plan.scheme).trust_limit,
        threshold=plan.threshold,
        committee=len(plan.committee),
        corrupt_members=plan.corrupt_members,
        witnesses=tuple(peer.name for peer in plan.seated_witnesses),
        corrupt_witnesses=plan.corrupt_witnesses,
        seat_risk=plan.seat_risk,
        min_contributors=plan.min_contributors,
        noise_levels=plan.noise_levels,
        value_bits=parameters.field_bits,
        ring_degree=parameters.ring_degree,
        modulus_bits=parameters.modulus_bits,
        upload_bytes_per_parameter=upload / plan.dimension,
        seconds_encrypt=facts.seconds_encrypt,
        seconds_unmask=sum(line.seconds_unmask for line in result.lines),
    )


def _cost(result: TrainingResult, facts: RunFacts) -> CostSection:
    records = [*result.lines, *_figures_records(result)]
    return CostSection(
        bytes_up=sum(record.bytes_up for record in records),
        bytes_down=sum(record.bytes_down for record in records),
        peak_memory_bytes=facts.peak_memory_bytes,
        seconds_train=facts.seconds_train,
    )


def _figures_records(result: TrainingResult) -> list[RoundRecord]:
    """Return the record of the round of site figures, if it has ended."""
    stored = result.figures
    return [] if stored is None or stored.record is None else [stored.record]


def _metrics(metrics: Metrics | None, *, split: str | None) -> MetricsSection:
    if metrics is None:
        return MetricsSection(
            accuracy=None,
            accuracy_interval=None,
            precision_macro=None,
            recall_macro=None,
            f1_macro=None,
            roc_auc_macro=None,
            confusion=(),
            per_class=(),
            split=split,
        )
    return MetricsSection(
        accuracy=metrics.accuracy,
        accuracy_interval=metrics.accuracy_interval,
        precision_macro=metrics.precision_macro,
        recall_macro=metrics.recall_macro,
        f1_macro=metrics.f1_macro,
        roc_auc_macro=metrics.roc_auc_macro,
        confusion=tuple(map(tuple, metrics.confusion)),
        per_class=tuple(
            ClassLine(
                label=line.label,
                precision=line.precision,
                recall=line.recall,
                f1=line.f1,
                support=line.support,
            )
            for line in metrics.per_class
        ),
        split=split,
    )
