"""Summarise a finished run in the few lines that are printed on stdout."""

from __future__ import annotations

from pathlib import Path

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.privacy.accounting.budget_rating import USUAL_DELTA, unit_in_words
from fedrec.protocol import modes
from fedrec.protocol.training_report.aggregation_section import AggregationSection
from fedrec.protocol.training_report.figures_section import OpenedFigures, SiteFigures
from fedrec.protocol.training_report.metrics_section import MetricsSection
from fedrec.protocol.training_report.privacy_section import PrivacySection
from fedrec.protocol.training_report.report import TrainingReport

_SHOWN_CLASSES = 10


def summarise(report: TrainingReport, folder: Path) -> str:
    """Summarise a report as plain text, warnings first.

    Args:
        report: the report.
        folder: the run directory.

    Returns:
        The lines.
    """
    run, metrics, privacy = report.run, report.metrics, report.privacy
    scheme, cost = report.secure_aggregation, report.cost
    lines = [f"warning: {warning}" for warning in report.warnings]
    lines += [
        f"accuracy   {number_format.percent(metrics.accuracy)}"
        f"{_interval(metrics)} on {metrics.split}, "
        f"macro F1 {number_format.ratio(metrics.f1_macro)}",
        f"epsilon    {_budget(privacy)}",
        f"rating     {privacy.rating.sentence}",
        *_figures(report.site_figures),
        f"training   {run.model} ({run.parameters:,} parameters), {run.merchants} merchants, "
        f"{report.opened_rounds} of {counted(len(report.rounds), 'round')} opened, "
        f"{number_format.duration(run.seconds)}",
        f"optimizer  {run.optimizer}",
        f"loss       {run.loss}",
        *([f"stopping   {run.early_stopping}"] if run.early_stopping else []),
        f"privacy    {privacy.mode}, sampling rate {privacy.sample_rate:g}, clip {privacy.clip:g}, "
        f"noise multiplier {number_format.ratio(privacy.noise_multiplier)}, "
        f"colluders {privacy.colluders}",
        f"encryption {scheme.scheme}, threshold {scheme.threshold} of {scheme.committee} "
        f"({_witnesses(scheme)}{scheme.corrupt_members} may be corrupt), "
        f"{scheme.upload_bytes_per_parameter:.2f} bytes per parameter, "
        f"{number_format.size(cost.bytes_up)} up, {number_format.size(cost.bytes_down)} down",
        f"report     {folder / 'report.html'}",
    ]
    return "\n".join(lines)


def _budget(privacy: PrivacySection) -> str:
    """Say what was spent: at the training's delta and at the usual one, of copies, and without encryption."""
    if not modes.get(privacy.mode).private:
        return "none (privacy is off)"
    usual = ""
    if privacy.delta != USUAL_DELTA:
        at = number_format.epsilon(privacy.epsilon_at_usual_delta)
        usual = f", {at} at delta {number_format.delta(USUAL_DELTA)}"
    copies = ", ".join(
        f"{number_format.epsilon(value)} for {count} copies of a photo"
        for count, value in privacy.epsilon_of_copies.items()
    )
    return (
        f"{number_format.epsilon(privacy.epsilon)} at delta {number_format.delta(privacy.delta)}{usual} "
        f"({copies}; "
        f"if aggregation were broken: {number_format.epsilon(privacy.epsilon_aggregation_broken)})"
    )


def _figures(section: SiteFigures | None) -> list[str]:
    """Return the lines of site figures; none where there are none."""
    if not isinstance(section, OpenedFigures):
        return []
    missing = [line.label for line in section.classes if not line.found]
    unit = unit_in_words(section.unit)
    told = "every class is there"
    if missing:
        told = f"not told from none: {', '.join(missing[:_SHOWN_CLASSES])}"
        told += ", ..." if missing[_SHOWN_CLASSES:] else ""
    return [
        f"figures    of the merchants' own {unit}s: about "
        f"{number_format.count(section.records.estimate)}, accuracy "
        f"{number_format.percent(section.accuracy.estimate)}, mean loss "
        f"{number_format.ratio(section.mean_loss.estimate)} (noisy; intervals in the report)",
        f"classes    {told}; a class of {section.detectable:,} {unit}s or more is told from none"
        + (
            f", for epsilon {number_format.epsilon(section.epsilon)} of the above"
            if section.epsilon is not None
            else ""
        ),
    ]


def _witnesses(scheme: AggregationSection) -> str:
    """Say how many of the committee are witnesses; nothing where there are none."""
    count = len(scheme.witnesses)
    return f"{counted(count, 'witness', plural='witnesses')} on it, " if count else ""


def _interval(metrics: MetricsSection) -> str:
    """Return the accuracy's interval in brackets; nothing where none was measured."""
    if metrics.accuracy_interval is None:
        return ""
    shown = number_format.percent_interval(metrics.accuracy_interval)
    return f" ({shown}, the 95% interval for {metrics.records:,} records)"
