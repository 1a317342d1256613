"""Exported graphs compute what their networks compute, whatever kind of model it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.api.user_model import user_model_spec
from fedrec.errors import ConfigError
from fedrec.recognition.bundle.photo_inputs import prepared
from fedrec.recognition.bundle.session import Session
from fedrec.recognition.export.bundles import Bundle, exported, make_bundle, write_bundle
from fedrec.recognition.export.comparison import _as_trained, check_temperature, compared, public_photos
from fedrec.recognition.export.pixel_graph import PixelGraph, opened_last_layer
from fedrec.recognition.export.sources import Source, backbone_source
from fedrec.recognition.export.traced import CLASS_PART, BundleGraph, traced
from fedrec.recognition.model import open_model
from fedrec.vision import model_registry
from fedrec.vision.backbones.adding import add_backbone
from fedrec.vision.backbones.backbone_files import pictures_of
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.normalisation import normalise
from tests.support import vision_transformers
from tests.support.bundles import tiny_manifest
from tests.support.networks import ADD_OPTIONS, written
from tests.vision.backbones.conftest import data_folder, no_process  # noqa: F401

NAMES = ("a", "b", "c")


class TwoHeads(nn.Module):
    """Ends with something else than a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        return F.log_softmax(self.first(images).mean(dim=(2, 3)), dim=1)


class Pooled(nn.Module):
    """Ends as a residual network does: with the mean over places, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.scores = nn.Linear(6, 3)

    def maps(self, images: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(images))))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.scores(F.adaptive_avg_pool2d(self.maps(images), 1).flatten(1))
        return scores


def source_of(spec: ModelSpec, *, channels: int = 3, size: int = 16, seed: int = 1) -> Source:
    network = spec.build(classes=len(NAMES), channels=channels, size=size, seed=seed).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    known = tiny_manifest(b"graph")
    return Source(
        spec,
        InputShape(channels, size),
        network,
        classes=NAMES,
        training=known.training,
        privacy=known.privacy,
    )


@pytest.fixture(scope="module")
def tanh() -> tuple[Source, Bundle]:
    """A small network on grey pictures, and its bundle."""
    source = source_of(model_registry.get("cnn-tanh"), channels=1)
    return source, make_bundle(source)


def independent(source: Source, graph: bytes, pictures: dict[str, Any]) -> dict[str, np.ndarray]:
    """Run a graph by onnxruntime alone, all photos at once."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    found = session.run(names, pictures)
    return {name: np.asarray(each) for name, each in zip(names, found, strict=True)}


