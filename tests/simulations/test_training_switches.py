"""The switches of a training in a whole run, and early stopping: what is released, charged and claimed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from safetensors.numpy import load_file
from sklearn.metrics import f1_score

from fedrec._internal.files import write_secret
from fedrec.clients.merchant_home import MerchantHome
from fedrec.config import load_config
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.ledger_entries import charges
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.dp.vectors import named_parameters
from fedrec.privacy.identity import verify
from fedrec.protocol.plan import EarlyStopping, Peer
from fedrec.protocol.training_report.round_line import RoundLine
from fedrec.server import session
from fedrec.server.early_stopping import best_round, is_over
from fedrec.server.evaluation import EvaluationData, Scores
from fedrec.server.optimizers.sgd import Sgd
from fedrec.server.server_home import ServerHome
from fedrec.server.session import RoundOutcome, Session
from fedrec.server.training_file import TrainingFile, add_training, write_plan
from fedrec.server.trainings import Training
from fedrec.server.weights import Weights
from fedrec.simulations import local_grid, run_setup
from fedrec.simulations.data_sources import open_source
from fedrec.simulations.harness import SimulationResult, resume, simulate
from fedrec.simulations.run_summary import summarise
from fedrec.vision.metrics import macro_f1
from fedrec.vision.synthetic import generate, write
from tests.support.cohort import DIMENSION, Cohort, InProcessGrid, linear_model
from tests.support.inline import InlineWorker
from tests.support.small_runs import small_run
from tests.support.training_reports import A_ROUND

MERCHANTS, ROUNDS, PATIENCE = 3, 6, 2
ACCURACY = (0.3, 0.5, 0.4, 0.5, 0.9, 0.9)
"""The second round is the best of those that are run: the fourth ends the training."""
BEST, ENDED = 2, 4
SWITCHES = {
    "schedule": "cosine:warmup=1",
    "weight_decay": 0.01,
    "l1": 0.001,
    "averaging": 0.5,
    "label_smoothing": 0.1,
}
OPTIMIZER = (
    "sgd, learning rate 2, momentum 0, nesterov 0, averaging 0.5, schedule cosine (warmup 1, floor 0), "
    "weight decay 0.01, L1 0.001"
)
RECORDS = EvaluationData(inputs=torch.zeros(2, 6), labels=np.zeros(2, dtype=np.int64))


def line(number: int, accuracy: float | None, *, f1: float | None = None, opened: bool = True) -> RoundLine:
    record = A_ROUND.model_copy(update={"round": number, "opened": opened})
    return RoundLine.of(record, accuracy=accuracy, f1_macro=f1, epsilon=1.0)


def test_the_first_of_the_highest_scores_wins_and_lost_rounds_use_up_no_patience() -> None:
    stopping = EarlyStopping(patience=2)
    lines = [line(1, 0.5), line(2, 0.5), line(3, 0.5, opened=False)]
    assert best_round(stopping, lines) is lines[0]
    assert not is_over(stopping, lines)
    assert is_over(stopping, [*lines, line(4, 0.4)])
    assert not is_over(stopping, [*lines, line(4, 0.6)])


def test_the_target_says_which_score_counts() -> None:
    lines = [line(1, 0.9, f1=0.2), line(2, 0.8, f1=0.3)]
    assert best_round(EarlyStopping(patience=1), lines) is lines[0]
    assert best_round(EarlyStopping(patience=1, target="macro-f1"), lines) is lines[1]
    assert best_round(EarlyStopping(patience=1), [line(1, None)]) is None
    assert not is_over(EarlyStopping(patience=1), [line(1, None), line(2, None)])


def test_macro_f1_is_scikit_learn_s_with_absent_classes_as_zero() -> None:
    chance = np.random.default_rng(0)
    predicted, labels = chance.integers(0, 4, 50), chance.integers(0, 3, 50)
    expected = f1_score(labels, predicted, labels=range(6), average="macro", zero_division=cast(Any, 0.0))
    assert macro_f1(predicted, labels, classes=6) == pytest.approx(float(expected))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    write(generate(merchants=MERCHANTS, per_merchant=20, size=16, seed=1, validation=10, test=10), folder)
    return folder


def options(photos: Path, out: Path, **changes: Any) -> Mapping[str, object]:
    return {**small_run(photos, out, rounds=ROUNDS), "learning_rate": 2.0, "patience": PATIENCE, **changes}


def scripted(monkeypatch: pytest.MonkeyPatch, scores: Sequence[float]) -> None:
    """Let the next rounds score so, in order."""
    left: Iterator[float] = iter(scores)
    monkeypatch.setattr(session, "score", lambda model, parameters, data: Scores(next(left), 0.5))


def rounds_charged(folder: Path) -> dict[str, list[int]]:
    found = {}
    for home in sorted((folder / "merchants").iterdir()):
        outcome, entries = read_entries(
            home / "ledger.sqlite", public=MerchantHome(home).identity().public, verify=verify
        )
        assert outcome.ok
        found[home.name] = [entry.charge.round_number for entry in charges(entries)]
    return found


def independent_epsilon(privacy: Mapping[str, Any], *, steps: int) -> float:
    """Epsilon of so many rounds and of the declared count, by dp-accounting's own composition."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=5e-4)
    step = PoissonSampledDpEvent(privacy["sample_rate"], GaussianDpEvent(privacy["noise_multiplier"]))
    accountant.compose(SelfComposedDpEvent(step, steps)).compose(GaussianDpEvent(20.0))
    return float(accountant.get_epsilon(privacy["delta"]))


