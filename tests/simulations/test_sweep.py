"""``fedrec simulate --sweep``: every point and repeat is a run, whatever stops the sweep, and is compared."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from fedrec.cli import app as cli
from fedrec.errors import ConfigError, InterruptedRunError, TrainingError
from fedrec.observability.progress import Stage
from fedrec.server.trainings import Training
from fedrec.simulations import data_sources, local_grid, run_folder, sweep
from fedrec.simulations.harness import Observers, carry_out, simulate
from fedrec.simulations.run_folder import make_run_folder, run_name
from fedrec.simulations.run_setup import SimulationRun
from fedrec.simulations.sweep import SweepResult, resume_sweep, run_sweep
from fedrec.simulations.sweep_folder import runs_of_sweep
from fedrec.simulations.sweep_points import Sweep, read_sweep
from fedrec.vision import model_registry
from fedrec.vision.dataset_registry import FOLDER
from fedrec.vision.datasets import DataSplits
from fedrec.vision.synthetic import generate, write
from tests.support.inline import InlineWorker

ROUNDS = 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    write(generate(merchants=3, per_merchant=20, size=16, seed=1, validation=10, test=10), folder)
    return folder


def tiny(classes: int, channels: int, size: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, classes))


TINY = replace(model_registry.get("cnn"), name="tiny", make=tiny)
"""A model whose rounds take next to nothing."""


def use_cheap_parts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(local_grid, "WorkerProcess", InlineWorker)
    patch.setitem(model_registry.REGISTRY._own, TINY.name, TINY)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    use_cheap_parts(monkeypatch)


def planned(photos: Path, *swept: str, repeats: int = 1, **options: object) -> Sweep:
    given = {"data": photos, "partition": "folder", "rounds": ROUNDS, "workers": 1, "device": "cpu"}
    model = {} if any(text.startswith("model=") for text in swept) else {"model": TINY.name}
    return read_sweep(swept, repeats=repeats, config=None, flags=given | model | options)


def quiet(stage: Stage) -> None: ...


def reports(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        run.relative_to(folder).as_posix(): json.loads((run / "report.json").read_text("utf-8"))
        for run in runs_of_sweep(folder)
    }


def test_every_point_and_repeat_is_a_run_and_photos_are_read_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(FOLDER, name)

        def open(self, request: Any) -> DataSplits:
            opened.append(request)
            return FOLDER.open(request)

    monkeypatch.setattr(data_sources, "FOLDER", Counting())
    told: list[Stage] = []
    found = run_sweep(
        planned(photos, "epsilon=4,8", "clip=0.5", repeats=2, seed=5), out=tmp_path / "out", tell=told.append
    )
    assert len(opened) == 1
    made = reports(tmp_path / "out")
    assert list(made) == [
        f"repeat-{repeat}/{point}"
        for repeat in (1, 2)
        for point in ("1-epsilon=4,clip=0.5", "2-epsilon=8,clip=0.5")
    ]
    assert [report["run"]["seed"] for report in made.values()] == [5, 5, 6, 6]
    assert [report["privacy"]["clip"] for report in made.values()] == [0.5] * 4
    epsilons = [report["privacy"]["epsilon"] for report in made.values()]
    assert epsilons == pytest.approx([4, 8, 4, 8], rel=0.02) and max(epsilons) <= 8
    assert found.failure is None and found.comparison is not None
    assert [(row.label, row.runs) for row in found.comparison.rows] == [("epsilon=4", 2), ("epsilon=8", 2)]
    page = (tmp_path / "out" / "comparison.html").read_text("utf-8")
    assert "epsilon=4" in page and "NOT PRIVATE" in page
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["schema"] == "fedrec.comparison/1"
    # One line for the whole of it, before the first run.
    lines = [stage.plain for stage in told if stage.plain]
    # Rounded up: a budget is never said to be smaller than it is.
    lowest, highest = (math.ceil(100 * epsilon) / 100 for epsilon in (min(epsilons), max(epsilons)))
    expected = f"epsilon {lowest:.2f} to {highest:.2f}"
    assert re.match(rf"forecast: 4 runs, 8 rounds in about .*; {re.escape(expected)}$", lines[0])
    # So few photos are hopeless, which is said once for each budget.
    assert [line.startswith("warning: at epsilon ") for line in lines[1:4]] == [True, True, False]
    assert lines[3].startswith("run 1 of 4: repeat-1/1-")


def test_a_run_of_a_sweep_is_the_run_of_its_options_alone(photos: Path, tmp_path: Path) -> None:
    run_sweep(planned(photos, "epsilon=4,8", seed=5), out=tmp_path / "out", tell=quiet)
    alone = planned(photos, "epsilon=8", seed=5).runs[0].config
    simulate(alone.model_copy(update={"out": tmp_path / "alone"}))
    inside = runs_of_sweep(tmp_path / "out")[1]
    assert (inside / "model.safetensors").read_bytes() == (
        tmp_path / "alone" / "model.safetensors"
    ).read_bytes()


def test_without_a_seed_repeats_differ_by_the_operating_systems_randomness(
    photos: Path, tmp_path: Path
) -> None:
    run_sweep(planned(photos, repeats=2, epsilon=8.0), out=tmp_path / "out", tell=quiet)
    models = {(run / "model.safetensors").read_bytes() for run in runs_of_sweep(tmp_path / "out")}
    assert len(models) == 2
    assert [report["privacy"]["seeded"] for report in reports(tmp_path / "out").values()] == [False, False]


@pytest.mark.parametrize(
    ("swept", "options", "words"),
    [
        (("epsilon=1,x",), {}, "--epsilon 'x' must be a number"),
        (("epsilon=1,-2",), {}, "--epsilon '-2' must be above 0"),
        (("epsilon=",), {}, "needs values"),
        (("epsilon",), {}, "needs values"),
        (("epsilon=1,,2",), {}, "needs values"),
        (("epsilon=1,1.0",), {}, "are the same run"),
        (("epsilon=1", "epsilon=2"), {}, "given twice"),
        (("epsilon=1,2",), {"epsilon": 4.0}, "set the same option"),
        (("epsilom=1,2",), {}, "did you mean epsilon"),
        (("class-prior=hat=1,mug=2",), {}, "hat=1 is no value of its own: put a semicolon"),
        (("optimizer=sgd:momentum=0.9,nesterov=1",), {}, "nesterov=1 is no value of its own"),
        (("schedule=cosine:warmup=1,floor=1e-3,linear",), {}, "floor=1e-3 is no value of its own"),
        (("clip=0.5,1", "model=cnn,no-such"), {}, "no-such"),
        (("out=a,b",), {}, "folder of the whole sweep"),
        (("config=a,b",), {}, "no option of a run"),
        (("model=cnn,no-such",), {}, "no-such"),
        (("merchants=1,4",), {"partition": "iid"}, "needs at least"),
        (("privacy=off,distributed", "epsilon=1,2"), {}, "no meaning with --privacy off"),
        (("clip=" + ",".join(map(str, range(1, 1002))),), {}, "at most 1,000"),
        (("seed=1,2",), {"repeats": 2}, "each seed is a repeat"),
        ((), {"repeats": 0}, "must be 1 or more"),
    ],
)
def test_bad_values_are_refused_in_one_line_before_anything_is_read(
    swept: tuple[str, ...],
    options: dict[str, Any],
    words: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("photos were read")

    monkeypatch.setattr(sweep, "prepare", refuse)
    with pytest.raises(ConfigError, match=re.escape(words)) as found:
        run_sweep(planned(photos, *swept, **options), out=tmp_path / "out", tell=quiet)
    assert "\n" not in str(found.value) and not (tmp_path / "out").exists()


def test_a_point_that_can_not_be_prepared_leaves_the_folder_as_it_was(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match=re.escape("(in the sweep's run repeat-1/2-committee=9)")):
        # Known only once the three merchants are.
        run_sweep(planned(photos, "committee=3,9"), out=tmp_path / "out", tell=quiet)
    assert list((tmp_path / "out").iterdir()) == []


def test_folders_that_are_begun_in_one_second_are_each_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    second = SimpleNamespace(now=lambda zone: datetime(2026, 3, 4, 12, tzinfo=UTC))
    monkeypatch.setattr(run_folder, "datetime", second)
    for kind in ("", "sweep", "comparison"):
        for _ in range(2):
            made = make_run_folder(None, run_name(kind))
            assert re.fullmatch(rf"({kind}-)?20260304T120000Z-[0-9a-f]{{6}}", made.name)
            (made / "page.html").touch()
    assert len(list(tmp_path.glob("runs/*/page.html"))) == 6


def test_values_with_commas_are_separated_by_semicolons(photos: Path) -> None:
    found = planned(photos, "optimizer=sgd:momentum=0.9,nesterov=1;adam")
    assert [run.config.optimizer for run in found.runs] == ["sgd:momentum=0.9,nesterov=1", "adam"]
    assert all(re.fullmatch(r"[\w.,=+/-]+", run.name) for run in found.runs)


def begun(photos: Path, out: Path, stop: Callable[[SimulationRun, int], None]) -> SweepResult:
    """Run a sweep of three points; ``stop`` is called after each round."""

    def watched(make: Callable[[], SimulationRun], *, observers: Any, inputs: Any) -> Any:
        run = make()
        calls = (*observers.callbacks, lambda outcome: stop(run, outcome.line.round))
        return carry_out(lambda: run, observers=Observers(observers.tell, calls), inputs=inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "carry_out", watched)
        return run_sweep(planned(photos, "epsilon=2,4,8", seed=3), out=out, tell=quiet)


def second(run: SimulationRun) -> bool:
    return "2-epsilon" in str(run.folder)


def die_in_the_second(photos: Path, out: Path) -> None:
    def stop(run: SimulationRun, number: int) -> None:
        if second(run) and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        use_cheap_parts(patch)
        begun(photos, out, stop)


@pytest.mark.slow  # in make test-long
def test_a_sweep_that_is_killed_goes_on_and_loses_nothing(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.simulations.test_sweep"])
    killed = server.Process(target=die_in_the_second, args=(photos, out))
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    runs = runs_of_sweep(out)
    assert [Training(run).status()[0] for run in runs] == ["done", "running", "filed"]
    before = (runs[0] / "report.json").read_bytes()
    found = resume_sweep(out, changed={}, tell=quiet)
    assert [Training(run).status()[0] for run in runs] == ["done"] * 3
    assert (runs[0] / "report.json").read_bytes() == before
    assert [len(Training(run).rounds()) for run in runs] == [ROUNDS] * 3
    assert found.comparison is not None and len(found.comparison.rows) == 3
    # Finished runs are kept, and the page can be made again.
    assert resume_sweep(out, changed={}, tell=quiet).comparison == found.comparison


def test_ctrl_c_stops_the_sweep_and_says_how_to_go_on(photos: Path, tmp_path: Path) -> None:
    def stop(run: SimulationRun, number: int) -> None:
        if second(run):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRunError, match=r"stopped in run 2 of 3 .*--resume"):
        begun(photos, tmp_path / "out", stop)
    statuses = [Training(run).status()[0] for run in runs_of_sweep(tmp_path / "out")]
    assert statuses == ["done", "running", "filed"]


def test_a_run_that_fails_leaves_the_others_and_is_reported(photos: Path, tmp_path: Path) -> None:
    def stop(run: SimulationRun, number: int) -> None:
        if second(run):
            raise TrainingError("the model diverged")

    found = begun(photos, tmp_path / "out", stop)
    assert found.comparison is not None
    assert [row.label for row in found.comparison.rows] == ["epsilon=2", "epsilon=8"]
    assert isinstance(found.failure, TrainingError)
    assert "1 of 3 runs failed, the first, repeat-1/2-epsilon=4: the model diverged" in str(found.failure)
    assert any("1 of 3 runs are not finished" in note for note in found.comparison.notes)


def test_the_command_shows_the_table_and_refuses_what_a_resumed_sweep_can_not_take(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    flags = [
        "--data",
        str(photos),
        "--partition",
        "folder",
        "--rounds",
        "1",
        "--workers",
        "1",
        "--model",
        "tiny",
    ]
    flags += ["--model", TINY.name, "--out", out]
    monkeypatch.setattr("sys.argv", ["fedrec", "simulate", "--sweep", "epsilon=4,8", *flags])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    assert [line.split()[0] for line in shown.out.splitlines() if line.startswith("epsilon=")] == [
        "epsilon=4",
        "epsilon=8",
    ]
    assert shown.out.splitlines()[-1] == f"page     {out}/comparison.html"
    monkeypatch.setattr("sys.argv", ["fedrec", "simulate", "--resume", out, "--sweep", "epsilon=1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == ConfigError.exit_code
    assert "leave out --sweep" in capsys.readouterr().err
