"""Networks by architecture and weights: shapes are checked before memory is taken; nothing else is run."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrec._internal import extras
from fedrec.errors import ConfigError, MissingExtraError
from fedrec.vision.backbones.trial import Trial, try_here
from fedrec.vision.backbones.weights_files.architecture import check_weights, describe, load_network
from fedrec.vision.backbones.weights_files.layers import attention_layers, pooled_features, shared_copy
from fedrec.vision.backbones.weights_files.network import WeightsNetwork
from tests.support.vision_transformers import ARCHITECTURE, BLOCKS, SIDE, WIDTH, changed, encoded, weights

timm = pytest.importorskip("timm")
HALF = (0.5, 0.5, 0.5)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_features_are_those_of_timm_for_the_same_weights() -> None:
    images = pictures(3)
    found = WeightsNetwork(load_network(encoded(), ARCHITECTURE, size=SIDE), mean=(0.1, 0.2, 0.3), std=HALF)
    reference = timm.create_model(ARCHITECTURE, num_classes=0, img_size=SIDE).eval()
    reference.load_state_dict(weights())
    pixels = (torch.from_numpy(images) / 255 - torch.tensor([0.1, 0.2, 0.3])) / 0.5
    with torch.no_grad():
        expected = reference(pixels.permute(0, 3, 1, 2)).numpy()
    assert expected.shape == (3, WIDTH)
    np.testing.assert_allclose(found(images)["final"], expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_in_the_file_is_left_out_and_half_precision_is_widened() -> None:
    with_classes = {name: value.to(torch.bfloat16) for name, value in weights(classes=7).items()}
    assert "head.weight" in with_classes
    network = load_network(encoded(with_classes), ARCHITECTURE, size=SIDE)
    found = network.state_dict()
    assert "head.weight" not in found
    for name, value in found.items():
        assert value.dtype == torch.float32 and torch.equal(value, with_classes[name].float())
    assert not network.training and not any(one.requires_grad for one in network.parameters())


def test_loading_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_network(encoded(), ARCHITECTURE, size=SIDE)
    assert torch.equal(torch.rand(3), expected)


def _float_counter(tensors: dict[str, Tensor]) -> None:
    tensors["norm.bias"] = torch.zeros(WIDTH, dtype=torch.int64)


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda tensors: tensors.pop("blocks.3.attn.qkv.bias"), "it lacks blocks.3.attn.qkv.bias"),
    "unknown": (
        lambda tensors: tensors.update({"x\n.y": torch.ones(2)}),
        "it has x .y, which test_vit lacks",
    ),
    "shape": (
        lambda tensors: tensors.update({"norm.bias": torch.ones(9)}),
        "norm.bias is 9, and that of test_vit at 32 pixels is 64: give the --size it was made for",
    ),
    "type": (_float_counter, "norm.bias has the element type I64"),
}


@pytest.mark.parametrize("what", WRONG)
def test_other_tensors_than_the_architecture_s_are_refused(what: str) -> None:
    change, message = WRONG[what]
    with pytest.raises(ConfigError, match=message) as caught:
        load_network(changed(change), ARCHITECTURE, size=SIDE)
    assert "\n" not in str(caught.value)


def test_a_file_for_pictures_of_another_size_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"pos_embed is 1x5x64, and that of test_vit at 64 pixels is 1x17x64"
    ):
        check_weights(encoded(), ARCHITECTURE, size=64)


@pytest.mark.parametrize(
    "name", ["nothing", "hf-hub:timm/test_vit.r160_in1k", "local-dir:/tmp", "test_vit.r160_in1k"]
)
def test_only_names_of_the_installed_package_are_architectures(name: str) -> None:
    with pytest.raises(ConfigError, match="timm has no"):
        describe(name, size=SIDE)


def test_a_size_that_an_architecture_can_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="timm can't make gcvit_xxtiny for pictures of 8 pixels: division"):
        describe("gcvit_xxtiny", size=8)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> NoReturn:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    load_network(encoded(), ARCHITECTURE, size=SIDE)


def test_the_largest_architectures_are_described_without_their_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = encoded()
    described = describe("vit_giant_patch14_224", size=224)
    assert described.attentions == 40
    assert described.tensors["blocks.39.attn.qkv.weight"] == ((3 * 1408, 1408), True)
    # Without a check of the shapes first, this would take 4 GB for random weights.
    monkeypatch.setattr(torch.random, "fork_rng", None)
    with pytest.raises(ConfigError, match="it lacks"):
        load_network(small, "vit_giant_patch14_224", size=224)


def test_plain_attention_is_found_and_other_kinds_are_not() -> None:
    assert describe(ARCHITECTURE, size=SIDE).attentions == BLOCKS
    for name in ("resnet18", "swin_tiny_patch4_window7_224"):
        assert describe(name, size=224).attentions == 0
    layers = attention_layers(load_network(encoded(), ARCHITECTURE, size=SIDE))
    assert list(layers) == [f"blocks.{number}.attn" for number in range(BLOCKS)]


def test_networks_of_one_file_share_its_memory_and_not_their_layers() -> None:
    network = load_network(encoded(), ARCHITECTURE, size=SIDE)
    one, other = shared_copy(network), shared_copy(network)
    for name, value in network.state_dict().items():
        assert one.state_dict()[name].data_ptr() == value.data_ptr()
    attention_layers(one)["blocks.0.attn"].register_module("qkv", torch.nn.Identity())
    assert isinstance(attention_layers(other)["blocks.0.attn"].qkv, torch.nn.Linear)
    one.double()
    images = torch.zeros(1, 3, SIDE, SIDE)
    assert torch.equal(pooled_features(other, images), pooled_features(network, images))


def test_weights_that_are_not_finite_fail_their_trial(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "a.safetensors"
    path.write_bytes(changed(lambda tensors: tensors["norm.bias"].fill_(float("nan"))))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match="'final' isn't finite for every picture"):
        try_here(Trial(path, sha256, ("final",), SIDE, architecture=ARCHITECTURE))


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrec\[fine-tuning\]'"):
        check_weights(encoded(), ARCHITECTURE, size=SIDE)
