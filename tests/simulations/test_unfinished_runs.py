"""What a run leaves that a person or an error ended: always a report, and the model if there is one."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec._internal.files import append_lines, write_atomically
from fedrec._internal.json_files import write_json
from fedrec.clients.policy import MerchantPolicy
from fedrec.config import load_config
from fedrec.errors import DataError, InterruptedRunError, TrainingError
from fedrec.observability.progress import Stage
from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.protocol.training_report.report import TrainingReport
from fedrec.server import session, trainings
from fedrec.server.evaluation import probabilities
from fedrec.server.report.report_page import render
from fedrec.simulations import harness, local_grid, run_setup
from fedrec.vision.synthetic import generate, write
from tests.support.inline import InlineWorker

MERCHANTS, ROUNDS = 4, 3


def ctrl_c() -> None:
    """What a terminal sends."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    write(generate(merchants=MERCHANTS, per_merchant=30, size=16, seed=1, validation=20, test=30), folder)
    return folder


Start = Callable[..., None]


@pytest.fixture
def start(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)

    def run(*, tell: Callable[[Stage], None] = lambda stage: None) -> None:
        flags = {
            "data": photos,
            "partition": "folder",
            "model": "cnn-tanh",
            "rounds": ROUNDS,
            "workers": 1,
            "device": "cpu",
        }
        harness.simulate(load_config(None, flags | {"seed": 3, "out": tmp_path / "run"}), tell=tell)

    return run


def report(folder: Path) -> dict[str, Any]:
    assert "<html" in (folder / "run" / "report.html").read_text("utf-8")
    found: dict[str, Any] = json.loads((folder / "run" / "report.json").read_text("utf-8"))
    return found


def test_ctrl_c_before_the_first_charge_leaves_a_report_of_nothing_spent(
    start: Start, tmp_path: Path
) -> None:
    def tell(stage: Stage) -> None:
        if stage.name == "training":
            ctrl_c()

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(InterruptedRunError, match=f"stopped after 0 of {ROUNDS} rounds"):
        start(tell=tell)
    assert signal.getsignal(signal.SIGINT) is before
    found = report(tmp_path)
    # Only what each merchant declared of its size was charged.
    counted = epsilon_pld([count_event()], delta=found["privacy"]["delta"])
    assert found["privacy"]["epsilon"] == counted and found["privacy"]["steps"] == 0
    spent = [(line["epsilon"], line["rounds_charged"]) for line in found["privacy"]["per_merchant"]]
    assert spent == [(counted, 0)] * MERCHANTS


def test_more_ctrl_c_while_a_stopped_run_is_closed_change_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = local_grid.LocalGrid.close

    def close_interrupted(grid: local_grid.LocalGrid) -> None:
        ctrl_c()
        close(grid)

    def render_interrupted(found: TrainingReport) -> str:
        ctrl_c()
        return render(found)

    monkeypatch.setattr(local_grid.LocalGrid, "close", close_interrupted)
    monkeypatch.setattr(session, "render", render_interrupted)

    def tell(stage: Stage) -> None:
        if stage.name == "training" and stage.done == 1:
            ctrl_c()

    with pytest.raises(InterruptedRunError, match=f"stopped after 1 of {ROUNDS} rounds"):
        start(tell=tell)
    found = report(tmp_path)
    assert [line["round"] for line in found["rounds"]] == [1]
    assert found["metrics"]["accuracy"] is not None
    assert (tmp_path / "run" / "model.safetensors").stat().st_size > 0


def test_ctrl_c_in_the_final_figures_leaves_report_and_model_without_them(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate_interrupted(*arguments: object, **options: object) -> None:
        ctrl_c()

    monkeypatch.setattr(session, "evaluate", evaluate_interrupted)
    with pytest.raises(InterruptedRunError, match=r"after the last round.* trains no more"):
        start()
    found = report(tmp_path)
    assert len(found["rounds"]) == ROUNDS
    metrics = found["metrics"]
    scores = ("accuracy", "accuracy_interval", "precision_macro", "recall_macro", "f1_macro", "roc_auc_macro")
    assert [metrics[name] for name in scores] == [None] * len(scores)
    assert (metrics["confusion"], metrics["per_class"], metrics["split"]) == ([], [], "test")
    assert (tmp_path / "run" / "model.safetensors").stat().st_size > 0


def test_a_cohort_that_refuses_leaves_its_reasons(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = MerchantPolicy(modes=frozenset({"local"}), schemes=frozenset({"kahe"}))
    monkeypatch.setattr(run_setup, "merchant_policy", lambda config: strict)
    with pytest.raises(TrainingError, match=r"0 of 4 merchants joined.*holds what was finished"):
        start()
    found = report(tmp_path)
    assert any("FAILED: 0 of 4 merchants joined" in warning for warning in found["warnings"])
    assert len(found["refusals"]) == MERCHANTS
    assert found["rounds"] == []


def test_scores_that_are_not_finite_are_no_figures_but_a_warning(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def diverged(*arguments: Any) -> Any:
        return np.full_like(probabilities(*arguments), np.nan)

    monkeypatch.setattr(session, "probabilities", diverged)
    with pytest.raises(DataError, match="not finite"):
        start()
    found = report(tmp_path)
    assert found["metrics"]["accuracy"] is None
    assert any("not finite" in warning for warning in found["warnings"])
    assert len(found["rounds"]) == ROUNDS


def test_a_ledger_that_is_gone_is_said_and_ends_nothing(start: Start, tmp_path: Path) -> None:
    def tell(stage: Stage) -> None:
        if stage.name == "training" and stage.done == ROUNDS:
            (tmp_path / "run" / "merchants" / "merchant-02" / "ledger.sqlite").unlink()

    start(tell=tell)
    found = report(tmp_path)
    spent = [line["epsilon"] for line in found["privacy"]["per_merchant"]]
    assert spent[2] is None and all(spent[index] > 0 for index in (0, 1, 3))
    assert any("what merchant-02 spent is not known" in warning for warning in found["warnings"])


def test_a_disk_that_is_full_ends_the_run_with_the_file_s_name_and_a_report_where_one_fits(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True

    def lines_do_not_fit(path: Path, lines: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def once_there_is_room(store: Callable[[Path, Any], None]) -> Callable[[Path, Any], None]:
        def written(path: Path, content: Any) -> None:
            if full:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            store(path, content)

        return written

    monkeypatch.setattr(trainings, "append_lines", lines_do_not_fit)
    for original in (write_atomically, write_json):
        monkeypatch.setattr(session, original.__name__, once_there_is_room(original))
    # What ended the run is told, not that the report could not be written after it.
    with pytest.raises(OSError, match=r"No space left on device: .*rounds\.jsonl"):
        start()
    shutil.rmtree(tmp_path / "run")
    full = False
    with pytest.raises(OSError, match=r"rounds\.jsonl"):
        start()
    assert any("FAILED" in text for text in report(tmp_path)["warnings"])


def test_a_write_that_fails_names_its_file(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError) as failed:
            write_atomically(tmp_path / "file", b"x" * 1000)
        assert failed.value.filename == str(tmp_path / "file")
        with pytest.raises(OSError) as failed:
            append_lines(tmp_path / "lines", [b"x" * 1000])
        assert failed.value.filename == str(tmp_path / "lines")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
