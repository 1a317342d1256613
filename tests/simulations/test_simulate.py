"""Whole small simulations: what a run leaves behind, and whether its figures are true."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedrec.clients.merchant_home import MerchantHome
from fedrec.config import load_config
from fedrec.errors import TrainingError
from fedrec.privacy.accounting.ledger_entries import charges
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.identity import verify
from fedrec.simulations import local_grid
from fedrec.simulations.harness import simulate
from fedrec.simulations.injected_faults import Dropouts
from fedrec.vision.synthetic import generate, write
from tests.support.inline import InlineWorker

MERCHANTS, ROUNDS, PHOTOS = 4, 2, 30
OWNERS = tuple(f"merchant-{index:02d}" for index in range(MERCHANTS))
SEED = 11

# The keys that a report has at the least, by section.
KEYS: dict[str, str] = {
    "": "schema warnings run data metrics privacy secure_aggregation cost rounds",
    "run": "id seconds engine workers merchants rounds dataset partition model parameters seed",
    "data": "records skipped duplicates_dropped",
    "metrics": "accuracy accuracy_interval precision_macro recall_macro f1_macro roc_auc_macro confusion"
    " split per_class",
    "privacy": "mode unit adjacency duplicate_policy epsilon cross_checks epsilon_aggregation_broken delta"
    " rating epsilon_at_1e-5 epsilon_of_copies"
    " sample_rate clip noise_multiplier steps colluders min_contributors accountant seeded per_merchant",
    "secure_aggregation": "scheme threshold committee min_contributors noise_levels value_bits"
    " upload_bytes_per_parameter seconds_encrypt seconds_unmask",
    "cost": "bytes_up bytes_down peak_memory_bytes seconds_train",
    "metrics.per_class": "label precision recall f1 support",
    "privacy.per_merchant": "merchant records epsilon epsilon_lifetime rounds_charged",
    "rounds": "round accuracy contributors dropouts opened seconds epsilon",
}


@dataclass(frozen=True)
class Run:
    """A finished run, its report read back from disk."""

    folder: Path
    report: dict[str, Any]

    @property
    def model(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()


Start = Callable[..., Run]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per merchant of small photos, one of them broken and one twice."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    write(generate(merchants=MERCHANTS, per_merchant=PHOTOS, size=16, seed=1, validation=20, test=30), folder)
    first = sorted((folder / "train" / OWNERS[0]).rglob("*.png"))[0]
    (first.parent / "broken.png").write_bytes(first.read_bytes()[:100])
    (first.parent / "zz-copy.png").write_bytes(first.read_bytes())
    return folder


@pytest.fixture(scope="module")
def start(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    def run(*, config: Path | None = None, processes: bool = False, **options: object) -> Run:
        flags: dict[str, object] = {"out": tmp_path_factory.mktemp("runs") / "run"}
        if config is None:
            flags |= {
                "data": photos,
                "partition": "folder",
                "model": "cnn-tanh",
                "rounds": ROUNDS,
                "workers": 1,
            }
            flags |= {"device": "cpu", "seed": SEED}
        with pytest.MonkeyPatch.context() as patch:
            if not processes:
                patch.setattr(local_grid, "WorkerProcess", InlineWorker)
            result = simulate(load_config(config, flags | options))
        return Run(result.folder, json.loads((result.folder / "report.json").read_text("utf-8")))

    return run


@pytest.fixture(scope="module")
def encrypted(start: Start) -> Run:
    # With a smaller minimum noise would be removed, which can't be without encryption.
    return start(processes=True, min_contributors=MERCHANTS)


@pytest.fixture(scope="module")
def repeated(start: Start, encrypted: Run) -> Run:
    """The same run from the file that it left behind, on two workers."""
    return start(config=encrypted.folder / "config.toml", workers=2, processes=True)


@pytest.fixture(scope="module")
def clear(start: Start) -> Run:
    return start(secure_aggregation="none", min_contributors=MERCHANTS)


MINIMUM, LOSSY_ROUNDS = 3, 3


def sending(seed: int, round_number: int) -> list[int]:
    """Who gets as far as training in a round with dropouts."""
    faults = Dropouts(0.3, seed)
    return [
        merchant
        for merchant in range(MERCHANTS)
        if not faults.drops(merchant=merchant, round_number=round_number, phase="train")
    ]


def lost_rounds(seed: int) -> list[bool]:
    return [len(sending(seed, number)) < MINIMUM for number in range(1, LOSSY_ROUNDS + 1)]


@pytest.fixture(scope="module")
def lossy(start: Start) -> tuple[int, Run]:
    """A run with dropouts under a seed that loses its second round for lack of uploads."""
    seed = next(
        seed
        for seed in range(10_000)
        if lost_rounds(seed) == [False, True, False]
        and not any(
            Dropouts(0.3, seed).drops(merchant=merchant, round_number=number, phase="unmask")
            for merchant in range(MERCHANTS)
            for number in (1, 3)
        )
    )
    return seed, start(drop=0.3, min_contributors=MINIMUM, rounds=LOSSY_ROUNDS, seed=seed)


def independent_epsilon(privacy: dict[str, Any], multiplier: float) -> float:
    """Epsilon by dp-accounting's own composition, on a finer grid than the product's at 8."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=5e-4)
    step = PoissonSampledDpEvent(privacy["sample_rate"], GaussianDpEvent(multiplier))
    accountant.compose(SelfComposedDpEvent(step, privacy["steps"]))
    return float(accountant.get_epsilon(privacy["delta"]))


