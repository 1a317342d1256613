"""``--site-figures`` of a simulation, whole: a class that nobody has is found, reported and audited."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedrec.config import load_config
from fedrec.privacy.audit.bundle import body_of, seal
from fedrec.privacy.audit.verify import verify
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.training_report.figures_section import MissingFigures
from fedrec.server.report.report_page import render
from fedrec.simulations import local_grid
from fedrec.simulations.audit_evidence import evidence_of_run
from fedrec.simulations.harness import simulate
from fedrec.simulations.run_summary import summarise
from fedrec.vision.synthetic import generate, write
from tests.support.inline import InlineWorker
from tests.support.small_runs import small_run


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos of bottles and chairs at three merchants, and of hats only to evaluate on."""
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)
    folder = tmp_path / "photos"
    write(generate(merchants=3, per_merchant=80, size=16, seed=1, validation=10, test=10), folder)
    for place in folder.glob("*/*/*"):
        if place.is_dir() and place.name not in ("bottle", "chair"):
            shutil.rmtree(place)
    for split in ("validation", "test"):
        for place in (folder / split).iterdir():
            if place.name not in ("bottle", "chair", "hat"):
                shutil.rmtree(place)
    return folder


def test_an_operator_finds_the_class_that_nobody_has(photos: Path, tmp_path: Path) -> None:
    options = small_run(photos, tmp_path / "run", rounds=2)
    asked = {"privacy": "distributed", "epsilon": 8.0, "site_figures": 0.5, "delta": 1e-3}
    made = simulate(load_config(None, options | asked)).report
    report = made.to_json()
    plan = TrainingPlan.model_validate_json((tmp_path / "run" / "plan.json").read_bytes())
    found = {line["label"]: line["found"] for line in report["site_figures"]["classes"]}
    assert found == {"bottle": True, "chair": True, "hat": False}
    counts = {line["label"]: line for line in report["site_figures"]["classes"]}
    present = {
        label: sum(1 for _ in photos.glob(f"train/*/{label}/*")) for label in ("bottle", "chair", "hat")
    }
    assert present["hat"] == 0
    for label, count in present.items():
        assert counts[label]["low"] <= count <= counts[label]["high"]
    # Half of the budget each by itself; both together keep within the whole.
    assert 3.9 < report["site_figures"]["epsilon"] <= 4.0
    assert 7.9 < report["privacy"]["epsilon"] <= 8.0
    assert [event["kind"] for event in report["privacy"]["events"]] == ["training", "figures", "count"]
    assert {line["rounds_charged"] for line in report["privacy"]["per_merchant"]} == {3}
    assert len(report["rounds"]) == plan.rounds == 2
    told = summarise(made, tmp_path / "run")
    assert "not told from none: hat" in told
    page = render(made)
    assert "Site figures" in page and "absent, or too few" in page
    known = {
        name: value for name, value in report["site_figures"].items() if name in MissingFigures.model_fields
    }
    lost = MissingFigures.model_validate(known | {"opened": False, "reason": "2 contributors"})
    text = render(made.model_copy(update={"site_figures": lost}))
    assert "There are no site figures: 2 contributors" in text
    evidence, signer = evidence_of_run(tmp_path / "run")
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(seal(body_of(evidence), signer=signer, pages={})))
    assert not verify(path).failures
    body = body_of(evidence)
    body["attachments"]["report"]["site_figures"]["classes"][2]["found"] = True
    path.write_text(json.dumps(seal(body, signer=signer, pages={})))
    assert "classes 2 found is True" in str(verify(path).failures)
