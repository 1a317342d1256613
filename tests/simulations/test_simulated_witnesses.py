"""Simulations with witnesses: their folders, their part of the report, and no change of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedrec.config import load_config
from fedrec.errors import ConfigError
from fedrec.simulations import local_grid
from fedrec.simulations.harness import resume, simulate
from fedrec.simulations.run_setup import make_witnesses
from fedrec.vision.synthetic import generate, write
from tests.support.inline import InlineWorker
from tests.support.small_runs import small_run


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)
    folder = tmp_path / "photos"
    write(generate(merchants=3, per_merchant=20, size=16, seed=1, validation=10, test=10), folder)
    return folder


def run(photos: Path, out: Path, **options: object) -> dict[str, Any]:
    return simulate(load_config(None, small_run(photos, out, rounds=2) | options)).report.to_json()


def test_a_run_with_witnesses_trains_the_same_model(photos: Path, tmp_path: Path) -> None:
    report = run(photos, tmp_path / "with", witnesses=5)
    run(photos, tmp_path / "without")
    scheme = report["secure_aggregation"]
    assert scheme["witnesses"] == [f"witness-{number}" for number in range(1, 6)]
    assert (scheme["committee"], scheme["threshold"], scheme["corrupt_members"]) == (8, 6, 3)
    assert (report["run"]["merchants"], len(report["privacy"]["per_merchant"])) == (3, 3)
    assert {line["contributors"] for line in report["rounds"]} == {3}
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert models[0] == models[1]
    # A folder each, beside the merchants', and no ledger in it.
    folders = sorted((tmp_path / "with" / "witnesses").iterdir())
    assert [folder.name for folder in folders] == scheme["witnesses"]
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {
            "identity.key", "store.sqlite", "openings.sqlite", "requests.bin",
        }  # fmt: skip
    # The run's own file gives the same run again.
    again = load_config(tmp_path / "with" / "config.toml", {})
    assert (again.witnesses, again.corrupt_witnesses, again.threshold) == (5, 2, 6)
    with pytest.raises(ConfigError, match="is finished"):
        resume(tmp_path / "with")
    plan = json.loads((tmp_path / "with" / "plan.json").read_text())
    assert [peer["name"] for peer in plan["witnesses"]] == scheme["witnesses"]


def test_witnesses_need_a_committee_and_names_of_their_own(photos: Path, tmp_path: Path) -> None:
    for scheme in ("none", "ckks"):
        with pytest.raises(
            ConfigError, match=f"sit on a committee, and --secure-aggregation {scheme} has none"
        ):
            run(photos, tmp_path / scheme, witnesses=1, secure_aggregation=scheme)
    with pytest.raises(ConfigError, match="--corrupt-witnesses"):
        run(photos, tmp_path / "more", witnesses=2, corrupt_witnesses=2, corrupt_members=1)
    assert not (tmp_path / "more").exists()
    names = make_witnesses(3, taken=("witness-1", "Witness-3", "shop"))
    assert list(names) == ["witness-2", "witness-4", "witness-5"]
