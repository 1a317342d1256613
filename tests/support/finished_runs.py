"""Folders of finished runs as a simulation leaves them, made from a few figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w

from fedrec.server.trainings import Training
from tests.support.training_reports import report_values, unmeasured


def fake_report(
    *, accuracy: float | None = 0.8, epsilon: float | None = 4.0, seconds: float = 12.0
) -> dict[str, Any]:
    """A report of 4 merchants, 2 of 3 rounds opened, and 200 photos of 3 classes."""
    report = report_values(classes=3, merchants=4, rounds=3)
    report["run"] |= {"model": "cnn", "parameters": 1000, "seconds": seconds}
    if accuracy is None:
        report["metrics"] = unmeasured(report["metrics"])
    else:
        report["metrics"] |= {"accuracy": accuracy, "f1_macro": accuracy - 0.1}
        for line, (label, support) in zip(
            report["metrics"]["per_class"], (("hat", 50), ("shoe", 120), ("bag", 30)), strict=True
        ):
            line |= {"label": label, "support": support}
    report["privacy"] |= {
        "mode": "distributed" if epsilon else "off",
        "epsilon": epsilon,
        "epsilon_aggregation_broken": None if epsilon is None else 3 * epsilon,
        "delta": 1e-5 if epsilon else None,
    }
    report["cost"] |= {"bytes_up": 4_000_000, "bytes_down": 8_000_000}
    report["rounds"][1]["opened"] = False
    return report


def finished_run(folder: Path, report: dict[str, Any], **options: object) -> Path:
    """Write a run directory with this report, asked for with these options."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))
    Training(folder).set_status("done")
    derived = {"clip": 0.5} | ({} if report["privacy"]["epsilon"] is None else {"epsilon": 8.0})
    tables = {"simulate": {"dataset": "synthetic", **options}, "derived": derived}
    (folder / "config.toml").write_text(tomli_w.dumps(tables))
    return folder
