"""``import fedrec``: what it offers, how light it is, and trainings begun from plain scripts."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fedrec
from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError, DataError, MissingExtraError
from tests.support.finished_runs import fake_report
from tests.support.training_reports import report_of

OFFERED = {
    "Comparison",
    "FedrecError",
    "OptimizerSpec",
    "Progress",
    "Result",
    "Round",
    "Setting",
    "SimulationOptions",
    "TrainedModel",
    "add_optimizer",
    "compare",
    "epsilon",
    "export_model",
    "load_model",
    "noise_for",
    "simulate",
    "verify",
}


def small(out: Path) -> fedrec.SimulationOptions:
    """A training of two rounds."""
    return {
        "out": out,
        "rounds": 2,
        "sample_rate": 0.5,
        "epsilon": 8.0,
        "delta": 1e-3,
        "workers": 1,
        "device": "cpu",
    }


def photos(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose left half is bright in class 0, and whose right half is in class 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pictures = rng.integers(0, 120, (count, 8, 8))
    for picture, label in zip(pictures, labels, strict=True):
        picture[:, 4 * label : 4 * label + 4] += 120
    return pictures.astype(np.uint8), labels


MERCHANTS = [photos(40, seed=seed) for seed in range(3)]
TEST = photos(30, seed=9)


class Net(nn.Module):
    def __init__(self, *, outputs: int = 2) -> None:
        super().__init__()
        self.scores = nn.Linear(64, outputs)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(pictures.flatten(1))
        return scores


class Twice(Net):
    """Uses one layer twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.repeated = nn.Linear(64, 64)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return super().forward(self.repeated(self.repeated(pictures.flatten(1))))


def test_what_is_offered_is_listed_documented_and_typed() -> None:
    assert set(fedrec.__all__) == OFFERED <= set(dir(fedrec))
    for name in OFFERED:
        offered = getattr(fedrec, name)
        assert inspect.getdoc(offered), f"{name} has no docstring"
        if isinstance(offered, types.FunctionType):
            assert len(inspect.signature(offered).parameters) <= 7
            hints = offered.__annotations__
            assert set(hints) == {*inspect.signature(offered).parameters, "return"}
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        fedrec.simulat  # noqa: B018


def test_what_type_checkers_see_is_what_is_offered() -> None:
    """The lazy names and those imported for type checkers alone are written down apart."""
    seen = {
        line.split(" import ")[1].strip(): line.split()[1]
        for line in Path(fedrec.__file__).read_text("utf-8").splitlines()
        if line.startswith("    from fedrec.")
    }
    flat = {name: home for names, home in seen.items() for name in names.split(", ")}
    assert flat == fedrec._HOMES and set(flat) == OFFERED


