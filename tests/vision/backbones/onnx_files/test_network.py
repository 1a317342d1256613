"""A network from a file: each picture is computed alone, and tried within limits before it is added."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper

from fedrec.errors import ConfigError
from fedrec.vision.backbones.efficientnet_lite import LITE2
from fedrec.vision.backbones.onnx_files.graph_check import check_graph
from fedrec.vision.backbones.onnx_files.network import OnnxNetwork, open_session
from fedrec.vision.backbones.trial import Trial, _checked_lengths, try_network
from fedrec.vision.synthetic import generate
from tests.support.networks import (
    SIDE,
    WIDTH,
    changed,
    integers,
    mean_of_colours,
    vision_transformer,
    written,
)

HALF = (0.5, 0.5, 0.5)
node = helper.make_node


def opened(model: ModelProto, layers: Sequence[str] = ("features",)) -> OnnxNetwork:
    data = changed(lambda model: None, model)
    check_graph(data)
    return OnnxNetwork(open_session(data), layers=layers, mean=HALF, std=HALF)


def pictures(count: int, size: int = SIDE) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_colours_are_normalised_and_layers_pooled() -> None:
    images = pictures(2)
    loaded = OnnxNetwork(
        open_session(changed(lambda model: None, mean_of_colours())),
        layers=["features"],
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.4, 0.2),
    )
    expected = (images.mean(axis=(1, 2)) / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.4, 0.2]
    np.testing.assert_allclose(loaded(images)["features"], expected, rtol=1e-5, atol=1e-6)
    found = opened(vision_transformer(), ["features", "tokens", "map"])(images)
    assert {name: layer.shape for name, layer in found.items()} == dict.fromkeys(found, (2, WIDTH))
    np.testing.assert_allclose(found["tokens"], found["features"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found["map"], found["features"])


def test_what_a_graph_does_with_its_batch_changes_no_picture_s_features() -> None:
    """A mean over the batch would tie records together, so that clipping each would bound nothing."""
    tied = mean_of_colours(
        node("ReduceMean", ["mean", "first"], ["of_all"]),
        node("Sub", ["mean", "of_all"], ["apart"]),
        node("Add", ["apart", "of_all"], ["sum"]),
        node("Mul", ["sum", "of_all"], ["features"]),
        stored=[integers("first", 0)],
    )
    loaded, images = opened(tied), pictures(3)
    together = loaded(images)["features"]
    batch = ((images.astype(np.float32) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2)
    (as_one_batch,) = loaded._session.run(["features"], {"pictures": batch})
    assert not np.allclose(np.asarray(as_one_batch), together, atol=1e-3)
    for index in range(3):
        np.testing.assert_array_equal(loaded(images[index : index + 1])["features"][0], together[index])


def test_a_picture_without_finite_features_counts_as_zeros() -> None:
    loaded, images = opened(mean_of_colours(node("Sqrt", ["mean"], ["features"]))), pictures(2)
    images[0], images[1] = 10, 200
    found = loaded(images)["features"]
    assert (found[0] == 0).all() and (found[1] > 0.5).all()


WRONG = {
    "isn't finite": mean_of_colours(node("Log", ["mean"], ["features"])),
    "is the same for all": mean_of_colours(node("Sub", ["mean", "mean"], ["features"])),
    "can't be computed": mean_of_colours(
        node("Reshape", ["mean", "seven"], ["features"]), stored=[integers("seven", 7)]
    ),
    "has the shape": mean_of_colours(node("Concat", ["mean", "mean"], ["features"], axis=0)),
}


@pytest.mark.parametrize("what", WRONG)
def test_networks_without_usable_features_are_refused(what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        _checked_lengths(opened(WRONG[what]), ["features"], size=SIDE)


def tried(path: Path, *layers: str) -> dict[str, int]:
    return try_network(
        Trial(path, hashlib.sha256(path.read_bytes()).hexdigest(), layers or ("features",), SIDE)
    )


def test_a_trial_finds_the_lengths_and_a_changed_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.onnx")
    assert tried(path, "features", "map") == {"features": WIDTH, "map": WIDTH}
    with pytest.raises(ConfigError, match="the file changed"):
        try_network(Trial(path, "ab" * 32, ("features",), SIDE))


@pytest.mark.parametrize("numbers", [2**31, 2**50], ids=["8 GiB", "4 PiB"])
def test_a_small_file_that_asks_for_much_memory_ends_its_trial_alone(tmp_path: Path, numbers: int) -> None:
    bomb = mean_of_colours(
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("ReduceMean", ["zeros", "first"], ["one"]),
        node("Add", ["one", "mean"], ["features"]),
        stored=[integers("shape", numbers), integers("first", 0)],
    )
    path = written(tmp_path / "bomb.onnx", bomb)
    check_graph(path.read_bytes())
    with pytest.raises(ConfigError, match=r"process that tried it ended|can't load it|can't be computed|GiB"):
        tried(path)


def test_a_trial_that_ends_without_an_answer_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.onnx")
    for answer in ("", "exit 1", "kill -SEGV $$", "echo 1", "echo '{}'"):
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\n{answer}\n")
        script.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(script))
        with pytest.raises(ConfigError, match="the process that tried it ended"):
            tried(path)


def test_the_checker_of_onnx_is_asked(tmp_path: Path) -> None:
    def wrong_attribute(model: ModelProto) -> None:
        model.graph.node[0].attribute.append(helper.make_attribute("nonsense", 1))

    path = tmp_path / "a.onnx"
    path.write_bytes(changed(wrong_attribute))
    with pytest.raises(ConfigError, match="onnx's checker refuses it"):
        tried(path)


def test_lite2_from_a_file_gives_the_features_of_the_package(tmp_path: Path) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    whole = package.EfficientNet.from_name(LITE2.name, image_size=260)
    whole.load_state_dict(torch.load(LITE2.weights_path(), weights_only=True))

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = whole

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            """Pool the last convolution."""
            pooled: torch.Tensor = self.network.extract_features(inputs).mean(dim=(2, 3))
            return pooled

    path = tmp_path / "lite2.onnx"
    torch.onnx.export(
        Pooled().eval(), (torch.zeros(1, 3, 260, 260),), str(path), output_names=["final"], dynamo=False
    )
    check_graph(path.read_bytes())
    drawn = generate(merchants=1, per_merchant=3, size=64, seed=4, validation=0, test=0).train
    images = np.stack([np.asarray(drawn.image(index).resize((260, 260))) for index in range(3)])
    mean, std = 127 / 255, 128 / 255
    loaded = OnnxNetwork(
        open_session(path.read_bytes()), layers=["final"], mean=(mean, mean, mean), std=(std, std, std)
    )
    expected = LITE2.load(size=260, dtype=torch.float32)(images)["final"]
    assert np.abs(loaded(images)["final"] - expected).max() < 1e-4 * np.abs(expected).max()
