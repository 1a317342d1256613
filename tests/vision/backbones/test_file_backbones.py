"""Adding networks from files: kept privately under a hash of file and options, and a model by name."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fedrec._internal import extras
from fedrec.api.trained_model import load_model
from fedrec.cli.app import app
from fedrec.config import load_config
from fedrec.errors import ConfigError, FedrecError, MissingExtraError
from fedrec.simulations import local_grid
from fedrec.simulations.harness import simulate
from fedrec.vision import model_registry
from fedrec.vision.backbones import backbone_files
from fedrec.vision.backbones.adding import add_backbone
from fedrec.vision.backbones.backbone import unit
from fedrec.vision.backbones.backbone_files import Pictures, Preparation
from fedrec.vision.backbones.file_backbone import FileBackbone
from fedrec.vision.backbones.fixed_views import fixed_view
from fedrec.vision.feature_cache import default_cache_dir
from fedrec.vision.model_inputs import input_shape, model_inputs
from fedrec.vision.synthetic import generate, write
from tests.support.inline import InlineWorker
from tests.support.networks import ADD_OPTIONS, SIDE, WIDTH, vision_transformer, written

COLOURS = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]


pytestmark = pytest.mark.usefixtures("data_folder")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "vit.onnx")


def pictures(**changes: Any) -> Pictures:
    values: dict[str, Any] = {"name": "tiny"} | ADD_OPTIONS | changes
    return backbone_files.pictures_of(**values)


def added(file: Path, **changes: Any) -> Preparation:
    return add_backbone(file, pictures(**changes), layers=["features"])


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["backbone", *map(str, arguments)], catch_exceptions=True)
    if isinstance(done.exception, FedrecError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_backbone_is_added_listed_and_removed(file: Path, data_folder: Path) -> None:
    assert run("list") == "no backbone was added\n"
    told = run(
        "add", file, "--name", "tiny", "--size", SIDE, *COLOURS, "--layer", "map", "--layer", "features"
    )
    kept = backbone_files.read("tiny")
    assert kept is not None
    assert told == run("list") and f"  code    {kept.code} " in told
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert json.loads(run("list", "--json")) == [
        {
            "code": kept.code,
            "kind": "fedrec/backbone/1",
            "name": "tiny",
            "size": SIDE,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "views": ["wide"],
            "architecture": None,
            "rank": None,
            "adapted_blocks": None,
            "file_sha256": sha256,
            "file_bytes": file.stat().st_size,
            "layers": [{"name": "map", "length": WIDTH}, {"name": "features", "length": WIDTH}],
            "attentions": 0,
            "tokens": None,
        }
    ]
    folder = data_folder / "tiny"
    assert (folder / "network.onnx").read_bytes() == file.read_bytes()
    assert sorted(path.name for path in data_folder.iterdir()) == ["tiny"]
    for path in (data_folder, folder, *folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert "tiny-head" in model_registry.names()
    run("remove", "tiny")
    assert not list(data_folder.iterdir()) and "tiny-head" not in model_registry.names()
    with pytest.raises(ConfigError, match="there is no backbone 'tiny'; added are: none"):
        run("remove", "tiny")


@pytest.mark.usefixtures("no_process")
def test_the_listed_command_adds_the_same_backbone_elsewhere(file: Path) -> None:
    told = run("add", file, "--name", "tiny", "--size", SIDE, *COLOURS, "--layer", "map", "--view", "flip")
    run("remove", "tiny")
    command = told.splitlines()[-1].partition("fedrec backbone ")[2].replace("FILE", str(file)).split()
    assert "--code" in command
    assert run(*command) == told
    run("remove", "tiny")
    for option, value in (("--mean", "0.5,0.5,0.5"), ("--layer", "features"), ("--view", "wide")):
        other = [*command]
        other[other.index(option) + 1] = value
        with pytest.raises(ConfigError, match="--code: with these options this file has the hash"):
            run(*other)
    assert backbone_files.names() == ()


@pytest.mark.usefixtures("no_process")
def test_the_code_covers_file_and_options(file: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other.onnx", vision_transformer(seed=1))
    codes = set()
    variants: list[tuple[Path, dict[str, Any]]] = [
        (file, {}),
        (other, {}),
        (file, {"mean": (0.4, 0.4, 0.4)}),
        (file, {"std": (0.4, 0.4, 0.4)}),
        (file, {"views": ("crop",)}),
    ]
    for number, (path, changes) in enumerate(variants):
        made = added(path, **changes)
        codes.add(made.code)
        backbone_files.remove("tiny")
        assert len(codes) == number + 1
    again = added(file, views=("crop",))
    assert hashlib.sha256(again.canonical_bytes()).hexdigest() == again.code and again.code in codes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../x"}, "--name"),
        ({"name": ".x"}, "--name"),
        ({"name": "x" * 60}, "--name"),
        ({"size": 4}, "--size must be 8 or more"),
        ({"std": (0.0, 1.0, 1.0)}, "--std"),
        ({"mean": (float("nan"), 1.0, 1.0)}, "--mean"),
        ({"views": ("sideways",)}, "--views"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        pictures(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_process")
def test_a_file_that_is_not_the_expected_one_or_does_not_fit_adds_nothing(
    file: Path, data_folder: Path
) -> None:
    for arguments, message in (
        (["--sha256", "ab" * 32], "has the SHA-256"),
        (["--size", "32"], f"takes pictures of {SIDE} pixels, not 32"),
        ([], "several outputs: name the ones to use by --layer, of features, tokens, map"),
        (["--layer", "nothing"], "choose different outputs of features"),
        (["--layer", "map", "--layer", "map"], "choose different outputs"),
        (["--mean", "1,2"], "isn't three numbers"),
        (["--name", "effnet-lite0"], "there is a model 'effnet-lite0-head'"),
    ):
        with pytest.raises(ConfigError, match=message):
            run("add", file, "--name", "tiny", "--size", SIDE, *COLOURS, *arguments)
    with pytest.raises(ConfigError, match=r"there is no file .*nowhere"):
        run("check", "nowhere")
    assert not list(data_folder.glob("*"))
    added(file)
    with pytest.raises(ConfigError, match="there is a backbone 'tiny'"):
        added(file)


def test_check_shows_a_file_and_keeps_nothing(file: Path, data_folder: Path) -> None:
    told = run("check", file)
    assert hashlib.sha256(file.read_bytes()).hexdigest() in told
    assert f"output map: {WIDTH} features" in told and not data_folder.exists()


@pytest.mark.usefixtures("no_process")
def test_the_head_s_features_are_the_network_s_of_each_view(file: Path, tmp_path: Path) -> None:
    made = add_backbone(file, pictures(views=("wide", "flip")), layers=["features", "map"])
    spec = model_registry.get(made.model)
    photos = generate(merchants=1, per_merchant=3, size=24, seed=4, validation=0, test=0).train
    shape = input_shape(photos, spec)
    assert (shape.channels, shape.size) == (3, SIDE) and spec.features is not None
    assert spec.record_shape(3, SIDE) == (2 * WIDTH,)

    def features() -> np.ndarray:
        return model_inputs(photos, spec, shape, views=1, progress=lambda done, total: None)[:, 0]

    found = features()
    network = FileBackbone(made).load(size=SIDE, dtype=FileBackbone(made).dtype)
    expected = []
    for index in range(3):
        views = [network(fixed_view(photos.image(index), view, size=SIDE)[None]) for view in ("wide", "flip")]
        layers = [unit(np.sum([unit(view[name][0]) for view in views], axis=0)) for name in made_layers(made)]
        expected.append(unit(np.concatenate(layers)))
    assert (found * np.stack(expected)).sum(axis=1).min() > 0.9999
    cached = sorted(default_cache_dir().iterdir())
    assert len(cached) == 2
    np.testing.assert_array_equal(features(), found)
    assert sorted(default_cache_dir().iterdir()) == cached


def made_layers(made: Preparation) -> list[str]:
    return [layer.name for layer in made.layers]


@pytest.mark.usefixtures("no_process")
def test_a_changed_file_or_preparation_is_found(file: Path, data_folder: Path) -> None:
    made = added(file)
    path = data_folder / "tiny" / "network.onnx"
    FileBackbone(made).check()
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    for use in (FileBackbone(made).check, FileBackbone(made).weights_hash):
        with pytest.raises(ConfigError, match=r"is missing or damaged: run 'fedrec backbone remove tiny'"):
            use()
    path.unlink()
    with pytest.raises(ConfigError, match="is missing or damaged"):
        FileBackbone(made).load(size=SIDE, dtype=FileBackbone(made).dtype)
    (data_folder / "tiny" / "backbone.json").write_text('{"name": "tiny"}')
    with pytest.raises(ConfigError, match=r"backbone.json is damaged: run 'fedrec backbone remove tiny'"):
        model_registry.get("tiny-head")


def test_without_the_extra_the_message_names_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = added(file)
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnxruntime" else name)
    for use in (FileBackbone(made).check, lambda: run("check", file)):
        with pytest.raises(MissingExtraError, match=r"onnxruntime, .* pip install 'fedrec\[onnx\]'"):
            use()


@pytest.mark.usefixtures("no_process")
def test_a_training_on_an_added_backbone_runs_to_its_report(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = added(file)
    clothes = tmp_path / "clothes"
    write(generate(merchants=3, per_merchant=3, size=24, seed=2, validation=3, test=0), clothes)
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)
    options: dict[str, object] = {"data": clothes, "partition": "folder", "model": "tiny-head"}
    options |= {"rounds": 2, "seed": 1, "workers": 1, "device": "cpu", "out": tmp_path / "run", "delta": 1e-2}
    result = simulate(load_config(None, options))
    plan = json.loads((result.folder / "plan.json").read_text())
    assert (plan["model"], plan["model_code"]) == ("tiny-head", made.code)
    assert (plan["scheme"], plan["image_size"], plan["dimension"]) == ("kahe", SIDE, WIDTH * 6)
    report = json.loads((result.folder / "report.json").read_text())
    assert [line["opened"] for line in report["rounds"]] == [True, True]
    assert report["run"]["model_code"] == made.code
    assert load_model(result.folder).network is not None
    backbone_files.remove("tiny")
    added(file, mean=(0.1, 0.1, 0.1))
    with pytest.raises(ConfigError, match=f"the plan means one with the code {made.code}"):
        load_model(result.folder)