def test_the_import_is_light() -> None:
    code = (
        "import sys, time; started = time.process_time(); import fedrec; "
        "print(time.process_time() - started, *(n for n in ('torch', 'flwr', 'numpy') if n in sys.modules))"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, *heavy = done.stdout.split()
        assert heavy == []
        times.append(float(seconds))
    assert min(times) < 0.5


def test_every_option_of_the_command_line_is_one_of_simulate_by_the_same_name() -> None:
    options = set(get_type_hints(fedrec.SimulationOptions))
    alone = {"config", "resume", "progress"}
    assert options - alone == set(SimulationConfig.model_fields) - {"model", "merchants"}


SCRIPT = """
import sys
import torch
from PIL import Image
from torch import nn
import fedrec

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(64, 2)
    def forward(self, pictures):
        return self.scores(pictures.flatten(1))

def photos(seed):
    chance = torch.Generator().manual_seed(seed)
    labels = torch.arange(40) % 2
    pictures = torch.rand(40, 1, 8, 8, generator=chance) * 0.5
    pictures[labels == 1, :, :, :4] += 0.4
    return pictures, labels

print("begun")
result = fedrec.simulate(
    model=lambda: Net(), merchants=[photos(seed) for seed in range(3)], test=photos(9), epsilon=8,
    delta=1e-3, rounds=2, sample_rate=0.5, workers=1, device="cpu", out=sys.argv[1], seed=1,
)
print(result.accuracy, result.f1, result.epsilon, len(result.rounds), result.folder)
"""


@pytest.mark.slow
def test_a_plain_script_with_a_model_of_its_own_needs_no_guard_and_no_fork(tmp_path: Path) -> None:
    models: list[bytes] = []
    for switch in ("", "from fedrec.simulations import worker_process\nworker_process.FORKS = False\n"):
        (folder := tmp_path / str(len(models))).mkdir()
        (folder / "script.py").write_text(switch + SCRIPT)
        done = subprocess.run(
            [sys.executable, "script.py", "out"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        begun, figures = done.stdout.splitlines()
        assert begun == "begun", "no worker runs the script again"
        accuracy, f1, epsilon, rounds, out = figures.split()
        assert 0 <= float(accuracy) <= 1 and 0 <= float(f1) <= 1 and 7 < float(epsilon) <= 8
        assert (rounds, out) == ("2", "out")
        report = json.loads((folder / "out" / "report.json").read_text("utf-8"))
        assert report["run"]["model"].startswith("own-") and report["run"]["dataset"] == "given"
        assert [line["contributors"] for line in report["rounds"]] == [3, 3]
        models.append((folder / "out" / "model.safetensors").read_bytes())
    assert models[0] == models[1], "the same seed gives the same model, however workers are started"


def test_a_result_has_figures_rounds_a_table_and_the_model(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    result = fedrec.simulate(Net, MERCHANTS, test=TEST, **small(tmp_path / "run"))
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert result.folder == tmp_path / "run"
    assert json.loads(json.dumps(result.report.to_json())) == report
    assert result.accuracy == report["metrics"]["accuracy"] and result.f1 == report["metrics"]["f1_macro"]
    assert result.accuracy_interval == tuple(report["metrics"]["accuracy_interval"])
    assert result.epsilon == report["privacy"]["epsilon"] and result.delta == 1e-3
    assert [line.number for line in result.rounds] == [1, 2] and all(line.opened for line in result.rounds)
    table = result.to_pandas()
    assert isinstance(table, pandas.DataFrame) and list(table.index) == [1, 2]
    assert table["epsilon"].tolist() == [line["epsilon"] for line in report["rounds"]]
    # The report's figures, measured again on the model that the folder holds.
    for model in (result.model, fedrec.load_model(tmp_path / "run", model=Net)):
        assert model.classes == ("0", "1")
        assert model.evaluate(TEST).accuracy == result.accuracy
        assert np.mean(np.array(model.predict(TEST[0])) == TEST[1].astype(str)) == result.accuracy
    # The bundle of a model of one's own says what the model says.
    bundle = fedrec.export_model(result, tmp_path / "bundle")
    shown = [Image.fromarray(picture) for picture in TEST[0][:5]]
    told = np.stack([each.probabilities for each in bundle.recognise(shown)])
    assert told == pytest.approx(result.model.probabilities(TEST[0][:5]), abs=1e-5)
    # What a plan costs is what its report says.
    privacy = report["privacy"]
    found = fedrec.epsilon(privacy["noise_multiplier"], sample_rate=0.5, steps=2, delta=1e-3)
    assert found == pytest.approx(result.epsilon, rel=1e-9)
    with pytest.raises(ConfigError, match="of a model with other layers"):
        fedrec.load_model(tmp_path / "run", model=lambda: Net(outputs=3))
    with pytest.raises(ConfigError, match="a model of your own, own-"):
        fedrec.load_model(tmp_path / "run")
    with pytest.raises(ConfigError, match="holds no trained model"):
        fedrec.load_model(tmp_path)


def test_rounds_are_objects_where_pandas_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_of(fake_report(accuracy=None, epsilon=1.25))
    lost = fedrec.Round(1, False, None, None, 0.5, 2, 1, 0.25, 10, 20, "too few merchants answered")
    result = fedrec.Result(folder=tmp_path, report=report, rounds=(lost,))
    shown = "Result(accuracy=None, f1=None, epsilon=1.25, rounds=1, folder="
    assert repr(result).startswith(shown) and result.accuracy is None
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="pip install pandas"):
        result.to_pandas()
    assert result.rounds[0].reason == "too few merchants answered"


def test_a_callback_sees_every_round_measures_the_model_and_stops(tmp_path: Path) -> None:
    seen: list[tuple[int, int, float]] = []

    def watch(progress: fedrec.Progress) -> None:
        measured = progress.model.evaluate(TEST)
        seen.append((progress.round.number, progress.rounds, measured.accuracy))
        if len(seen) == 2:
            progress.stop()

    options: fedrec.SimulationOptions = {**small(tmp_path / "run"), "rounds": 5}
    result = fedrec.simulate(Net, MERCHANTS, test=TEST, callbacks=[watch], **options)
    assert [line[:2] for line in seen] == [(1, 5), (2, 5)]
    assert len(result.rounds) == 2
    assert seen[-1][2] == result.accuracy


@pytest.mark.usefixtures("few_synthetic_photos")
def test_names_and_paths_work_as_on_the_command_line(tmp_path: Path) -> None:
    config = tmp_path / "options.toml"
    config.write_text("[simulate]\nmerchants = 3\nrounds = 9\nepsilon = 8\n")
    options: fedrec.SimulationOptions = {
        "out": tmp_path / "run",
        "config": config,
        "rounds": 1,
        "seed": 3,
        "device": "cpu",
        "workers": 1,
        "sample_rate": 0.02,
    }
    result = fedrec.simulate("cnn-tanh", **options)
    run = result.report.to_json()["run"]
    assert (run["model"], run["merchants"], run["dataset"], run["rounds"]) == ("cnn-tanh", 3, "synthetic", 1)
    with pytest.raises(ConfigError, match="--epsilon 'many'"):
        fedrec.simulate(epsilon="many")  # type: ignore[arg-type]


def test_objects_and_names_of_data_dont_mix_and_their_run_is_nobody_elses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data has no meaning"):
        fedrec.simulate(Net, MERCHANTS, data=tmp_path)
    with pytest.raises(ConfigError, match="test and classes go with merchants' own photos"):
        fedrec.simulate("cnn", 3, test=TEST)
    with pytest.raises(DataError, match="3 pictures have 2 labels"):
        fedrec.simulate(Net, [(MERCHANTS[0][0][:3], [0, 1])])
    with pytest.raises(ConfigError, match=r"must give \(3, 2\) scores"):
        fedrec.simulate(lambda: Net(outputs=5), MERCHANTS, test=TEST, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="given as objects"):
        fedrec.simulate("cnn", dataset="given")
    with pytest.raises(ConfigError, match=r"choose one of synthetic, fashion-mnist, cifar10, folder$"):
        fedrec.simulate("cnn", dataset="none")


def test_a_model_that_uses_a_layer_twice_is_refused_before_a_round_is_charged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a layer is used more than once in a pass") as refused:
        fedrec.simulate(Twice, MERCHANTS, test=TEST, **small(tmp_path / "run"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_stopped_run_goes_on_with_the_same_objects_and_refuses_another_model(tmp_path: Path) -> None:
    def interrupt(progress: fedrec.Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(fedrec.FedrecError, match="stopped after 1 of 2 rounds"):
        fedrec.simulate(Net, MERCHANTS, test=TEST, callbacks=[interrupt], **small(tmp_path / "run"))
    with pytest.raises(ConfigError, match="was begun with the model own-"):
        fedrec.simulate(lambda: Net(outputs=2), MERCHANTS, test=TEST, resume=tmp_path / "run")
    result = fedrec.simulate(Net, MERCHANTS, test=TEST, resume=tmp_path / "run")
    assert [line.number for line in result.rounds] == [1, 2]
    assert [line["rounds_charged"] for line in result.report.to_json()["privacy"]["per_merchant"]] == [
        2,
        2,
        2,
    ]


def test_a_bundle_is_verified_and_a_changed_one_is_not(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from fedrec.cli.app import app

    fedrec.simulate(Net, MERCHANTS, test=TEST, **small(tmp_path / "run"))
    made = CliRunner().invoke(
        app, ["audit", "report", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "audit")]
    )
    assert made.exit_code == 0, made.output
    bundle = tmp_path / "audit" / "audit.json"
    assert fedrec.verify(bundle).ok
    body = json.loads(bundle.read_text("utf-8"))
    key = next(iter(body["body"]["merchants"]))
    assert not fedrec.verify(bundle, server_keys=["00" * 32]).ok
    bundle.write_text(bundle.read_text("utf-8").replace('"sample_rate": 0.5', '"sample_rate": 0.4'))
    assert not fedrec.verify(bundle).ok and key
    with pytest.raises(ConfigError):
        fedrec.verify(tmp_path / "no such file")


def test_an_optimizer_of_ones_own_is_added_by_its_name_and_takes_nobody_elses() -> None:
    from fedrec.server.optimizers.optimizer_registry import REGISTRY

    spec = fedrec.OptimizerSpec(name="mine", settings={}, learning_rate=0.1, make=REGISTRY.get("adam").make)
    with pytest.raises(ConfigError, match="there is no server optimizer 'mine'"):
        REGISTRY.get("mine")
    fedrec.add_optimizer(spec)
    try:
        assert REGISTRY.get("mine") is spec and "mine" in REGISTRY.names()
        again = fedrec.OptimizerSpec(name="mine", settings={}, learning_rate=0.2, make=spec.make)
        fedrec.add_optimizer(again)
        assert REGISTRY.get("mine") is again
        with pytest.raises(ConfigError, match="'adam' has a name that is taken"):
            fedrec.add_optimizer(fedrec.OptimizerSpec("adam", {}, 0.1, spec.make))
        with pytest.raises(ConfigError, match="a str does not specify a server optimizer"):
            fedrec.add_optimizer("mine")  # type: ignore[arg-type]
    finally:
        REGISTRY._own.clear()
