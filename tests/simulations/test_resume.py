"""``fedrec simulate --resume``: a run goes on after whatever ended it, and costs what it would have cost."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec._internal.file_locks import take_lock
from fedrec.cli import app as cli
from fedrec.clients.merchant_home import MerchantHome
from fedrec.config import load_config
from fedrec.errors import ConfigError, InterruptedRunError, TrainingError
from fedrec.observability.progress import Stage
from fedrec.privacy.accounting.ledger_entries import AnswerEntry, charges
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.identity import verify
from fedrec.recognition.bundle.manifest import MANIFEST
from fedrec.recognition.bundle.places import BUNDLE
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.reservation import Reservation
from fedrec.server.session import RoundOutcome, Session
from fedrec.server.stragglers import GracePeriod
from fedrec.server.trainings import Training
from fedrec.simulations import local_grid
from fedrec.simulations.harness import resume, simulate
from fedrec.simulations.injected_faults import Dropouts
from fedrec.simulations.merchants import VirtualMerchant
from fedrec.vision.synthetic import generate, write
from tests.support.cohort import Cohort
from tests.support.inline import InlineWorker
from tests.support.small_runs import small_run

MERCHANTS, ROUNDS, ENDED = 3, 3, 2
"""The run is ended in, or after, its second round."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    write(generate(merchants=MERCHANTS, per_merchant=20, size=16, seed=1, validation=10, test=10), folder)
    return folder


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merchants in this process, whose ledgers stay locked until it ends."""
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)


def model(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one go."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_grid, "WorkerProcess", InlineWorker)
        simulate(load_config(None, small_run(photos, out, rounds=ROUNDS)))
    return out


@pytest.fixture(scope="module")
def without_second(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one go, but that nobody answers in its second round."""
    out = tmp_path_factory.mktemp("without") / "run"

    def drops(faults: Dropouts, *, merchant: int, round_number: int, phase: str) -> bool:
        return round_number == ENDED and phase == "train"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_grid, "WorkerProcess", InlineWorker)
        patch.setattr(Dropouts, "drops", drops)
        simulate(
            load_config(None, {**small_run(photos, out, rounds=ROUNDS), "drop": 0.1, "min_contributors": 3})
        )
    return out


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(outcome: RoundOutcome) -> None:
    if outcome.line.round == ENDED:
        die()


def at_the_second(function: Callable[..., Any], *, when: Callable[..., bool]) -> Callable[..., Any]:
    """A method that kills the process before it does the second time what it does."""
    times = Counter[str]()

    def counted(*given: Any, **named: Any) -> Any:
        if when(*given):
            times["called"] += 1
            if times["called"] == ENDED:
                die()
        return function(*given, **named)

    return counted


def _run_and_die(photos: Path, out: Path, point: str) -> None:
    """Server and merchants in one process, which is killed at a point of its second round."""
    callbacks: tuple[Callable[[RoundOutcome], object], ...] = ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_grid, "WorkerProcess", InlineWorker)
        if point in {"charged", "stored", "marked", "answered"}:

            def here(merchant: VirtualMerchant, event: str) -> bool:
                return event == point and merchant.name == "merchant-01"

            patch.setattr(VirtualMerchant, "reach", at_the_second(VirtualMerchant.reach, when=here))
        elif point == "reserved":
            keep = Checkpoint._keep_reservation

            def reserve_and_die(checkpoint: Checkpoint, reservation: Reservation) -> None:
                keep(checkpoint, reservation)
                if reservation.round == ENDED:
                    die()

            patch.setattr(Checkpoint, "_keep_reservation", reserve_and_die)
        elif point == "opened":
            patch.setattr(Checkpoint, "save", at_the_second(Checkpoint.save, when=lambda *_: True))
        elif point == "saved":
            patch.setattr(Training, "add_round", at_the_second(Training.add_round, when=lambda *_: True))
        elif point == "recorded":
            callbacks = (die_after,)
        elif point == "closed":
            patch.setattr(Session, "store_model", lambda session: die())
        simulate(load_config(None, small_run(photos, out, rounds=ROUNDS)), callbacks=callbacks)


LOST = ("reserved", "charged", "stored", "marked", "answered", "opened")
"""Killed at these points, the second round is over without a sum; after them, it stands."""