def test_the_run_directory_holds_everything(encrypted: Run) -> None:
    for name in ("config.toml", "report.json", "report.html", "rounds.jsonl", "model.safetensors"):
        assert (encrypted.folder / name).stat().st_size > 0
    lines = (encrypted.folder / "rounds.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == encrypted.report["rounds"]
    assert encrypted.report["run"]["id"] in (encrypted.folder / "report.html").read_text("utf-8")
    parameters = load_file(encrypted.folder / "model.safetensors")
    assert sum(array.size for array in parameters.values()) == encrypted.report["run"]["parameters"]


def test_tensorboard_shows_what_the_report_says(encrypted: Run) -> None:
    events = EventAccumulator(str(encrypted.folder / "tensorboard"))
    events.Reload()
    for name in ("accuracy", "epsilon", "contributors"):
        points = [(point.step, point.value) for point in events.Scalars(f"round/{name}")]
        assert points == [
            (line["round"], pytest.approx(line[name], rel=1e-6)) for line in encrypted.report["rounds"]
        ]


def test_a_run_without_one_opened_round_is_an_error_and_still_reported(start: Start, tmp_path: Path) -> None:
    seed = next(seed for seed in range(100) if len(sending(seed, 1)) < MERCHANTS)
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match="not one of 1 round was opened"):
        start(rounds=1, drop=0.3, min_contributors=MERCHANTS, seed=seed, out=out)
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["privacy"]["epsilon"] > 0
    assert [line["opened"] for line in report["rounds"]] == [False]


@pytest.mark.parametrize("section", KEYS)
def test_the_report_has_its_keys(encrypted: Run, section: str) -> None:
    values: Any = encrypted.report
    for step in filter(None, section.split(".")):
        values = values[step]
    for entry in values if isinstance(values, list) else [values]:
        assert set(KEYS[section].split()) <= set(entry)
    assert values


def test_the_report_agrees_with_the_run(encrypted: Run) -> None:
    report = encrypted.report
    assert report["schema"] == "fedrec.report/1"
    assert (report["run"]["merchants"], report["run"]["rounds"]) == (MERCHANTS, ROUNDS)
    assert report["metrics"]["split"] == "test"
    assert sum(map(sum, report["metrics"]["confusion"])) == 30
    assert [line["opened"] for line in report["rounds"]] == [True] * ROUNDS
    assert [line["contributors"] for line in report["rounds"]] == [MERCHANTS] * ROUNDS
    assert report["privacy"]["steps"] == ROUNDS
    assert sum(line["records"] for line in report["privacy"]["per_merchant"]) == report["data"]["records"]
    assert any("SEEDED" in warning for warning in report["warnings"])


