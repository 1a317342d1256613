"""Fine-tuning EfficientNet-Lite0's last convolution: its gradients, and the same network in two parts."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.config import load_config
from fedrec.privacy.dp.book_keeping import covers
from fedrec.privacy.dp.centred_features import centred_features
from fedrec.privacy.dp.clipping import RecordClipper, clipped_sum
from fedrec.privacy.dp.feature_sum import clipped_feature_sum
from fedrec.privacy.dp.vectors import (
    load_parameter_vector,
    named_parameters,
    parameter_count,
    parameter_vector,
    trainable,
)
from fedrec.recognition.bundle.photo_inputs import prepared
from fedrec.recognition.export.bundles import make_bundle, write_bundle
from fedrec.recognition.export.comparison import _as_trained, public_photos
from fedrec.recognition.export.pixel_graph import PixelGraph
from fedrec.recognition.export.sources import Source, trained_source
from fedrec.recognition.model import open_model
from fedrec.simulations import local_grid
from fedrec.simulations.harness import simulate
from fedrec.vision import model_registry
from fedrec.vision.backbones.efficientnet_lite import LITE0, LITE2
from fedrec.vision.backbones.lite_blocks import LAST, FrozenBlocks
from fedrec.vision.backbones.precision import extraction_dtype
from fedrec.vision.datasets import open_folder
from fedrec.vision.feature_cache import default_cache_dir, drop_features
from fedrec.vision.imageset import ImageSet
from fedrec.vision.model_inputs import input_shape, model_inputs, to_inputs
from fedrec.vision.models.lora_convolution import FineTunedConvolution
from fedrec.vision.normalisation import normalise
from fedrec.vision.synthetic import generate, write
from fedrec.vision.transforms import to_model_input
from tests.support.inline import InlineWorker
from tests.support.layer_gradients import assert_each_layer_takes_part

package = pytest.importorskip("efficientnet_lite_pytorch")
NAME = "effnet-lite0-lora"
CLASSES, RANK, SIDE = 3, 4, 96
FROZEN = FrozenBlocks(LITE0, SIDE)
CLIP = 0.2


def tuned(*, seed: int = 0, alpha: float = 2.0, moved: bool = True) -> FineTunedConvolution:
    """A fine-tuned model; unless it is as it starts, away from where the gradients of B are zero."""
    frozen = FROZEN.last_convolution()
    model = FineTunedConvolution(frozen, classes=CLASSES, name=LAST, rank=RANK, alpha=alpha)
    if moved:
        start = parameter_vector(model)
        load_parameter_vector(model, start + 0.3 * np.random.default_rng(seed).standard_normal(start.size))
    return model


@cache
def records(count: int, views: int = 1) -> tuple[Tensor, Tensor]:
    """Tokens and labels."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(count, views, *FROZEN.shape, generator=generator).half()
    return tokens, torch.randint(0, CLASSES, (count,), generator=generator)


def loop(model: nn.Module, inputs: Tensor, labels: Tensor, *, clip: float, passes: int) -> np.ndarray:
    """Autograd once per record, in passes of ``passes`` records of which the others have no loss."""
    total = np.zeros(parameter_count(model))
    for views, label in zip(inputs, labels, strict=True):
        scores = model(views.repeat(passes, 1, 1))[: len(views)]
        loss = F.cross_entropy(scores, label.expand(len(views)))
        parts = torch.autograd.grad(loss, trainable(model), materialize_grads=True)
        gradient = np.concatenate([part.double().flatten().numpy() for part in parts])
        total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    return total


@pytest.mark.parametrize(("views", "clip"), [(1, 1e6), (2, 0.05)])
def test_clipped_sums_from_cached_tokens_equal_the_loop_over_records(views: int, clip: float) -> None:
    model, (inputs, labels) = tuned(), records(5, views)
    assert covers(model)
    chosen = torch.tensor([4, 0, 3])
    with RecordClipper(model, clip=clip, physical_batch=4 * views) as clipper:
        ours = clipper.clipped_sum(inputs, labels, chosen=chosen)
    expected = loop(model, inputs[chosen], labels[chosen], clip=clip, passes=4)
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)


