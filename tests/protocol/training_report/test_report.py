"""A report is read as it was written, and refused in one line where anything of it is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrec.errors import ConfigError
from fedrec.protocol.training_report import report as report_file
from fedrec.protocol.training_report.figures_section import MissingFigures, OpenedFigures
from fedrec.protocol.training_report.report import read_report
from tests.support.training_reports import report_of, report_values

Change = Callable[[dict[str, Any]], object]

FIGURES = {
    "round": 7, "begun": True, "contributors": 3, "unit": "record", "noise_multiplier": 2.0, "epsilon": 1.0,
    "epsilon_aggregation_broken": 3.0, "confidence": 0.95, "largest_loss": 4.5,
}  # fmt: skip
LINE = {"estimate": -0.5, "low": None, "high": None}
OPENED = FIGURES | {
    "opened": True, "reason": None, "deviation": {"count": 2.0, "correct": 3.0, "loss": 4.0},
    "threshold": 8.5, "detectable": 13,
    "classes": [{"label": "hat", "count": -1.5, "low": -9.0, "high": 6.0, "found": False}],
    "records": LINE, "correct": LINE, "loss_sum": LINE, "accuracy": LINE, "mean_loss": LINE,
}  # fmt: skip


def written(folder: Path, change: Change) -> Path:
    values = report_values(classes=3, merchants=3, rounds=4)
    change(values)
    (folder / "report.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("figures", [None, OPENED, FIGURES | {"opened": False, "reason": "2 contributors"}])
def test_a_file_holds_what_it_was_read_from_key_by_key(
    tmp_path: Path, figures: dict[str, Any] | None
) -> None:
    values = report_values(rounds=20) | {"site_figures": figures}
    (tmp_path / "report.json").write_text(json.dumps(values))
    again = read_report(tmp_path).to_json()
    # As text: 1 and 1.0, or true and 1, are equal in Python.
    assert json.dumps(again, sort_keys=True) == json.dumps(values, sort_keys=True)


def test_figures_without_a_sum_are_of_a_type_without_figures() -> None:
    missing = FIGURES | {"opened": False, "reason": "the round was not begun"}
    assert isinstance(report_of(report_values() | {"site_figures": OPENED}).site_figures, OpenedFigures)
    assert isinstance(report_of(report_values() | {"site_figures": missing}).site_figures, MissingFigures)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.pop("schema"), "'schema' is missing"),
        (lambda v: v.update(schema="fedrec.report/2"), "'schema' must be 'fedrec.report/1'"),
        (lambda v: v.pop("privacy"), "'privacy' is missing"),
        (lambda v: v["privacy"].pop("epsilon"), "'privacy.epsilon' is missing"),
        (lambda v: v["privacy"].update(epsilon="3"), "'privacy.epsilon' must be a number"),
        (lambda v: v["privacy"].update(epsilon=True), "'privacy.epsilon' must be a number"),
        (lambda v: v["privacy"].update(epsilon=-0.1), "'privacy.epsilon' must be 0 or more"),
        (lambda v: v["privacy"].update(epsilon=math.nan), "'privacy.epsilon' must be a number that is not"),
        (lambda v: v["privacy"].update(epsilon=math.inf), "'privacy.epsilon' must be a number that is not"),
        (lambda v: v["privacy"].update({"epsilon_at_1e-5": "x"}), "'privacy.epsilon_at_1e-5' must be a"),
        (lambda v: v["privacy"].update(mode="quiet"), "'privacy.mode' must be 'distributed', 'local' or"),
        (lambda v: v["privacy"].update(adjacency="replace-one"), "'privacy.adjacency'"),
        (lambda v: v["privacy"].update(epsilon_server=1.0), "'privacy.epsilon_server' is unknown"),
        (lambda v: v["metrics"].update(accuracy=1.01), "'metrics.accuracy' must be 1 or less"),
        (lambda v: v["metrics"].update(accuracy=None), "'metrics' .*measured all together"),
        (lambda v: v["metrics"]["confusion"][1].pop(), "'metrics' the confusion matrix has a row"),
        (lambda v: v["metrics"]["per_class"].pop(), "'metrics' the confusion matrix has a row"),
        (lambda v: v["secure_aggregation"].update(trust="kahe"), "'secure_aggregation.trust' must be an"),
        (lambda v: v["run"].update(parameters=1.5), "'run.parameters' must be a whole number"),
        (lambda v: v["rounds"][2].update(opened=1), "'rounds.2.opened' must be true or false"),
        (lambda v: v["rounds"].reverse(), "the numbers of rounds ascend"),
        (lambda v: v["rounds"][1].update(round=1), "the numbers of rounds ascend"),
        (lambda v: v.update(site_figures=OPENED | {"opened": False}), "'site_figures"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_by_its_place(tmp_path: Path, change: Change, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"report\.json is no report of this version: .*{words}"):
        read_report(written(tmp_path, change))


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff\xfe", b'{"a":' * 100_000, b"NaN"])
def test_what_is_no_json_object_is_refused_in_one_line(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "report.json").write_bytes(raw)
    with pytest.raises(ConfigError, match="is no report of this version") as refused:
        read_report(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_report_that_is_too_large_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(json.dumps(report_values(classes=3, merchants=3, rounds=4)))
    written(tmp_path, lambda values: None)
    monkeypatch.setattr(report_file, "LARGEST_REPORT", size)
    assert len(read_report(tmp_path).rounds) == 4
    monkeypatch.setattr(report_file, "LARGEST_REPORT", size - 1)
    with pytest.raises(ConfigError, match=f"too large: more than {size - 1:,} bytes"):
        read_report(tmp_path)


def test_a_folder_in_place_of_the_report_is_refused_and_none_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_report(tmp_path)
    (tmp_path / "report.json").mkdir()
    with pytest.raises(ConfigError, match=r"report\.json can't be read"):
        read_report(tmp_path)