def test_a_broken_photo_is_named_and_a_copy_dropped(encrypted: Run) -> None:
    (skipped,) = encrypted.report["data"]["skipped"]
    assert skipped["name"].startswith(f"train/{OWNERS[0]}/")
    assert skipped["name"].endswith("/broken.png")
    assert skipped["reason"]
    assert any("1 photo is not used" in warning for warning in encrypted.report["warnings"])
    assert (
        encrypted.report["data"]["ignored"] == {"not a photo": 1}
        and encrypted.report["data"]["folders"] > MERCHANTS
    )
    assert encrypted.report["data"]["duplicates_dropped"] == 1
    assert encrypted.report["data"]["records"] == MERCHANTS * PHOTOS


def test_a_merchant_is_told_of_its_own_photos_and_of_no_other_s(encrypted: Run) -> None:
    own = [
        json.loads((encrypted.folder / "merchants" / name / "report.json").read_text("utf-8"))
        for name in OWNERS
    ]
    assert [report["merchant"] for report in own] == list(OWNERS)
    assert [report["records"] for report in own] == [PHOTOS] * MERCHANTS
    assert own[0]["skipped"] == encrypted.report["data"]["skipped"]
    assert [Path(name).name for name in own[0]["duplicates_dropped"]] == ["zz-copy.png"]
    assert not any(report["skipped"] or report["duplicates_dropped"] for report in own[1:])
    alike = sum(len(group) for report in own for group in report["near_duplicates"])
    assert alike == encrypted.report["data"]["near_duplicates"]


@pytest.mark.parametrize("name", ["encrypted", "clear", "lossy"])
def test_epsilon_is_that_of_an_independent_accountant(request: pytest.FixtureRequest, name: str) -> None:
    value = request.getfixturevalue(name)
    privacy = (value[1] if name == "lossy" else value).report["privacy"]
    truth = independent_epsilon(privacy, privacy["noise_multiplier"])
    assert truth <= privacy["epsilon"] <= 1.01 * truth
    assert privacy["epsilon"] <= 1.01 * privacy["cross_checks"]["rdp"]
    if name != "clear":
        # 8 is the budget unless one is given; all rounds of the plan are charged here.
        assert 7.9 <= privacy["epsilon"] <= 8.0
        # What stays of one merchant in every sum: 1 / (contributors - colluders) of the variance that a sum
        # must carry, of the most contributors where noise that isn't needed is removed.
        most = MERCHANTS if name == "lossy" else privacy["min_contributors"]
        share = privacy["noise_multiplier"] / (most - privacy["colluders"]) ** 0.5
        broken = independent_epsilon(privacy, share)
        assert broken <= privacy["epsilon_aggregation_broken"] <= 1.01 * broken


def test_rounds_with_dropouts_keep_the_noise_that_they_need(lossy: tuple[int, Run]) -> None:
    report = lossy[1].report
    assert report["secure_aggregation"]["noise_levels"] == list(range(MERCHANTS, MINIMUM - 1, -1))
    kept = [line["noise_kept"] for line in report["rounds"]]
    assert kept == [pytest.approx(1.0, abs=1e-9), None, pytest.approx(1.0, abs=1e-9)]


def test_epsilon_of_the_rounds_only_grows_up_to_the_whole(encrypted: Run) -> None:
    after = [line["epsilon"] for line in encrypted.report["rounds"]]
    assert 0 < after[0] < after[1] == encrypted.report["privacy"]["epsilon"]


def test_every_ledger_verifies_and_holds_one_charge_a_round(encrypted: Run) -> None:
    for line in encrypted.report["privacy"]["per_merchant"]:
        home = encrypted.folder / "merchants" / line["merchant"]
        outcome, entries = read_entries(
            home / "ledger.sqlite", public=MerchantHome(home).identity().public, verify=verify
        )
        assert outcome.ok
        assert [entry.charge.round_number for entry in charges(entries)] == list(range(1, ROUNDS + 1))
        assert line["rounds_charged"] == ROUNDS
        assert line["epsilon"] == pytest.approx(encrypted.report["privacy"]["epsilon"], rel=0.01)
        assert (home / "identity.key").stat().st_mode & 0o777 == 0o600
    assert len(encrypted.report["privacy"]["per_merchant"]) == MERCHANTS