POINTS = (*LOST, "saved", "recorded", "closed")
_IN_EVERY_RUN = {"reserved", "recorded"}
"""One at which the round is lost, and one at which it stands; `make test-long` has the others."""


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    "point",
    [point if point in _IN_EVERY_RUN else pytest.param(point, marks=pytest.mark.slow) for point in POINTS],
)
def test_a_run_killed_at_any_point_goes_on_and_no_round_is_run_twice(
    point: str, photos: Path, whole: Path, without_second: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.simulations.test_resume"])
    process = server.Process(target=_run_and_die, args=(photos, folder, point))
    process.start()
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "report.json").exists()
    uploads = stored(folder)
    resume(folder)
    found = report(folder)
    numbers = [1, 3] if point in LOST else [1, 2, 3]
    assert [line["round"] for line in found["rounds"]] == numbers
    assert all(line["opened"] for line in found["rounds"])
    assert model(folder) == model(without_second if point in LOST else whole)
    # A round that was begun counts, whether anything came of it or not.
    assert found["privacy"]["steps"] == ROUNDS
    assert found["privacy"]["epsilon"] == report(whole)["privacy"]["epsilon"]
    assert found["run"]["id"] == json.loads((folder / "own.json").read_text("utf-8"))["run_id"]
    assert any("never finished, and charged" in text for text in found["warnings"]) == (point in LOST)
    for name in sorted(path.name for path in (folder / "merchants").iterdir()):
        charged = charged_rounds(folder, name)
        assert charged == sorted(set(charged)) and set(charged) - {ENDED} == {1, 3}
        # Who was charged before the kill stays charged, with the very upload that was stored, or none.
        kept = {number: reply for number, reply in stored(folder)[name].items() if number in uploads[name]}
        assert kept == uploads[name]
        assert (ENDED in stored(folder)[name]) == (ENDED in uploads[name])
        assert answered_rounds(folder, name) == sorted(set(answered_rounds(folder, name)))
    bundle_holds(folder, tmp_path / "audit")
    with pytest.raises(ConfigError, match="that run is finished"):
        resume(folder)


def stored(folder: Path) -> dict[str, dict[int, str]]:
    """The request that each stored upload answers, by merchant and round."""
    found = {}
    for home in sorted((folder / "merchants").iterdir()):
        with sqlite3.connect(MerchantHome(home).store) as db:
            rows = db.execute("SELECT round_number, request_hash FROM reply WHERE kind = 'upload'").fetchall()
        found[home.name] = dict(rows)
    return found


def charged_rounds(folder: Path, name: str) -> list[int]:
    home = MerchantHome(folder / "merchants" / name)
    outcome, entries = read_entries(home.ledger, public=home.identity().public, verify=verify)
    assert outcome.ok, outcome.reason
    return [entry.charge.round_number for entry in charges(entries)]


def answered_rounds(folder: Path, name: str) -> list[int]:
    home = MerchantHome(folder / "merchants" / name)
    _, entries = read_entries(home.ledger, public=home.identity().public, verify=verify)
    return [entry.answer.round_number for entry in entries if isinstance(entry, AnswerEntry)]


def command(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["fedrec", *map(str, arguments)])
        cli.main()
    return int(ended.value.code or 0)


def bundle_holds(folder: Path, out: Path) -> None:
    """Ledgers, receipts, plan and policy fit each other, as a stranger rechecks them."""
    assert command("audit", "report", "--run", folder, "--out", out) == 0
    assert command("audit", "verify", out / "audit.json") == 0


def test_ctrl_c_between_two_rounds_and_resume_give_the_model_of_one_run(
    photos: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"

    def stop(stage: Stage) -> None:
        if stage.name == "training" and stage.done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match=f"fedrec simulate --resume {folder}"):
        simulate(load_config(None, small_run(photos, folder, rounds=ROUNDS)), tell=stop)
    assert len(report(folder)["rounds"]) == 1
    assert command("simulate", "--resume", folder, "--rounds", 9) == 2
    assert "leave out --rounds" in capsys.readouterr().err
    # What was made of the stopped run's model isn't taken for the finished one's.
    (folder / BUNDLE).mkdir()
    (folder / BUNDLE / MANIFEST).touch()
    assert command("simulate", "--resume", folder, "--workers", 1) == 0
    assert not (folder / BUNDLE).exists()
    assert model(folder) == model(whole)
    found = report(folder)
    assert [line["accuracy"] for line in found["rounds"]] == [
        line["accuracy"] for line in report(whole)["rounds"]
    ]
    assert found["metrics"] == report(whole)["metrics"]
    assert not any("INTERRUPTED" in text for text in found["warnings"])
    for name in (f"merchant-{index:02d}" for index in range(MERCHANTS)):
        assert charged_rounds(folder, name) == [1, 2, 3]
    bundle_holds(folder, tmp_path / "audit")


