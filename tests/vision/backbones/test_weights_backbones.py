"""Adding networks as architecture and safetensors file, and training on them."""

from __future__ import annotations

import hashlib
import json
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
from fedrec.privacy.dp.vectors import count_from_shapes, parameter_count
from fedrec.simulations import local_grid
from fedrec.simulations.harness import simulate
from fedrec.vision import model_registry
from fedrec.vision.backbones import backbone_files
from fedrec.vision.backbones.adding import add_backbone
from fedrec.vision.synthetic import generate, write
from tests.support.inline import InlineWorker
from tests.support.vision_transformers import (
    ADD_OPTIONS,
    ARCHITECTURE,
    BLOCKS,
    SIDE,
    WIDTH,
    encoded,
    written_weights,
)

pytest.importorskip("timm")
OPTIONS = ["--size", SIDE, "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]


pytestmark = pytest.mark.usefixtures("data_folder")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written_weights(tmp_path / "vit.safetensors")


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["backbone", *map(str, arguments)], catch_exceptions=True)
    if isinstance(done.exception, FedrecError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_weights_are_added_under_a_hash_of_file_and_architecture(file: Path, data_folder: Path) -> None:
    told = run("add", file, "--name", "tiny", "--architecture", ARCHITECTURE, *OPTIONS)
    kept = backbone_files.read("tiny")
    assert kept is not None and kept.architecture == ARCHITECTURE
    assert [(layer.name, layer.length) for layer in kept.layers] == [("final", WIDTH)]
    assert (kept.attentions, kept.file_sha256) == (BLOCKS, hashlib.sha256(file.read_bytes()).hexdigest())
    assert hashlib.sha256(kept.canonical_bytes()).hexdigest() == kept.code
    assert told.startswith(f"tiny-head and tiny-lora: {ARCHITECTURE}, {SIDE} pixels, final ({WIDTH})")
    assert (data_folder / "tiny" / "network.safetensors").read_bytes() == file.read_bytes()
    assert kept.code != kept.model_copy(update={"architecture": "test_vit2"}).code
    for name in ("tiny-head", "tiny-lora"):
        assert name in model_registry.names() and model_registry.code_of(name) == kept.code


@pytest.mark.usefixtures("no_process")
def test_the_listed_command_adds_the_same_weights_elsewhere(file: Path) -> None:
    told = run("add", file, "--name", "tiny", "--architecture", ARCHITECTURE, "--rank", 2, *OPTIONS)
    spec = model_registry.get("tiny-lora")
    model = spec.build(classes=5, channels=3, size=SIDE, seed=0)
    assert parameter_count(model) == BLOCKS // 3 * 2 * 2 * WIDTH + 6 * WIDTH
    run("remove", "tiny")
    assert "tiny-lora" not in model_registry.names()
    command = told.splitlines()[-1].partition("fedrec backbone ")[2].replace("FILE", str(file)).split()
    assert "--code" in command and run(*command) == told


@pytest.mark.usefixtures("no_process")
def test_a_model_is_one_as_long_as_its_backbone_is_so_that_runs_share_their_inputs(file: Path) -> None:
    arguments = ("add", file, "--name", "vit", "--architecture", ARCHITECTURE, *OPTIONS)
    run(*arguments)
    found = {name: model_registry.get(name) for name in ("vit-head", "vit-lora")}
    assert all(model_registry.get(name) is spec for name, spec in found.items())
    run("remove", "vit")
    run(*arguments, "--adapted-blocks", 3)
    assert all(model_registry.get(name) != spec for name, spec in found.items())


@pytest.mark.usefixtures("no_process")
def test_the_last_blocks_to_adapt_are_part_of_the_hash(file: Path) -> None:
    codes = set()
    for number, adapted in enumerate((None, 2, 1, BLOCKS)):
        arguments = [] if adapted is None else ["--adapted-blocks", adapted]
        told = run("add", file, "--name", f"n{number}", "--architecture", ARCHITECTURE, *arguments, *OPTIONS)
        kept = backbone_files.read(f"n{number}")
        assert kept is not None and kept.adapted_blocks == (adapted or 2)
        codes.add(kept.model_copy(update={"name": "n"}).code)
        assert f"--adapted-blocks {adapted or 2} " in told
        shape = model_registry.get(f"n{number}-lora").record_shape(3, SIDE)
        if adapted == BLOCKS:
            assert "adapts  all 6 blocks, from pictures" in told and shape == (3, SIDE, SIDE)
        else:
            assert f"adapts  the last {adapted or 2} of 6 blocks, from 5 tokens of 64 numbers: 1 kB" in told
            assert shape == (5, WIDTH)
    assert len(codes) == 3


@pytest.mark.usefixtures("no_process")
def test_check_shows_what_a_file_holds(file: Path, data_folder: Path) -> None:
    told = run("check", file, "--architecture", ARCHITECTURE, "--size", SIDE)
    assert hashlib.sha256(file.read_bytes()).hexdigest() in told
    assert f"{BLOCKS} attention layers" in told and f"output final: {WIDTH} features" in told
    assert not data_folder.exists()


@pytest.mark.usefixtures("no_process")
def test_what_does_not_fit_adds_nothing(file: Path, data_folder: Path, tmp_path: Path) -> None:
    named = ["--architecture", ARCHITECTURE]
    pickled = tmp_path / "weights.bin"
    pickled.write_bytes(b"\x80\x04\x95" + b"x" * 100)
    for path, arguments, message in (
        (file, [], "holds weights alone: name the network that they are of by --architecture"),
        (file, ["--architecture", "no_such"], "timm has no architecture 'no_such'"),
        (file, ["--architecture", "hf-hub:timm/test_vit"], "--architecture"),
        (file, ["--architecture", "resnet18"], "can't be a backbone: it lacks conv1.weight"),
        (file, [*named, "--size", 64], "give the --size it was made for"),
        (file, [*named, "--adapted-blocks", 7], "--adapted-blocks: the network has 6 blocks, not 7"),
        (file, [*named, "--adapted-blocks", 0], "--adapted-blocks "),
        (file, ["--adapted-blocks", 1], "--adapted-blocks is for fine-tuning"),
        (file, [*named, "--layer", "tokens"], "choose different outputs of final"),
        (file, [*named, "--sha256", "ab" * 32], "has the SHA-256"),
        (pickled, named, "no safetensors file"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            run("add", path, "--name", "tiny", *OPTIONS, *arguments)
        assert "\n" not in str(caught.value)
    assert not list(data_folder.glob("*"))


@pytest.mark.usefixtures("no_process")
def test_a_head_on_weights_from_a_file_is_trained_to_its_report(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = add_backbone(file, backbone_files.pictures_of(name="tiny", **ADD_OPTIONS))
    plan, report = trained(made.model, tmp_path, monkeypatch)
    assert (plan["model_code"], plan["dimension"]) == (made.code, WIDTH * 6)
    assert [line["opened"] for line in report["rounds"]] == [True, True]


def trained(
    model: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a model on a few pictures with encryption, and load it; returns plan and report."""
    clothes = folder / "clothes"
    write(generate(merchants=3, per_merchant=3, size=24, seed=2, validation=3, test=0), clothes)
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)
    options: dict[str, object] = {"data": clothes, "partition": "folder", "model": model, "rounds": 2}
    options |= {"seed": 1, "workers": 1, "device": "cpu", "out": folder / "run", "delta": 1e-2}
    result = simulate(load_config(None, options))
    assert load_model(result.folder).network is not None
    return tuple(json.loads((result.folder / name).read_text()) for name in ("plan.json", "report.json"))


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(("adapted", "values"), [(2, 5 * WIDTH), (BLOCKS, 3 * SIDE**2)])
def test_fine_tuning_is_trained_to_its_report(
    adapted: int, values: int, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ADD_OPTIONS | {"adapted_blocks": adapted}
    made = add_backbone(file, backbone_files.pictures_of(name="tiny", **options))
    plan, report = trained("tiny-lora", tmp_path, monkeypatch)
    assert (plan["model_code"], plan["channels"], plan["image_size"]) == (made.code, 3, SIDE)
    assert (plan["dimension"], plan["record_values"]) == (adapted * 2 * 8 * WIDTH + 6 * WIDTH, values)
    model = load_model(tmp_path / "run")
    assert model.probabilities(np.zeros((2, SIDE, SIDE, 3), dtype=np.uint8)).shape == (2, 5)
    assert [line["opened"] for line in report["rounds"]] == [True, True]


@pytest.mark.usefixtures("no_process")
def test_fine_tuning_takes_its_own_pictures_and_the_file_that_was_added(
    file: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ADD_OPTIONS | {"adapted_blocks": BLOCKS}
    add_backbone(file, backbone_files.pictures_of(name="tiny", **options))
    spec = model_registry.get("tiny-lora")
    assert (spec.channels, spec.image_size, spec.record_shape(3, SIDE)) == (3, SIDE, (3, SIDE, SIDE))
    for channels, size in ((1, SIDE), (3, 64)):
        with pytest.raises(ConfigError, match=f"takes colour pictures of {SIDE} pixels a side, not {size}"):
            count_from_shapes(lambda: spec.build(classes=2, channels=channels, size=size, seed=0))  # noqa: B023
    path = data_folder / "tiny" / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    # Shapes are counted without the file; whoever would compute with it finds that it has changed.
    assert count_from_shapes(lambda: spec.build(classes=2, channels=3, size=SIDE, seed=0)) > 0
    for use in (spec.check, lambda: spec.build(classes=2, channels=3, size=SIDE, seed=0)):
        with pytest.raises(ConfigError, match="is missing or damaged: run 'fedrec backbone remove tiny'"):
            use()
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="timm"):
        spec.check()


@pytest.mark.usefixtures("no_process")
def test_a_backbone_without_plain_attention_gives_a_head_alone(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path = tmp_path / "resnet.safetensors"
    path.write_bytes(encoded(timm.create_model("test_resnet").state_dict()))
    options = ADD_OPTIONS | {"architecture": "test_resnet"}
    made = add_backbone(path, backbone_files.pictures_of(name="net", **options))
    assert made.models == ("net-head",) and "net-lora" not in model_registry.names()
    assert model_registry.code_of("net-lora") is None
    with pytest.raises(ConfigError, match="there is no model 'net-lora'"):
        model_registry.get("net-lora")
    with pytest.raises(ConfigError, match="isn't a plain vision transformer"):
        run("add", path, "--name", "b", "--architecture", "test_resnet", "--adapted-blocks", 1, *OPTIONS)