@dataclass(frozen=True)
class Stopped:
    """A run with every switch on, and the model after each of its rounds."""

    result: SimulationResult
    models: list[dict[str, np.ndarray]]
    prior: str


@pytest.fixture(scope="module")
def stopped(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    models: list[dict[str, np.ndarray]] = []

    def keep(outcome: RoundOutcome) -> None:
        models.append({name: array.copy() for name, array in named_parameters(outcome.model).items()})

    classes = sorted(path.name for path in (photos / "train" / "merchant-00").iterdir())
    prior = ",".join(f"{name}={weight}" for weight, name in enumerate(classes, start=1))
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_grid, "WorkerProcess", InlineWorker)
        scripted(patch, ACCURACY)
        config = load_config(None, options(photos, out, class_prior=prior, **SWITCHES))
        return Stopped(simulate(config, callbacks=[keep]), models, prior)


def test_unused_rounds_are_not_run_nor_charged_and_the_best_model_is_released(stopped: Stopped) -> None:
    result, models = stopped.result, stopped.models
    report, privacy = result.report.to_json(), result.report.to_json()["privacy"]
    assert [entry["accuracy"] for entry in report["rounds"]] == list(ACCURACY[:ENDED])
    every = list(range(1, ENDED + 1))
    assert rounds_charged(result.folder) == {entry["merchant"]: every for entry in privacy["per_merchant"]}
    spent = independent_epsilon(privacy, steps=ENDED)
    for entry in privacy["per_merchant"]:
        assert entry["rounds_charged"] == ENDED
        assert spent <= entry["epsilon"] <= 1.01 * spent
    # Results had a say in the number of rounds: what is claimed of the training holds for all of them.
    whole = independent_epsilon(privacy, steps=ROUNDS)
    assert privacy["steps"] == ROUNDS and whole <= privacy["epsilon"] <= 1.01 * whole
    assert any(f"STOPPED EARLY: early stopping or a callback ended the training after {ENDED} of" in text
               for text in report["warnings"])  # fmt: skip
    assert report["run"]["early_stopping"] == (
        f"after {PATIENCE} rounds without a higher accuracy; the model is that of round {BEST}"
    )
    assert report["run"]["early_stopping"] in (result.folder / "report.html").read_text("utf-8")
    released = load_file(result.folder / "model.safetensors")
    assert released.keys() == models[BEST - 1].keys()
    assert all(np.array_equal(released[name], models[BEST - 1][name]) for name in released)
    assert not all(np.array_equal(released[name], models[-1][name]) for name in released)
    with pytest.raises(ConfigError, match="finished"):
        resume(result.folder)