def test_clipped_sums_equal_the_loop_in_float64() -> None:
    model, (inputs, labels) = tuned().double(), records(4, 2)
    ours = clipped_sum(model, inputs.double(), labels, clip=0.5)
    expected = loop(model, inputs.double(), labels, clip=0.5, passes=1)
    assert np.linalg.norm(ours - expected) <= 1e-9 * np.linalg.norm(expected)
    assert_each_layer_takes_part(model, expected)


def test_a_contribution_does_not_depend_on_place_or_company_by_one_bit() -> None:
    model, (inputs, labels) = tuned(), records(5)

    def summed(chosen: list[int]) -> np.ndarray:
        return clipped_sum(model, inputs[chosen], labels[chosen], clip=0.5, physical_batch=4)

    one = [summed([index]) for index in range(5)]
    for gone in (None, 0, 4):
        left = [index for index in range(5) if index != gone]
        expected = np.sum([one[index] for index in left], axis=0)
        assert np.linalg.norm(summed(left) - expected) <= 1e-13 * np.linalg.norm(expected)


def test_only_the_changes_and_the_head_are_trained_and_the_frozen_weights_are_shared() -> None:
    model = tuned(moved=False)
    trained = named_parameters(model)
    assert {name: value.size for name, value in trained.items()} == {
        "head.centring.mean": 1280,
        "head.scores.weight": 1280 * CLASSES,
        "convolution.up.weight": 1280 * RANK,
    }
    before = {name: value.clone() for name, value in model.state_dict().items() if name not in trained}
    inputs, labels = records(4)
    load_parameter_vector(model, parameter_vector(model) - clipped_sum(model, inputs, labels, clip=1.0))
    assert before and all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    other = dict(tuned().named_parameters())
    for name, parameter in model.named_parameters():
        shared = parameter.data_ptr() == other[name].data_ptr()
        assert shared == (not parameter.requires_grad and "down" not in name), name


