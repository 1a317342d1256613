"""The EfficientNet-Lite family: the package's own function, at any size, from weights that are checked."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from fedrec.errors import ConfigError, MissingExtraError
from fedrec.vision.backbones import efficientnet_lite
from fedrec.vision.backbones.backbone import SharedNetwork, ViewExtractor, unit
from fedrec.vision.backbones.efficientnet_lite import LITE0, LITE1, LITE2, EfficientNetLite
from fedrec.vision.backbones.folded_network import round_keeping_sums
from fedrec.vision.synthetic import generate

package = pytest.importorskip("efficientnet_lite_pytorch")
FAMILY = (LITE0, LITE1, LITE2)


def pictures(count: int, size: int) -> np.ndarray:
    """Photos of synthetic products, uint8 (count, size, size, 3)."""
    drawn = generate(merchants=1, per_merchant=count, size=64, seed=4, validation=0, test=0).train
    return np.stack([np.asarray(drawn.image(index).resize((size, size))) for index in range(count)])


def naive(network: EfficientNetLite, images: np.ndarray) -> dict[str, np.ndarray]:
    """The layers by the package's own network in float32, batch norms and paddings as they are."""
    whole = package.EfficientNet.from_name(network.name, image_size=images.shape[1])
    whole.load_state_dict(torch.load(network.weights_path(), weights_only=True))
    whole.eval()
    outputs: list[np.ndarray] = []
    for block in whole._blocks:
        block.register_forward_hook(lambda _m, _i, output: outputs.append(output.mean(dim=(2, 3)).numpy()))
    inputs = torch.tensor((images.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    with torch.no_grad():
        final = whole.extract_features(inputs).mean(dim=(2, 3)).numpy()
    lasts = {output.shape[1]: output for output in outputs}  # of blocks of one width, the last
    return {"final": final, "stages": np.concatenate(list(lasts.values()), axis=1)}


@pytest.mark.parametrize(("network", "size"), [(LITE0, 224), (LITE0, 84), (LITE1, 96), (LITE2, 260)])
def test_layers_are_those_of_the_unfused_network(network: EfficientNetLite, size: int) -> None:
    images = pictures(2, size)
    state = torch.get_rng_state()
    found = network.load(size=size, dtype=torch.float32)(images)
    assert torch.equal(state, torch.get_rng_state())
    expected = naive(network, images)
    assert {name: layer.shape[1] for name, layer in found.items()} == network.layers
    for name, layer in expected.items():
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - layer).max() < 1e-4 * np.abs(layer).max()


def test_the_module_that_is_exported_has_the_maps_of_the_same_layers() -> None:
    images = pictures(2, 84)
    with torch.no_grad():
        layers = LITE0.traceable(size=84)(torch.from_numpy(images))
    for layer, maps in zip(naive(LITE0, images).values(), layers, strict=True):
        pooled = torch.cat([each.mean(dim=(2, 3)) for each in maps], dim=1).numpy()
        assert np.abs(pooled - layer).max() < 1e-4 * np.abs(layer).max()


def test_bfloat16_gives_nearly_the_same_features() -> None:
    images = pictures(4, 96)
    exact = LITE0.load(size=96, dtype=torch.float32)(images)
    fast = LITE0.load(size=96, dtype=torch.bfloat16)(images)
    for name, layer in exact.items():
        assert fast[name].dtype == np.float32
        assert not np.array_equal(fast[name], layer)
        cosines = (unit(fast[name]) * unit(layer)).sum(axis=1)
        assert cosines.mean() > 0.999 and cosines.min() > 0.998


def test_rounded_filters_keep_their_sums() -> None:
    filters = torch.randn(50, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    rounded = round_keeping_sums(filters, torch.bfloat16)
    assert torch.equal(rounded, rounded.bfloat16().float())
    # To half a unit of the smallest weight, and no weight moves by more than about a unit of its own.
    assert (rounded.sum((2, 3)) - filters.sum((2, 3))).abs().max() < 1e-3
    assert ((rounded - filters).abs() <= 2**-7 * filters.abs() + 2**-8).all()
    plain = filters.bfloat16().float()
    assert (plain.sum((2, 3)) - filters.sum((2, 3))).abs().max() > 3e-3


def test_an_extractor_gives_layers_of_length_one_whatever_else_is_in_the_batch() -> None:
    shared = SharedNetwork(LITE0, size=64, dtype=torch.float32)
    extractor = ViewExtractor(shared, "wide")
    images = pictures(2, 64)
    features = extractor(images)
    assert features.shape == (2, extractor.dimension) == (2, 1280 + 784)
    np.testing.assert_allclose(np.linalg.norm(features[:, :1280], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(features[:, 1280:], axis=1), 1, rtol=1e-5)
    alone = images.copy()
    alone[1] = 0
    np.testing.assert_array_equal(extractor(alone)[0], features[0])
    assert extractor(images[:0]).shape == (0, extractor.dimension)
    for wrong in (images[:, :50], images.astype(np.float32)):
        with pytest.raises(ConfigError, match="64, 64, 3"):
            extractor(cast(Any, wrong))


@pytest.mark.parametrize("network", FAMILY, ids=lambda network: network.name)
def test_damaged_weights_are_refused(
    network: EfficientNetLite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(network.weights_hash()) == 64
    blob = bytearray(network.weights_path().read_bytes())
    blob[len(blob) // 2] ^= 1
    path = tmp_path / network.weights_path().name
    path.write_bytes(bytes(blob))
    monkeypatch.setattr(EfficientNetLite, "weights_path", lambda self: path)
    with pytest.raises(ConfigError, match=f"lite{network.variant}-.* is damaged"):
        network.weights_hash()
    with pytest.raises(ConfigError, match="is damaged"):
        network.load(size=64, dtype=torch.float32)


@pytest.mark.parametrize("network", FAMILY, ids=lambda network: network.name)
@pytest.mark.parametrize("what", ["network", "weights"])
def test_a_missing_package_says_how_to_install(
    network: EfficientNetLite, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "efficientnet_lite_pytorch" if what == "network" else network.package
    real = importlib.util.find_spec
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None if name == missing else real(name))
    name = missing.replace("_", "-")
    with pytest.raises(MissingExtraError, match=rf"{name}, .* pip install 'fedrec\[pretrained\]'"):
        network.load(size=64, dtype=torch.float32)
    with pytest.raises(MissingExtraError, match=f"needs the package {name}, "):
        network.check()