class Served:
    """A training of a small cohort as its server has it on disk; its rounds are told, not run."""

    def __init__(self, folder: Path, *, rounds: int) -> None:
        self.cohort = Cohort(folder)
        self.training = Training(folder / "0001")
        self.training.folder.mkdir()
        stopping = EarlyStopping(patience=PATIENCE)
        write_plan(self.training, self.cohort.plan(rounds=rounds, early_stopping=stopping), seed=0)
        self.home = ServerHome(folder / "server")
        self.home.folder.mkdir()
        write_secret(self.home.identity_file, self.cohort.server.private_bytes())
        self.weights = Weights.start(np.zeros(DIMENSION), Sgd(DIMENSION, learning_rate=1.0), averaging=0.0)

    def session(self) -> Session:
        """A server that has just started."""
        return Session(self.home, self.training, linear_model(), evaluation=RECORDS, weights=self.weights)

    def after(self, number: int, *, server: Session) -> bool | None:
        """Let a round end with all parameters at its number; return whether the training ends with it."""
        self.weights.parameters[:] = number
        grid = InProcessGrid(self.cohort.app(), self.cohort.size)
        return server.runner(grid, names=dict).on_round(line(number, None))

    def released(self, server: Session) -> int:
        """The number of the round whose model is released."""
        server.store_model()
        released = load_file(self.training.folder / "model.safetensors")
        (number,) = {int(value) for array in released.values() for value in array.flatten()}
        return number


def test_a_restarted_server_keeps_its_patience_and_its_best_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, ACCURACY)
    served = Served(tmp_path, rounds=ROUNDS)
    first = served.session()
    assert [served.after(number, server=first) for number in range(1, ENDED)] == [False] * (ENDED - 1)
    again = served.session()
    # The last finished round is told once more after a restart; nothing is measured twice.
    assert served.after(ENDED - 1, server=again) is False
    assert served.after(ENDED, server=again) is True and again.stopped
    assert [entry.accuracy for entry in served.training.rounds()] == list(ACCURACY[:ENDED])
    assert served.released(again) == BEST


def test_reaching_the_last_round_is_no_early_stop_and_the_best_model_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, (0.9, 0.1, 0.1))
    served = Served(tmp_path, rounds=3)
    server = served.session()
    assert [served.after(number, server=server) for number in (1, 2, 3)] == [False] * 3
    assert not server.stopped
    assert served.released(server) == 1


def test_plan_report_page_summary_and_file_name_the_switches(stopped: Stopped) -> None:
    folder, report = stopped.result.folder, stopped.result.report.to_json()
    plan = json.loads((folder / "plan.json").read_text())
    count = len(plan["classes"])
    total = count * (count + 1) / 2
    assert plan["objective"]["class_prior"] == pytest.approx([place / total for place in range(1, count + 1)])
    loss = report["run"]["loss"]
    assert loss.startswith("cross-entropy, label smoothing 0.1, adjusted for the class prior 0.")
    assert report["run"]["optimizer"] == OPTIMIZER
    for shown in ((folder / "report.html").read_text("utf-8"), summarise(stopped.result.report, folder)):
        assert OPTIMIZER in shown and loss in shown and report["run"]["early_stopping"] in shown
    again = load_config(folder / "config.toml", {})
    assert {name: getattr(again, name) for name in SWITCHES} == SWITCHES
    assert (again.class_prior, again.patience) == (stopped.prior, PATIENCE)


def test_a_prior_for_other_classes_is_refused_before_a_folder_is_made(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--class-prior lacks .*: give each of the"):
        simulate(load_config(None, options(photos, tmp_path / "run", class_prior="a=1,b=2")))
    assert not (tmp_path / "run").exists()


def test_patience_needs_something_to_compare_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(load_config(None, options(photos, tmp_path / "run")))
    without = replace(source, splits=replace(source.splits, validation=None))
    monkeypatch.setattr(run_setup, "open_source", lambda *given, **named: without)
    with pytest.raises(ConfigError, match="--patience compares models on a validation split, and no record"):
        simulate(load_config(None, options(photos, tmp_path / "run", patience=1)))
    with pytest.raises(ConfigError, match="--target says what --patience compares"):
        load_config(None, {"target": "macro-f1"})
    roster = (Peer(name="a", signing_key="00" * 32),)
    file = TrainingFile(classes=("a", "b"), patience=3)
    with pytest.raises(ConfigError, match=r"^patience compares models on public photos: name their folder"):
        add_training(tmp_path, file, server_key="00" * 32, roster=roster, sizes=(10,))
