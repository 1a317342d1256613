"""Summarise a finished run in the few lines that are printed on stdout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.privacy.accounting.budget_rating import USUAL_DELTA, unit_in_words
from fedrec.protocol import modes

_SHOWN_CLASSES = 10


def summarise(report: Mapping[str, Any], folder: Path) -> str:
    """Summarise a report as plain text, warnings first.

    Args:
        report: the content of ``report.json``.
        folder: the run directory.

    Returns:
        The lines.
    """
    run, metrics, privacy = report["run"], report["metrics"], report["privacy"]
    scheme, cost = report["secure_aggregation"], report["cost"]
    opened = sum(1 for line in report["rounds"] if line["opened"])
    lines = [f"warning: {warning}" for warning in report["warnings"]]
    mode = modes.find(privacy["mode"])
    if mode is None or not mode.private:
        budget = "none (privacy is off)"
    else:
        delta, usual = privacy["delta"], ""
        if delta != USUAL_DELTA:
            at = number_format.epsilon(privacy["epsilon_at_1e-5"])
            usual = f", {at} at delta {number_format.delta(USUAL_DELTA)}"
        copies = ", ".join(
            f"{number_format.epsilon(value)} for {count} copies of a photo"
            for count, value in privacy["epsilon_of_copies"].items()
        )
        budget = (
            f"{number_format.epsilon(privacy['epsilon'])} at delta {number_format.delta(delta)}{usual} "
            f"({copies}; "
            f"if aggregation were broken: {number_format.epsilon(privacy['epsilon_aggregation_broken'])})"
        )
    lines += [
        f"accuracy   {number_format.percent(metrics['accuracy'])}"
        f"{_interval(metrics)} on {metrics['split']}, "
        f"macro F1 {number_format.ratio(metrics.get('f1_macro'))}",
        f"epsilon    {budget}",
        f"rating     {privacy['rating']['sentence']}",
        *_figures(report.get("site_figures")),
        f"training   {run['model']} ({run['parameters']:,} parameters), {run['merchants']} merchants, "
        f"{opened} of {counted(len(report['rounds']), 'round')} opened, "
        f"{number_format.duration(run['seconds'])}",
        f"optimizer  {run['optimizer']}",
        f"loss       {run['loss']}",
        *([f"stopping   {run['early_stopping']}"] if run["early_stopping"] else []),
        f"privacy    {privacy['mode']}, sampling rate {privacy['sample_rate']:g}, clip {privacy['clip']:g}, "
        f"noise multiplier {number_format.ratio(privacy['noise_multiplier'])}, "
        f"colluders {privacy['colluders']}",
        f"encryption {scheme['scheme']}, threshold {scheme['threshold']} of {scheme['committee']} "
        f"({_witnesses(scheme)}{scheme['corrupt_members']} may be corrupt), "
        f"{scheme['upload_bytes_per_parameter']:.2f} bytes per parameter, "
        f"{number_format.size(cost['bytes_up'])} up, {number_format.size(cost['bytes_down'])} down",
        f"report     {folder / 'report.html'}",
    ]
    return "\n".join(lines)


def _figures(section: Mapping[str, Any] | None) -> list[str]:
    """Return the lines of site figures; none where there are none."""
    if section is None or not section["opened"]:
        return []
    missing = [line["label"] for line in section["classes"] if not line["found"]]
    unit = unit_in_words(section["unit"])
    told = "every class is there"
    if missing:
        told = f"not told from none: {', '.join(missing[:_SHOWN_CLASSES])}"
        told += ", ..." if missing[_SHOWN_CLASSES:] else ""
    return [
        f"figures    of the merchants' own {unit}s: about "
        f"{number_format.count(section['records']['estimate'])}, accuracy "
        f"{number_format.percent(section['accuracy']['estimate'])}, mean loss "
        f"{number_format.ratio(section['mean_loss']['estimate'])} (noisy; intervals in the report)",
        f"classes    {told}; a class of {section['detectable']:,} {unit}s or more is told from none"
        + (
            f", for epsilon {number_format.epsilon(section['epsilon'])} of the above"
            if section["epsilon"] is not None
            else ""
        ),
    ]


def _witnesses(scheme: Mapping[str, Any]) -> str:
    """Say how many of the committee are witnesses; nothing where there are none."""
    count = len(scheme.get("witnesses", ()))
    return f"{counted(count, 'witness', plural='witnesses')} on it, " if count else ""


def _interval(metrics: Mapping[str, Any]) -> str:
    """Return the accuracy's interval in brackets; nothing where none was measured."""
    if metrics.get("accuracy_interval") is None:
        return ""
    records = sum(line["support"] for line in metrics["per_class"])
    shown = number_format.percent_interval(metrics["accuracy_interval"])
    return f" ({shown}, the 95% interval for {records:,} records)"