def test_a_run_whose_only_round_was_killed_ends_without_a_model(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def stop(stage: Stage) -> None:
        if stage.name == "training":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        simulate(load_config(None, {**small_run(photos, folder, rounds=ROUNDS), "rounds": 1}), tell=stop)
    Checkpoint(folder / "server", training_id=Training(folder).plan().training_id).reserve(1)
    with pytest.raises(TrainingError, match="each was interrupted"):
        resume(folder)
    found = report(folder)
    assert (found["rounds"], found["privacy"]["steps"], found["metrics"]["accuracy"]) == ([], 1, None)
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize("grace", [None, GracePeriod()])
def test_a_server_that_was_killed_after_the_close_ends_when_it_starts_again(
    grace: GracePeriod | None, tmp_path: Path
) -> None:
    """Its merchants have closed the training, and refuse to join it: there is nothing left to wait for."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan()
    first, records = cohort.coordinator(plan, grace=grace)
    first.run()
    again, told = cohort.coordinator(plan, grace=grace)
    again.run()
    # Its last round may not have been told before it was killed.
    assert told == records[-1:]
    assert np.array_equal(again.weights.parameters, first.weights.parameters)
    assert all(cohort.merchants[name].store.is_closed(plan.training_id) for name in cohort.names)


def test_a_run_that_a_full_disk_ended_goes_on_once_there_is_room(
    photos: Path, without_second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, save = tmp_path / "run", Checkpoint.save

    def full(checkpoint: Checkpoint, *given: Any, round_number: int, **named: Any) -> None:
        if round_number == ENDED:
            raise OSError(errno.ENOSPC, "No space left on device", "state.npz")
        save(checkpoint, *given, round_number=round_number, **named)

    monkeypatch.setattr(Checkpoint, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        simulate(load_config(None, small_run(photos, folder, rounds=ROUNDS)))
    assert Training(folder).status()[0] == "failed"
    monkeypatch.setattr(Checkpoint, "save", save)
    # The second round was opened, and its model lost: it is not run again.
    assert [line["round"] for line in resume(folder).report.to_json()["rounds"]] == [1, 3]
    assert model(folder) == model(without_second)


@pytest.mark.usefixtures("inline")
def test_a_callback_ends_a_training_whose_figures_are_then_those_of_the_whole_plan(
    photos: Path, whole: Path, tmp_path: Path
) -> None:
    rounds: list[tuple[int, float | None]] = []

    def enough(outcome: RoundOutcome) -> None:
        rounds.append((outcome.line.round, outcome.line.accuracy))
        if outcome.line.round == ENDED:
            outcome.stop()

    found = simulate(
        load_config(None, small_run(photos, tmp_path / "run", rounds=ROUNDS)), callbacks=[enough]
    ).report.to_json()
    assert rounds == [(line["round"], line["accuracy"]) for line in report(whole)["rounds"][:ENDED]]
    assert len(found["rounds"]) == ENDED
    assert any("STOPPED EARLY" in text for text in found["warnings"])
    for figure in ("epsilon", "cross_checks", "epsilon_aggregation_broken", "steps"):
        assert found["privacy"][figure] == report(whole)["privacy"][figure]
    # It is over: keys are gone, and nothing is left to resume.
    for home in (tmp_path / "run" / "merchants").iterdir():
        with sqlite3.connect(MerchantHome(home).store) as db:
            assert db.execute("SELECT closed, sealing_private FROM training").fetchall() == [(1, None)]
    with pytest.raises(ConfigError, match="finished"):
        resume(tmp_path / "run")


def test_what_is_no_run_or_another_s_or_of_other_data_is_not_resumed(
    photos: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds no run that was begun"):
        resume(tmp_path)
    with pytest.raises(ConfigError, match="there is no such folder"):
        resume(tmp_path / "runs" / "absent")
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    Training(folder).set_status("running")
    lock = take_lock(folder / "server" / "lock")
    try:
        with pytest.raises(ConfigError, match="another process is at this run"):
            resume(folder)
    finally:
        lock.close()
    other = tmp_path / "photos"
    shutil.copytree(photos, other)
    (other / "train" / "merchant-01").rename(other / "train" / "somebody")
    config = folder / "config.toml"
    config.write_text(config.read_text("utf-8").replace(str(photos), str(other)), encoding="utf-8")
    with pytest.raises(ConfigError, match="other merchants"):
        resume(folder)
