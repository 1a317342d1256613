"""The forecast: bytes and epsilon against what a run then takes, time against how it must grow."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from fedrec.cli.plan_explanation import cost_of_plan
from fedrec.config import load_config
from fedrec.observability.progress import Stage
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.planning import Task
from fedrec.server.trainings import Training
from fedrec.simulations import forecast, local_grid, plan_trial
from fedrec.simulations.forecast import Forecast, Forecaster, in_words, tell_of
from fedrec.simulations.harness import simulate
from fedrec.simulations.plan_trial import cost_of_rounds
from fedrec.simulations.run_setup import SimulationRun, prepare
from fedrec.vision import model_registry
from fedrec.vision.synthetic import generate, write
from tests.support.inline import InlineWorker

MERCHANTS, ROUNDS = 4, 2


def linear(classes: int, channels: int, size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))


LINEAR = replace(model_registry.get("cnn"), name="linear", make=linear)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    write(generate(merchants=MERCHANTS, per_merchant=20, size=16, seed=1, validation=10, test=10), folder)
    return folder


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)
    monkeypatch.setitem(model_registry.REGISTRY._own, LINEAR.name, LINEAR)


def options(photos: Path, out: Path, **changes: object) -> dict[str, object]:
    given = {"data": photos, "partition": "folder", "rounds": ROUNDS, "workers": 1, "device": "cpu"}
    return given | {"model": LINEAR.name, "out": out} | changes


def prepared(photos: Path, out: Path, **changes: object) -> SimulationRun:
    return prepare(load_config(None, options(photos, out, **changes)), tell=lambda stage: None)


def test_bytes_and_epsilon_are_those_that_the_run_then_takes(photos: Path, tmp_path: Path) -> None:
    told: list[Stage] = []
    made: list[Forecast] = []
    original = Forecaster.forecast

    def kept(self: Forecaster, run: SimulationRun) -> Forecast:
        made.append(original(self, run))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forecaster, "forecast", kept)
        result = simulate(load_config(None, options(photos, tmp_path / "run")), tell=told.append)
    report = result.report.to_json()
    assert len(made) == 1
    assert made[0].bytes_up == pytest.approx(report["cost"]["bytes_up"] / MERCHANTS, rel=0.1)
    assert made[0].bytes_down == pytest.approx(report["cost"]["bytes_down"] / MERCHANTS, rel=0.1)
    assert made[0].epsilon == report["privacy"]["epsilon"]
    assert made[0].rounds == ROUNDS
    # One line, before the training begins.
    said = [stage.plain for stage in told if stage.plain]
    assert re.match(
        r"forecast: 2 rounds in about .*, by a measured step; each merchant sends .*; epsilon", said[0]
    )
    assert made[0].outlook is not None and said[1] == f"warning: {made[0].outlook}"
    assert said[2].startswith("training: 4 merchants")
    # An operator's plan is tried before it is filed: the bytes are counted, and are the same.
    plan = Training(result.folder).plan()
    trial = cost_of_rounds(plan, Task.of_plan(plan, LINEAR, seed=0))
    members = len(plan.committee)
    for way, each, member in (("up", trial.up, trial.member_up), ("down", trial.down, trial.member_down)):
        counted = ROUNDS * (MERCHANTS * each + members * member)
        assert counted == pytest.approx(report["cost"][f"bytes_{way}"], rel=0.005)
    assert trial.counted and min(trial.seconds_step, trial.seconds_answer, trial.seconds_server) > 0


def test_the_round_of_site_figures_is_in_the_forecast(photos: Path, tmp_path: Path) -> None:
    run = prepared(photos, tmp_path / "planned", site_figures=0.1)
    made = Forecaster().forecast(run)
    report = simulate(load_config(None, options(photos, tmp_path / "run", site_figures=0.1))).report.to_json()
    assert report["site_figures"] is not None
    for way, each in (("up", made.bytes_up), ("down", made.bytes_down)):
        assert each == pytest.approx(report["cost"][f"bytes_{way}"] / MERCHANTS, rel=0.1)
    explained = cost_of_plan(run.plan, cost_of_rounds(run.plan, run.task))
    assert explained.bytes_down == pytest.approx(report["cost"]["bytes_down"], rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"secure_aggregation": "ckks"},
        {"secure_aggregation": "none"},
        {"privacy": "local", "local_steps": 2},
        {"privacy": "off"},
    ],
    ids=str,
)
def test_every_kind_of_plan_can_be_tried(
    changes: dict[str, object], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(photos, tmp_path / "run", **changes)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    trial = cost_of_rounds(run.plan, run.task)
    assert trial.up >= derive(run.plan).upload_bytes and trial.down >= 4 * run.plan.dimension
    assert (trial.member_up > 0) == bool(run.plan.committee)
    assert list(scratch.iterdir()) == [], "nothing of a trial is left"


def test_a_plan_that_is_too_large_to_try_is_estimated(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(photos, tmp_path / "run")
    tried = cost_of_rounds(run.plan, run.task)
    monkeypatch.setattr(plan_trial, "MOST_MERCHANTS", MERCHANTS - 1)
    estimated = cost_of_rounds(run.plan, run.task)
    assert not estimated.counted
    assert estimated.up == pytest.approx(tried.up, rel=0.1)
    assert estimated.down == pytest.approx(tried.down, rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"secure_aggregation": "ckks"},
        {"secure_aggregation": "none"},
        {"privacy": "local", "local_steps": 2},
        {"privacy": "off"},
        {"augment": True, "clipping": "automatic", "sample_rate": 0.01},
    ],
    ids=str,
)
def test_every_kind_of_run_has_a_forecast(changes: dict[str, object], photos: Path, tmp_path: Path) -> None:
    found = Forecaster().forecast(prepared(photos, tmp_path / "run", **changes))
    assert found.seconds > 0 and found.bytes_up > 0 and found.bytes_down > 0
    assert (found.epsilon is None) == (changes.get("privacy") == "off")


def test_time_grows_with_rounds_and_with_merchants_a_worker(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[TrainingPlan] = []

    def step(plan: TrainingPlan, *given: object, **named: object) -> tuple[float, float]:
        measured.append(plan)
        return 1.0, 0.0

    monkeypatch.setattr(forecast, "measured_step", step)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    forecaster = Forecaster()
    runs = [
        prepared(photos, tmp_path / f"{rounds}-{workers}", rounds=rounds, workers=workers, epsilon=epsilon)
        for rounds, workers, epsilon in ((2, 1, 8.0), (6, 1, 4.0), (2, 4, 8.0))
    ]
    one, longer, wider = (forecaster.forecast(run).seconds for run in runs)
    assert longer == pytest.approx(3 * one) and wider == pytest.approx(one / 4)
    assert one == pytest.approx(2 * MERCHANTS, rel=0.1)
    # A step is measured once for runs in which it is the same.
    assert len(measured) == 1


def test_a_forecast_draws_no_seeded_randomness(photos: Path, tmp_path: Path) -> None:
    """A run with a seed ends at the same model whether or not it was forecast."""
    models = []
    for name in ("with", "without"):
        with pytest.MonkeyPatch.context() as patch:
            if name == "without":
                patch.setattr(Forecaster, "forecast", lambda self, run: Forecast(1, 1.0, 1.0, 1.0, None))
            simulate(load_config(None, options(photos, tmp_path / name, seed=3)))
        models.append((tmp_path / name / "model.safetensors").read_bytes())
    assert models[0] == models[1]


def test_a_run_of_photos_whose_model_was_not_named_is_told_of_the_best_one(
    photos: Path, tmp_path: Path
) -> None:
    given = options(photos, tmp_path / "unnamed")
    del given["model"]
    made = Forecaster().forecast(prepare(load_config(None, given), tell=lambda stage: None))
    assert (
        made.hint is not None and "cnn learns" in made.hint and "--model best (lite0-small-head)" in made.hint
    )
    told: list[Stage] = []
    tell_of([made, replace(made, epsilon=1.0)], tell=told.append)
    assert [stage.plain for stage in told if "hint" in (stage.plain or "")] == [f"hint: {made.hint}"]
    for name in (LINEAR.name, "cnn"):
        assert Forecaster().forecast(prepared(photos, tmp_path / name, model=name)).hint is None


def test_the_line_speaks_of_all_runs_together() -> None:
    one = Forecast(rounds=10, seconds=60.0, bytes_up=1e6, bytes_down=2e6, epsilon=0.5)
    other = replace(one, rounds=20, seconds=120.0, epsilon=8.0)
    assert in_words([one]) == (
        "forecast: 10 rounds in about 60 s, by a measured step; each merchant sends 1.0 MB and receives "
        "2.0 MB; epsilon 0.50"
    )
    assert in_words([one, other]) == (
        "forecast: 2 runs, 30 rounds in about 3 min 00 s, by a measured step; each merchant sends 2.0 MB and "
        "receives 4.0 MB; epsilon 0.50 to 8.00"
    )
    assert in_words([replace(one, epsilon=None)]).endswith("; no privacy")