@pytest.mark.parametrize(
    ("spec", "method"),
    [
        (None, "occlusion"),
        (user_model_spec(Pooled), "exact"),
        pytest.param(model_registry.get("resnet18"), "exact", marks=pytest.mark.slow),
        (user_model_spec(TwoHeads), "occlusion"),
    ],
    ids=["cnn-tanh", "pooled", "resnet18", "own"],
)
def test_a_network_on_pictures(spec: ModelSpec | None, method: str, tanh: tuple[Source, Bundle]) -> None:
    source = tanh[0] if spec is None else source_of(spec)
    made = tanh[1] if spec is None else make_bundle(source)
    assert made.manifest.evidence == method and made.manifest.checked.largest_difference < 1e-5
    pictures = prepared(made.manifest.inputs, public_photos(5))
    found = independent(source, made.graph, pictures)

    assert source.network is not None
    images = normalise(
        torch.from_numpy(next(iter(pictures.values()))), mean=source.spec.mean, std=source.spec.std
    )
    with torch.no_grad():
        scores = source.network(images)
    probabilities = torch.softmax(scores, dim=1).numpy()
    assert found["scores"] == pytest.approx(scores.numpy(), abs=1e-4)
    assert found["probabilities"] == pytest.approx(probabilities, abs=1e-5)
    assert np.linalg.norm(found["embedding"], axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    # The class part of the embedding.
    tail = found["embedding"][:, -len(NAMES) :] * np.sqrt(1 + CLASS_PART**2) / CLASS_PART
    assert tail == pytest.approx(np.sqrt(probabilities), abs=1e-4)
    if method == "exact":
        maps = next(value for name, value in found.items() if name.startswith("evidence_"))
        assert maps.mean(axis=(2, 3)) + found["offset"] == pytest.approx(found["scores"], abs=1e-4)


def test_the_embedding_is_what_the_last_layer_takes() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    example = torch.rand(2, 3, 2, 2)
    opened, length = opened_last_layer(network, example)
    assert opened is not None and length == 5
    assert torch.equal(opened(example)[:, :5], network[:3](example))
    assert opened_last_layer(nn.Sequential(network, nn.Softmax(dim=1)), example) == (None, 0)


@pytest.mark.usefixtures("data_folder", "no_process")
@pytest.mark.parametrize("layer", ["map", pytest.param("tokens", marks=pytest.mark.slow)])
def test_an_added_graph_becomes_a_part_of_the_graph(tmp_path: Path, layer: str) -> None:
    options: dict[str, Any] = {"name": "tiny"} | ADD_OPTIONS | {"views": ("crop", "flip", "squash")}
    add_backbone(written(tmp_path / "vit.onnx"), pictures_of(**options), layers=[layer])
    made = make_bundle(source_of(model_registry.get("tiny-head")))
    assert made.manifest.graph.one_photo
    # Only a map has places.
    assert made.manifest.evidence == ("exact" if layer == "map" else "occlusion")
    model = open_model(stored(made, tmp_path / "bundle"))
    if layer == "map":
        outputs = model.outputs(public_photos(1)[0])
        summed = outputs.offset + sum(maps.mean(axis=(2, 3)) for maps in outputs.evidence.values())
        assert summed == pytest.approx(outputs.scores, abs=1e-4)
    alone = make_bundle(backbone_source("tiny-head"))
    assert not alone.manifest.classes and alone.manifest.embedding == model.dimension - len(NAMES)


def stored(made: Bundle, folder: Path) -> Path:
    write_bundle(made, folder)
    return folder


def test_one_model_makes_one_file_and_a_written_bundle_is_never_replaced(
    tmp_path: Path, tanh: tuple[Source, Bundle]
) -> None:
    source, made = tanh
    assert exported(source, temperature=1.0)[0] == made.graph
    folder = stored(made, tmp_path / "m")
    with pytest.raises(ConfigError, match="exists"):
        write_bundle(made, folder)
    assert sorted(each.name for each in folder.iterdir()) == ["README.md", "model.json", "model.onnx"]
    assert [each.name for each in tmp_path.iterdir()] == ["m"]


def test_what_depends_on_weights_alone_is_computed_at_export() -> None:
    """Sessions of a bundle compute nothing while they are loaded, so that they would do it for each photo."""
    made = exported(source_of(model_registry.get("cnn-ws")), temperature=1.0)[0]
    graph = onnx.load_model_from_string(made).graph
    known = {each.name for each in graph.initializer}
    assert not [node.op_type for node in graph.node if known.issuperset(node.input)]


def test_a_graph_that_computes_something_else_is_not_written(tanh: tuple[Source, Bundle]) -> None:
    made = tanh[1]
    other = source_of(model_registry.get("cnn-tanh"), channels=1, seed=2)
    session = Session(made.graph, inputs=made.manifest.inputs, classes=len(NAMES))
    with pytest.raises(ConfigError, match="differ"):
        compared(other, session, public_photos(3))


def test_the_temperature_changes_probabilities_alone(tanh: tuple[Source, Bundle]) -> None:
    source = tanh[0]
    graph, inputs = exported(source, temperature=4.0)
    found = independent(source, graph, prepared(inputs, public_photos(3)))
    expected = torch.softmax(torch.from_numpy(found["scores"]) / 4, dim=1).numpy()
    assert found["probabilities"] == pytest.approx(expected, abs=1e-6)
    plain, changed = (Session(each, inputs=inputs, classes=len(NAMES)) for each in (tanh[1].graph, graph))
    check_temperature(plain, changed, public_photos(3), temperature=4.0)
    for one, temperature in ((changed, 3.0), (plain, 4.0)):
        with pytest.raises(ConfigError, match="doesn't compute"):
            check_temperature(plain, one, public_photos(3), temperature=temperature)


@pytest.mark.usefixtures("data_folder", "no_process")
def test_a_network_fine_tuned_from_tokens_is_exported_from_pictures(tmp_path: Path) -> None:
    path = vision_transformers.written_weights(tmp_path / "vit.safetensors")
    options = vision_transformers.ADD_OPTIONS | {"adapted_blocks": 1}
    add_backbone(path, pictures_of(name="tiny", **options))
    spec = model_registry.get("tiny-lora")
    source = source_of(spec, size=vision_transformers.SIDE)
    assert source.network is not None
    graph = PixelGraph(spec, source.shape, spec.on_pictures(source.network)).eval()
    photos = public_photos(3)
    with torch.no_grad():
        given = [prepared(graph.inputs, [photo])[graph.inputs[0].name] for photo in photos]
        found = graph(torch.from_numpy(np.concatenate(given)))
    assert found.vectors.shape == (3, vision_transformers.WIDTH)
    # The comparison before a bundle is written computes tokens by the extractor of the training.
    np.testing.assert_allclose(torch.softmax(found.scores, dim=1), _as_trained(source, photos), atol=1e-5)


def test_a_stop_while_torch_exports_is_no_failure_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object, **options: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            # As torch does with whatever ends its work.
            raise RuntimeError("Failed to export the model") from error

    monkeypatch.setattr(torch.onnx, "export", stopped)
    graph = BundleGraph(nn.Identity(), temperature=1.0)
    with pytest.raises(KeyboardInterrupt):
        traced(graph, [torch.zeros(1, 3)], names=["x"], outputs=["y"], opset=18)
