"""A bundle's figures and guarantee are those of the training's report, and name the photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from fedrec.errors import ConfigError
from fedrec.privacy.dp.vectors import named_parameters
from fedrec.recognition.export.sources import backbone_source, trained_source
from fedrec.vision import model_registry
from tests.support.cohort import Cohort
from tests.support.finished_runs import fake_report


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> str:
    cohort = Cohort(tmp_path_factory.mktemp("cohort"))
    made = cohort.plan(model="cnn-tanh", classes=("a", "b"), channels=1, image_size=16)
    return made.model_dump_json()


@pytest.fixture
def run(tmp_path: Path, plan: str) -> Path:
    return written(tmp_path / "run", plan, lambda report: None)


def written(folder: Path, plan: str, change: Callable[[dict[str, Any]], object]) -> Path:
    folder.mkdir()
    (folder / "plan.json").write_text(plan)
    report = fake_report()
    report["warnings"] = ["delta is large"]
    report["privacy"]["unit"] = "record"
    report["run"] |= {"id": "r1", "dataset": "photos"}
    report["metrics"] |= {"accuracy_interval": [0.7, 0.9], "split": "test"}
    change(report)
    (folder / "report.json").write_text(json.dumps(report))
    network = model_registry.get("cnn-tanh").build(classes=2, channels=1, size=16, seed=3)
    save_file(named_parameters(network), folder / "model.safetensors")
    return folder


def test_what_the_report_says_is_kept(run: Path) -> None:
    made = trained_source(run)
    assert made.privacy is not None and made.training is not None
    assert (made.privacy.epsilon, made.privacy.epsilon_aggregation_broken, made.privacy.delta) == (
        4,
        12,
        1e-5,
    )
    assert (made.training.rounds, made.training.merchants, made.training.deployed) == (2, 4, False)
    assert made.warnings == ("delta is large",) and made.classes == ("a", "b")
    accuracy = made.measured[0]
    assert (accuracy.value, accuracy.interval, accuracy.covered) == (0.8, (0.7, 0.9), False)
    assert "test split of the simulation" in accuracy.photos


def test_public_photos_of_the_operator_need_no_cover(tmp_path: Path, plan: str) -> None:
    def change(report: dict[str, Any]) -> None:
        report["metrics"]["split"] = "eval-data"
        report["run"] |= {"dataset": None, "engine": "deployment"}

    made = trained_source(written(tmp_path / "run", plan, change))
    assert made.measured[0].covered is None and "public" in made.measured[0].photos
    assert made.training is not None and made.training.deployed


def test_a_training_without_noise_has_no_epsilon(tmp_path: Path, plan: str) -> None:
    def change(report: dict[str, Any]) -> None:
        report["privacy"] |= fake_report(epsilon=None)["privacy"]

    made = trained_source(written(tmp_path / "run", plan, change))
    assert made.privacy is not None and made.privacy.epsilon is None and made.privacy.delta is None


@pytest.mark.parametrize("missing", ["plan.json", "report.json", "model.safetensors"])
def test_an_unfinished_training_is_named(run: Path, missing: str) -> None:
    (run / missing).unlink()
    with pytest.raises(ConfigError, match=missing):
        trained_source(run)


def test_a_report_of_another_version_is_refused(tmp_path: Path, plan: str) -> None:
    with pytest.raises(ConfigError, match="no report of this version"):
        trained_source(written(tmp_path / "run", plan, lambda report: report.pop("privacy")))


def test_a_model_without_frozen_networks_is_nothing_without_a_training() -> None:
    with pytest.raises(ConfigError, match="no frozen networks"):
        backbone_source("cnn")