def test_the_file_left_behind_repeats_the_run_bit_for_bit_on_more_workers(
    encrypted: Run, repeated: Run
) -> None:
    assert (encrypted.report["run"]["workers"], repeated.report["run"]["workers"]) == (1, 2)
    assert repeated.model == encrypted.model
    assert repeated.report["metrics"] == encrypted.report["metrics"]
    assert repeated.report["privacy"] == encrypted.report["privacy"]
    volatile = {"seconds_encrypt", "seconds_unmask"}
    before, after = encrypted.report["secure_aggregation"], repeated.report["secure_aggregation"]
    assert {k: v for k, v in after.items() if k not in volatile} == {
        k: v for k, v in before.items() if k not in volatile
    }
    again = load_config(repeated.folder / "config.toml", {"workers": 1})
    assert again == load_config(encrypted.folder / "config.toml", {})


def test_the_file_left_behind_has_the_defaults_filled_in(encrypted: Run) -> None:
    config = load_config(encrypted.folder / "config.toml", {})
    privacy, scheme = encrypted.report["privacy"], encrypted.report["secure_aggregation"]
    assert (config.epsilon, config.delta) == (8.0, privacy["delta"])
    assert (config.sample_rate, config.clip) == (privacy["sample_rate"], privacy["clip"])
    assert (config.committee, config.threshold) == (scheme["committee"], scheme["threshold"])
    assert (config.merchants, config.min_contributors) == (MERCHANTS, privacy["min_contributors"])
    # A run folder of its own for every run.
    assert config.out is None


def test_encryption_does_not_change_a_private_model(encrypted: Run, clear: Run) -> None:
    assert clear.model == encrypted.model


def test_encryption_does_not_change_a_model_without_privacy(start: Start, encrypted: Run) -> None:
    closed, open_ = start(privacy="off"), start(privacy="off", secure_aggregation="none")
    assert closed.model == open_.model != encrypted.model
    for run in (closed, open_):
        privacy = run.report["privacy"]
        assert [privacy[key] for key in ("epsilon", "noise_multiplier")] == [None] * 2
        assert privacy["cross_checks"] == {"rdp": None}
        assert all(line["epsilon"] is None for line in privacy["per_merchant"])
        assert any("NOT PRIVATE" in warning for warning in run.report["warnings"])
        assert "NOT PRIVATE" in (run.folder / "report.html").read_text("utf-8")


def test_without_encryption_epsilon_is_that_of_one_share(encrypted: Run, clear: Run) -> None:
    privacy = clear.report["privacy"]
    assert privacy["epsilon"] == privacy["epsilon_aggregation_broken"]
    assert privacy["epsilon"] == encrypted.report["privacy"]["epsilon_aggregation_broken"]
    assert privacy["epsilon"] > encrypted.report["privacy"]["epsilon"]
    assert any("NOT ENCRYPTED" in warning for warning in clear.report["warnings"])
    assert not any("NOT ENCRYPTED" in warning for warning in encrypted.report["warnings"])


def test_a_lost_round_is_charged_and_reported(lossy: tuple[int, Run]) -> None:
    seed, run = lossy
    report = run.report
    assert [line["opened"] for line in report["rounds"]] == [True, False, True]
    assert [line["dropouts"] for line in report["rounds"]] == [
        MERCHANTS - len(sending(seed, number)) for number in range(1, LOSSY_ROUNDS + 1)
    ]
    # The server's bound counts the lost round; a merchant that dropped out of it paid for the others.
    assert report["privacy"]["steps"] == LOSSY_ROUNDS
    assert [line["rounds_charged"] for line in report["privacy"]["per_merchant"]] == [
        sum(merchant in sending(seed, number) for number in range(1, LOSSY_ROUNDS + 1))
        for merchant in range(MERCHANTS)
    ]
    assert any("not opened, yet charged: 1 round; the first" in warning for warning in report["warnings"])
