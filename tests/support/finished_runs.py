"""Folders of finished runs as a simulation leaves them, made from a few figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w

COMMITTEE = {
    "opened_by": "committee",
    "reads_single_updates": "nobody_below_threshold",
    "epsilon_of": "sum",
}


def fake_report(
    *, accuracy: float | None = 0.8, epsilon: float | None = 4.0, seconds: float = 12.0
) -> dict[str, Any]:
    """The parts of a report that a comparison reads: 4 merchants, 2 of 3 rounds opened, 200 photos."""
    classes = () if accuracy is None else (("hat", 50), ("shoe", 120), ("bag", 30))
    return {
        "schema": "fedrec.report/1",
        "run": {"model": "cnn", "parameters": 1000, "seconds": seconds, "merchants": 4},
        "metrics": {
            "accuracy": accuracy,
            "f1_macro": None if accuracy is None else accuracy - 0.1,
            "per_class": [{"label": label, "support": support} for label, support in classes],
            "split": "test",
        },
        "privacy": {
            "mode": "distributed" if epsilon else "off",
            "seeded": False,
            "epsilon": epsilon,
            "epsilon_aggregation_broken": None if epsilon is None else 3 * epsilon,
            "delta": 1e-5 if epsilon else None,
        },
        "secure_aggregation": {"scheme": "kahe", "trust": COMMITTEE},
        "cost": {"bytes_up": 4_000_000, "bytes_down": 8_000_000},
        "rounds": [{"opened": True}, {"opened": False}, {"opened": True}],
    }  # fmt: skip


def finished_run(folder: Path, report: dict[str, Any], **options: object) -> Path:
    """Write a run directory with this report, asked for with these options."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "state.json").write_text(json.dumps({"status": "done", "reason": "", "started": None}))
    derived = {"clip": 0.5} | ({} if report["privacy"]["epsilon"] is None else {"epsilon": 8.0})
    tables = {"simulate": {"dataset": "synthetic", **options}, "derived": derived}
    (folder / "config.toml").write_text(tomli_w.dumps(tables))
    return folder
