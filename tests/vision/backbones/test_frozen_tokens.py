"""Fine-tuning the last blocks from cached tokens: the same function as from pictures, and no remains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from torch import nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.vectors import load_parameter_vector, parameter_vector
from fedrec.vision import features, model_registry
from fedrec.vision.backbones import backbone_files
from fedrec.vision.backbones.adding import add_backbone
from fedrec.vision.backbones.backbone_files import Preparation
from fedrec.vision.backbones.weights_files import architecture, layers, split
from fedrec.vision.datasets import open_folder
from fedrec.vision.feature_cache import default_cache_dir, drop_features
from fedrec.vision.imageset import ImageSet
from fedrec.vision.model_inputs import input_shape, model_inputs, to_inputs
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.normalisation import normalise
from fedrec.vision.synthetic import generate, write
from fedrec.vision.transforms import augmented_views, to_model_input
from tests.support.vision_transformers import ADD_OPTIONS, BLOCKS, SIDE, WIDTH, tiny_network, written_weights

pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("data_folder", "no_process")
ADAPTED, TOKENS = 2, 5


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preparation:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    path = written_weights(tmp_path / "vit.safetensors")
    options = ADD_OPTIONS | {"adapted_blocks": ADAPTED}
    return add_backbone(path, backbone_files.pictures_of(name="tiny", **options))


@pytest.fixture
def photos(tmp_path: Path) -> ImageSet:
    write(generate(merchants=1, per_merchant=7, size=48, seed=3, validation=0, test=0), tmp_path / "clothes")
    return open_folder(tmp_path / "clothes").train


def inputs_of(photos: ImageSet, spec: ModelSpec, *, views: int = 1) -> torch.Tensor:
    taken = model_inputs(
        photos, spec, input_shape(photos, spec), views=views, progress=lambda done, total: None
    )
    return to_inputs(taken, spec)


def moved(model: nn.Module) -> nn.Module:
    """Move a model away from its start, where no block is adapted and all scores are zero."""
    start = parameter_vector(model)
    load_parameter_vector(model, start + 0.3 * np.random.default_rng(0).standard_normal(start.size))
    return model.eval()


def test_scores_from_cached_tokens_are_those_of_the_whole_network_on_pictures(
    made: Preparation, photos: ImageSet
) -> None:
    spec = model_registry.get("tiny-lora")
    model = moved(spec.build(classes=3, channels=3, size=SIDE, seed=0))
    tokens = inputs_of(photos, spec)
    assert (tokens.shape, tokens.dtype) == ((7, 1, TOKENS, WIDTH), torch.float16)
    # The same adapted blocks in the network that adapts all of them from pictures, the others unchanged.
    whole = model_registry._fine_tuned("tiny-lora", made.model_copy(update={"adapted_blocks": BLOCKS}))
    reference = whole.build(classes=3, channels=3, size=SIDE, seed=1).eval()
    left_out = reference.load_state_dict(model.state_dict(), strict=False)
    assert not left_out.unexpected_keys
    assert {name for name in left_out.missing_keys if "query" in name} == {
        f"network.blocks.{block}.attn.qkv.query.weight" for block in range(BLOCKS - ADAPTED)
    }
    with torch.no_grad():
        expected = reference(inputs_of(photos, whole)[:, 0])
        found = model(tokens[:, 0])
        completed = spec.on_pictures(model)(inputs_of(photos, whole)[:, 0])
    spread = expected.std()
    assert spread > 0.1
    assert (found - expected).abs().max() < 2e-3 * spread
    assert (completed - expected).abs().max() < 1e-5 * spread


def test_augmented_views_have_tokens_of_their_own(made: Preparation, photos: ImageSet) -> None:
    spec = model_registry.get("tiny-lora")
    found = inputs_of(photos, spec, views=3)
    pixels = np.stack([to_model_input(photos.image(index), size=SIDE, channels=3) for index in range(7)])
    varied = augmented_views(pixels, views=3, seeds=[record.digest for record in photos.records])
    pictures = normalise(torch.from_numpy(varied[2]), mean=made.mean, std=made.std)
    network = architecture.load_network(
        backbone_files.network_file(made).read_bytes(), made.architecture or "", size=SIDE
    )
    tokens: list[torch.Tensor] = []
    network.get_submodule(f"blocks.{BLOCKS - ADAPTED}").register_forward_pre_hook(
        lambda layer, given: tokens.append(given[0])
    )
    with torch.no_grad():
        layers.pooled_features(network, pictures)
    torch.testing.assert_close(found[2].float(), tokens[0], rtol=2e-3, atol=2e-3)


def test_tokens_are_cached_mapped_from_disk_and_forgotten(
    made: Preparation, photos: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = model_registry.get("tiny-lora")
    first = inputs_of(photos, spec)
    monkeypatch.setattr(split.LeadingPart, "forward", None)
    monkeypatch.setattr(features, "MAPPED_BYTES", 1)
    again = model_inputs(photos, spec, input_shape(photos, spec), views=1, progress=lambda done, total: None)
    assert isinstance(again.base, np.memmap)
    tensor = to_inputs(again, spec)
    assert torch.equal(tensor, first) and tensor.data_ptr() == again.ctypes.data
    (file,) = default_cache_dir().iterdir()
    assert file.stat().st_size < 7 * (2 * TOKENS * WIDTH + 32) + 500
    gone = photos.records[3].digest
    row = first[3].numpy().tobytes()
    assert gone in file.read_bytes() and row in file.read_bytes()
    drop_features({gone}, cache_dir=default_cache_dir())
    (file,) = default_cache_dir().iterdir()
    assert gone not in file.read_bytes() and row not in file.read_bytes()
    rest = photos.subset([index for index in range(7) if index != 3])
    assert torch.equal(inputs_of(rest, spec), first[[0, 1, 2, 4, 5, 6]])


def test_networks_that_cannot_be_split_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    assert split.block_count(tiny_network()) == 2
    assert split.block_count(timm.create_model("test_resnet")) == 0
    other = tiny_network()
    other.__class__ = type("Other", (type(other),), {"forward_features": lambda self, pictures: pictures})
    assert split.block_count(other) == 0
    split.check_split(tiny_network().eval(), blocks=1, size=32)
    monkeypatch.setattr(split, "following_features", lambda network, tokens: tokens[:, 0])
    with pytest.raises(ConfigError, match="can't be computed apart"):
        split.check_split(tiny_network().eval(), blocks=1, size=32)