def test_the_change_is_the_low_rank_product_with_public_signs() -> None:
    layer = tuned().convolution
    drawn = int.from_bytes(hashlib.shake_256(b"fedrec/lora/1 _conv_head").digest(RANK * 320 // 8), "big")
    signs = [2.0 * (drawn >> place & 1) - 1.0 for place in reversed(range(RANK * 320))]
    down = torch.tensor(signs).reshape(RANK, 320) * 320**-0.5
    assert torch.equal(layer.down.weight, down)
    maps = torch.randn(2, 320, 3, 3, generator=torch.Generator().manual_seed(0))
    weight = layer.weight + 2.0 / RANK * layer.up.weight @ down
    expected = F.conv2d(maps, weight[:, :, None, None], layer.bias)
    found = layer(maps.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(2, 1280, 3, 3)
    torch.testing.assert_close(found, expected)


def by_formula(model: FineTunedConvolution, tokens: Tensor, label: Tensor) -> np.ndarray:
    """The gradient of one record's loss, of the scores written out in float64; the mean has none."""
    parts = {name: value.detach().double() for name, value in model.named_parameters()}
    layer, mean = "convolution", parts["head.centring.mean"]

    def loss(up: Tensor, head: Tensor) -> Tensor:
        weight = parts[f"{layer}.weight"] + 0.5 / 2 * up @ parts[f"{layer}.down.weight"]
        vector = (tokens.double() @ weight.T + parts[f"{layer}.bias"]).clamp(0, 6).mean(dim=0)
        vector = vector / vector.norm() - mean
        return F.cross_entropy((head @ (vector / vector.norm()))[None], label[None])

    names = (f"{layer}.up.weight", "head.scores.weight")
    gradients = torch.func.grad(loss, argnums=(0, 1))(*(parts[name] for name in names))
    found: dict[str, Tensor] = dict(zip(names, gradients, strict=True))
    order = [name for name, value in model.named_parameters() if value.requires_grad]
    return np.concatenate([found.get(name, torch.zeros(1280)).flatten().numpy() for name in order])


@cache
def photo_maps() -> tuple[Tensor, Tensor]:
    """What enters the last convolution of the packaged model, for eight pictures, and their labels."""
    spec = model_registry.get(NAME)
    assert spec.tokens is not None
    pictures = generate(merchants=1, per_merchant=8, size=224, seed=5, validation=0, test=0).train
    images = np.stack([np.asarray(pictures.image(index)) for index in range(8)])
    tokens = torch.from_numpy(spec.tokens.extractor(dtype=torch.float32)(images)).half()
    return tokens.reshape(8, 1, 49, 320), torch.tensor(pictures.labels)


def packaged(moved: float) -> nn.Module:
    """The packaged model after a step of some length."""
    model = model_registry.get(NAME).build(classes=10, channels=3, size=224, seed=0)
    start = parameter_vector(model)
    load_parameter_vector(model, start + moved * np.random.default_rng(1).standard_normal(start.size))
    return model


def test_each_photo_of_the_packaged_model_adds_its_own_gradient_and_never_more_than_the_clip() -> None:
    (inputs, labels), model = photo_maps(), packaged(0.05)
    assert isinstance(model, FineTunedConvolution)
    with RecordClipper(model, clip=CLIP) as clipper:
        whole = clipper.clipped_sum(inputs, labels)
        each = [clipper.clipped_sum(inputs, labels, chosen=torch.tensor([index])) for index in range(8)]
    for index, found in enumerate(each):
        gradient = by_formula(model, inputs[index, 0], labels[index])
        expected = gradient * min(1.0, CLIP / np.linalg.norm(gradient))
        assert np.linalg.norm(found - expected) <= 1e-5 * CLIP
        assert np.linalg.norm(found) <= CLIP * (1 + 2.0**-16)
    assert np.linalg.norm(whole - np.sum(each, axis=0)) <= 1e-13


@pytest.mark.parametrize("moved", [0.05, 1e38])
def test_no_map_whatever_adds_more_than_the_clip_or_changes_what_others_add(moved: float) -> None:
    (inputs, labels), model = photo_maps(), packaged(moved)
    inputs = inputs.clone()
    # Of a photo whose maps a damaged machine might make: the largest numbers, none, and no numbers at all.
    for index, value in enumerate((torch.nan, torch.inf, -torch.inf, 65504.0, -65504.0, 0.0)):
        inputs[index] = value
    inputs[6, 0, 0, 0] = torch.nan

    def gradients(chosen: list[int]) -> np.ndarray:
        return clipped_sum(model, inputs[chosen], labels[chosen], clip=CLIP)

    def vectors(chosen: list[int]) -> np.ndarray:
        return clipped_feature_sum(centred_features(model, inputs[chosen]), clip=CLIP)

    for sums in (gradients, vectors):
        each = np.stack([sums([index]) for index in range(8)])
        assert np.linalg.norm(each, axis=1).max() <= CLIP * (1 + 2.0**-16)
        assert not each[[0, 6]].any()
        for gone in (None, 0, 3):
            left = [index for index in range(8) if index != gone]
            assert np.linalg.norm(sums(left) - each[left].sum(axis=0)) <= 1e-13
    # Photos as they are keep the whole norm in the sum that releases the mean.
    assert np.linalg.norm(vectors([7])) == pytest.approx(CLIP)


@pytest.mark.parametrize(("network", "size"), [(LITE0, SIDE), (LITE2, 75)])
def test_the_two_parts_are_the_package_s_own_network(network: Any, size: int) -> None:
    """With batch norms and paddings as they are; lite2 has sides that its strides don't divide."""
    whole = package.EfficientNet.from_name(network.name, image_size=size)
    whole.load_state_dict(torch.load(network.weights_path(), weights_only=True))
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    frozen = FrozenBlocks(network, size)
    with torch.no_grad():
        pixels = torch.from_numpy((images.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
        expected = whole.eval().extract_features(pixels)
        tokens = torch.from_numpy(frozen.extractor(dtype=torch.float32)(images)).reshape(2, *frozen.shape)
        model = FineTunedConvolution(frozen.last_convolution(), classes=CLASSES, name=LAST)
        found, completed = model.maps(tokens), frozen.on_pictures(model).maps(pixels)
        assert not model(tokens).any()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(completed, expected, rtol=1e-4, atol=1e-4)
    unchanged = F.normalize(expected.mean(dim=(2, 3)), dim=1)
    torch.testing.assert_close(
        centred_features(model, tokens[:, None])[:, 0], unchanged, rtol=1e-4, atol=1e-5
    )


@pytest.fixture
def clothes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine photos of three merchants, and four to evaluate on; with an empty cache."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    write(generate(merchants=3, per_merchant=3, size=48, seed=3, validation=4, test=0), tmp_path / "clothes")
    return tmp_path / "clothes"


def inputs_of(photos: ImageSet) -> Tensor:
    spec = model_registry.get(NAME)
    taken = model_inputs(photos, spec, input_shape(photos, spec), views=1, progress=lambda done, total: None)
    return to_inputs(taken, spec)


def test_scores_from_cached_tokens_are_those_on_pictures_and_tokens_are_forgotten(clothes: Path) -> None:
    photos, spec = open_folder(clothes).train, model_registry.get(NAME)
    tokens = inputs_of(photos)
    assert (tokens.shape, tokens.dtype) == ((9, 1, 49, 320), torch.float16)
    model = spec.build(classes=CLASSES, channels=3, size=224, seed=0)
    start = parameter_vector(model)
    load_parameter_vector(model, start + 0.1 * np.random.default_rng(0).standard_normal(start.size))
    pixels = np.stack([to_model_input(photos.image(index), size=224, channels=3) for index in range(9)])
    with torch.no_grad():
        found = model(tokens[:, 0])
        pictures = normalise(torch.from_numpy(pixels), mean=spec.mean, std=spec.std)
        expected = spec.on_pictures(model)(pictures)
    # Where the processor multiplies bfloat16, tokens have eight digits.
    assert (found - expected).abs().max() < (
        0.05 if extraction_dtype() == torch.bfloat16 else 2e-3
    ) * expected.std()
    drop_features({photos.records[3].digest}, cache_dir=default_cache_dir())
    (file,) = default_cache_dir().iterdir()
    assert tokens[3].numpy().tobytes() not in file.read_bytes()
    assert tokens[4].numpy().tobytes() in file.read_bytes()


@pytest.fixture
def trained(clothes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The model of a private training of three rounds, the first of which releases the mean."""
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)
    options: dict[str, object] = {"data": clothes, "partition": "folder", "model": NAME, "rounds": 3}
    options |= {"seed": 1, "workers": 1, "device": "cpu", "out": tmp_path / "run", "delta": 1e-3}
    source = trained_source(simulate(load_config(None, options)).folder)
    assert source.network is not None
    assert all(np.abs(values).max() > 0 for values in named_parameters(source.network).values())
    return source


def test_each_place_of_a_photo_has_its_share_of_a_trained_model_s_scores(trained: Source) -> None:
    assert trained.network is not None
    graph = PixelGraph(trained.spec, trained.shape, trained.spec.on_pictures(trained.network)).eval()
    photos = public_photos(3)
    with torch.no_grad():
        found = graph(torch.from_numpy(np.concatenate([*prepared(graph.inputs, photos).values()])))
    assert found.vectors.shape == (3, 1280) and found.offset is not None
    (shares,) = found.evidence
    torch.testing.assert_close(found.offset + shares.mean(dim=(2, 3)), found.scores, rtol=0, atol=1e-5)
    # The comparison before a bundle is written computes tokens by the extractor of the training.
    np.testing.assert_allclose(torch.softmax(found.scores, dim=1), _as_trained(trained, photos), atol=1e-5)


@pytest.mark.slow
def test_its_bundle_answers_as_the_network_with_exact_evidence(trained: Source, tmp_path: Path) -> None:
    write_bundle(make_bundle(trained), tmp_path / "bundle")
    model = open_model(tmp_path / "bundle")
    assert model.manifest.evidence == "exact" and model.manifest.checked.largest_difference < 1e-5
    outputs = model.outputs(public_photos(1)[0])
    (shares,) = outputs.evidence.values()
    assert shares.shape[-2:] == (7, 7)
    assert outputs.offset + shares.mean(axis=(2, 3)) == pytest.approx(outputs.scores, abs=1e-4)
