"""A head on frozen networks as one module: what a training computes, and evidence that adds up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fedrec.recognition.bundle.photo_inputs import prepared
from fedrec.recognition.export.feature_graph import FeatureGraph
from fedrec.vision.backbones.backbone import Network
from fedrec.vision.backbones.feature_sets import Block, FeatureSet
from fedrec.vision.backbones.public_directions import ProjectedSet
from fedrec.vision.backbones.traceable import Maps
from fedrec.vision.backbones.view_names import FixedView
from fedrec.vision.models.centred_head import CentredHead
from fedrec.vision.models.discriminant_head import DiscriminantHead

SIDE, CLASSES = 12, 4


class _Net(nn.Module):
    """Convolutions of fixed random weights: a map of 5 channels, and parts of 3 channels at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.last = nn.Conv2d(3, 5, 4, stride=4)
        self.stage = nn.Conv2d(3, 3, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, pictures: Tensor) -> Maps:
        images = pictures.float().permute(0, 3, 1, 2) / 255
        stage = torch.relu(self.stage(images))
        return (torch.relu(self.last(images)),), (stage, torch.nn.functional.max_pool2d(stage, 3))


class Small:
    """A backbone for tests; ``flat`` makes its last layer all values of the map."""

    dtype = torch.float32

    def __init__(self, name: str, *, flat: bool = False) -> None:
        self.name, self.flat = name, flat

    @property
    def layers(self) -> Mapping[str, int]:
        return {"final": 45 if self.flat else 5, "stages": 6}

    def check(self) -> None:
        pass

    def weights_hash(self) -> str:
        return "00"

    def load(self, *, size: int, dtype: torch.dtype) -> Network:
        return _Pooled(self)

    def traceable(self, *, size: int) -> nn.Module:
        return _Net()

    def classifier(self) -> NDArray[np.float64]:
        return np.random.default_rng(0).standard_normal((20, 5))


class _Pooled:
    batch = 2

    def __init__(self, backbone: Small) -> None:
        self.flat = backbone.flat

    def __call__(self, images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        with torch.no_grad():
            (last,), stages = _Net()(torch.from_numpy(images))
        found = last.flatten(1) if self.flat else last.mean(dim=(2, 3))
        return {"final": found.numpy(), "stages": torch.cat([s.mean(dim=(2, 3)) for s in stages], 1).numpy()}


VIEWS: tuple[tuple[FixedView, float], ...] = (("wide", 2.0), ("squash", 1.0), ("crop", 1.0), ("flip", 0.5))


def sets() -> dict[str, FeatureSet]:
    plain, flat = Small("plain"), Small("flat", flat=True)
    four = Block(plain, size=SIDE, views=VIEWS, weight=0.7)
    stages = Block(plain, size=SIDE, views=(("wide", 1.0),), layer="stages", weight=0.4)
    return {
        "four views": FeatureSet((four,)),
        "two networks": FeatureSet((four, stages, Block(flat, size=SIDE, views=(("squash", 1.0),)))),
        "mirrored alone": FeatureSet((Block(plain, size=SIDE, views=(("flip", 1.0),)),)),
        "directions": ProjectedSet((four,), directions=3),
    }


def photos() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    sizes = ((30, 20), (12, 12), (17, 40))
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def head_of(features: FeatureSet) -> nn.Module:
    head: nn.Module = (
        DiscriminantHead(classes=CLASSES, dimension=features.dimension)
        if isinstance(features, ProjectedSet)
        else CentredHead(classes=CLASSES, dimension=features.dimension)
    )
    generator = torch.Generator().manual_seed(5)
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return head.requires_grad_(False).eval()


@pytest.mark.parametrize("name", list(sets()))
def test_scores_and_vectors_are_those_of_a_training_and_evidence_adds_up(name: str) -> None:
    features = sets()[name]
    head = head_of(features)
    graph = FeatureGraph(features, head).eval()
    pictures = prepared(graph.inputs, photos())
    outputs = graph(*[torch.from_numpy(pictures[each.name]) for each in graph.pictures])

    extracted = {
        source: np.stack([extractor(extractor.prepare(photo)[None]) for photo in photos()])
        for source, extractor in features.extractors().items()
    }
    vectors = features.combine(extracted)[:, 0]
    assert outputs.vectors.detach().numpy() == pytest.approx(vectors, abs=1e-5)
    assert torch.allclose(outputs.scores, head(torch.from_numpy(vectors)), atol=1e-4)
    assert outputs.offset is not None and len(outputs.evidence) == len(graph.inputs)
    summed = outputs.offset + sum(maps.mean(dim=(2, 3)) for maps in outputs.evidence)
    assert torch.allclose(summed, outputs.scores, atol=1e-4)


def test_evidence_lies_where_the_photo_differs_also_in_the_mirrored_view() -> None:
    features = sets()["mirrored alone"]
    head = CentredHead(classes=1, dimension=features.dimension)
    head.scores.weight.data = torch.ones_like(head.scores.weight)
    graph = FeatureGraph(features, head.requires_grad_(False)).eval()
    dark = torch.zeros((1, SIDE, SIDE, 3), dtype=torch.uint8)
    marked = dark.clone()
    marked[:, :4, :4] = 255
    change = graph(marked).evidence[0] - graph(dark).evidence[0]
    # The network sees the mark at the right; the map shows it where it stands in the photo.
    differs = (change[0, 0] - change[0, 0, 2, 2]).abs() > 1e-4
    assert differs[0, 0] and not differs[0, 2]


def test_a_backbone_alone_gives_its_vectors() -> None:
    features = sets()["two networks"]
    graph = FeatureGraph(features, None).eval()
    pictures = prepared(graph.inputs, photos())
    outputs = graph(*[torch.from_numpy(pictures[each.name]) for each in graph.pictures])
    assert outputs.scores.shape == (3, 0) and outputs.offset is None
    assert outputs.vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
