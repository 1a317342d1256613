"""``examples/``: each runs as it stands, from a folder of its own, and shows what it promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.layout import ROOT

EXAMPLES = ROOT / "examples"


def shown_by(name: str, folder: Path) -> str:
    """Run an example as a newcomer does, and return what it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def reports(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("runs/*/report.json"))]


def test_there_is_a_test_for_every_example() -> None:
    tested = Path(__file__).read_text("utf-8")
    found = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert len(found) == 5
    assert [name for name in found if f'"{name}"' not in tested] == []


@pytest.mark.slow
def test_a_model_of_ones_own_learns(tmp_path: Path) -> None:
    shown = shown_by("own_model.py", tmp_path)
    accuracy = re.search(r"accuracy ([\d.]+)%", shown)
    assert accuracy is not None and float(accuracy[1]) > 80
    (report,) = reports(tmp_path)
    assert report["run"]["model"].startswith("own-")  # type: ignore[index]


@pytest.mark.slow
def test_data_sets_of_ones_own_are_watched_and_the_training_is_stopped(tmp_path: Path) -> None:
    shown = shown_by("own_dataset.py", tmp_path)
    measured = re.findall(r"round (\d+) of 10: accuracy ([\d.]+)%", shown)
    (report,) = reports(tmp_path)
    assert len(measured) == len(report["rounds"])  # type: ignore[arg-type]
    assert [peer["merchant"] for peer in report["privacy"]["per_merchant"]] == [  # type: ignore[index]
        "atelier",
        "bottega",
        "studio",
    ]
    assert len(measured) == 10 or float(measured[-1][1]) > 95


@pytest.mark.slow
def test_a_server_optimizer_of_ones_own_takes_the_steps(tmp_path: Path) -> None:
    shown = shown_by("own_optimizer.py", tmp_path)
    assert "lion" in shown
    ours, sgd = reports(tmp_path)
    assert "lion" in json.dumps(ours) and "lion" not in json.dumps(sgd)


def executed(name: str, folder: Path) -> list[dict[str, Any]]:
    """Run a notebook in a folder, and return its cells' outputs."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.slow
def test_the_notebook_compares_budgets_and_plots(tmp_path: Path) -> None:
    outputs = executed("compare_budgets.ipynb", tmp_path)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    found = [report["privacy"]["epsilon"] for report in reports(tmp_path)]  # type: ignore[index]
    assert len(found) == 3 and found == sorted(found)


@pytest.mark.slow
def test_the_notebook_shows_what_becomes_of_a_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    outputs = executed("recognise.ipynb", tmp_path)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert "UNCALIBRATED" in (tmp_path / "model" / "README.md").read_text("utf-8")
