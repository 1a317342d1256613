"""Models: independent per-record gradients, seeded weights, sizes counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedrec.errors import ConfigError
from fedrec.privacy.dp.book_keeping import covers
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.vectors import trainable
from fedrec.vision import model_registry
from fedrec.vision.models.layers import WSConv2d

SMALL = {"cnn": (1, 12), "cnn-ws": (1, 12), "cnn-tanh": (1, 14), "resnet18": (3, 16)}
STEPPED = tuple(name for name in model_registry.names() if not model_registry.is_solved(name))
"""Models that are trained by gradients."""
HEADS = tuple(name for name in model_registry.names() if model_registry.get(name).features is not None)


def small_input(name: str, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = model_registry.get(name).record_shape(*SMALL.get(name, (3, 224)))
    inputs = torch.randn(count, *shape, generator=generator)
    return F.normalize(inputs, dim=1) if len(shape) == 1 else inputs


def small_model(name: str, *, seed: int = 3) -> nn.Module:
    channels, size = SMALL.get(name, (3, 224))
    return model_registry.get(name).build(classes=4, channels=channels, size=size, seed=seed)


def flat_gradient(parameter: nn.Parameter) -> np.ndarray:
    """A parameter's gradient, flat; zeros for a released mean, which no gradient reaches."""
    if parameter.grad is None:
        return np.zeros(parameter.numel())
    return parameter.grad.flatten().numpy()


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        pytest.param(name, reference, marks=[pytest.mark.slow] if name == "resnet18" else [])
        for reference in (False, True)
        for name in STEPPED
    ],
)
def test_per_record_gradients_equal_a_naive_loop(name: str, reference: bool) -> None:
    """In float64, by the book-keeping that trains them and by Opacus; a tiny clip makes all records alike."""
    inputs, labels = small_input(name, 3).double(), torch.tensor([0, 3, 1])
    model = small_model(name).double()
    assert covers(model)
    expected = []
    for index in range(len(labels)):
        model.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(inputs[index : index + 1]), labels[index : index + 1]))
        expected.append(np.concatenate([flat_gradient(parameter) for parameter in trainable(model)]))
    norms = [float(np.linalg.norm(gradient)) for gradient in expected]
    for clip in (1e9, sorted(norms)[1], 1e-3 * min(norms)):
        whole = sum(g * min(1.0, clip / norm) for g, norm in zip(expected, norms, strict=True))
        with RecordClipper(model, clip=clip, physical_batch=3, reference=reference) as clipper:
            found = clipper.clipped_sum(inputs[:, None], labels)
        assert np.linalg.norm(found - whole) <= 1e-9 * np.linalg.norm(whole)


@pytest.mark.parametrize("name", model_registry.names())
def test_one_record_never_touches_anothers_scores(name: str) -> None:
    model, inputs = small_model(name).double(), small_input(name, 3).double()
    changed = inputs.clone()
    changed[2] = changed[2] * -7 + 1
    torch.testing.assert_close(model(inputs)[:2], model(changed)[:2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", model_registry.names())
def test_nothing_works_in_place(name: str) -> None:
    model, inputs = small_model(name), small_input(name, 2)
    before = inputs.clone()
    versions: list[tuple[torch.Tensor, int]] = []

    def remember(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        versions.append((output, output._version))

    for module in model.modules():
        module.register_forward_hook(remember)
    model(inputs)
    assert torch.equal(before, inputs)
    assert versions
    assert all(tensor._version == version for tensor, version in versions)


def test_a_standardised_weight_has_no_mean_and_no_scale() -> None:
    layer = WSConv2d(3, 5, 3, padding=1)
    inputs = torch.randn(2, 3, 6, 6)
    before = layer(inputs)
    used = layer.standardised().flatten(1)
    torch.testing.assert_close(used.mean(dim=1), torch.zeros(5), rtol=0, atol=1e-6)
    torch.testing.assert_close(used.std(dim=1, correction=0), torch.ones(5), rtol=1e-3, atol=0)
    with torch.no_grad():
        layer.weight.mul_(40).add_(3)
    torch.testing.assert_close(layer(inputs), before, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["cnn", "cnn-ws", "cnn-tanh", "resnet18"])
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = torch.cat([value.flatten() for value in small_model(name, seed=7).state_dict().values()])
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again = torch.cat([value.flatten() for value in small_model(name, seed=7).state_dict().values()])
    other = torch.cat([value.flatten() for value in small_model(name, seed=8).state_dict().values()])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_parameter_counts() -> None:
    def count(name: str, *, classes: int, channels: int, size: int) -> int:
        model = model_registry.get(name).build(classes=classes, channels=channels, size=size, seed=0)
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    convolutions = (9 * 1 * 32 + 32) + 2 * 32 + (9 * 32 * 64 + 64) + 2 * 64
    linear = (7 * 7 * 64 * 128 + 128) + (128 * 10 + 10)
    assert count("cnn", classes=10, channels=1, size=28) == convolutions + linear == 421834
    tanh = (64 * 16 + 16) + (16 * 16 * 32 + 32) + (4 * 4 * 32 * 32 + 32) + (32 * 10 + 10)
    assert count("cnn-tanh", classes=10, channels=1, size=28) == tanh == 26010
    # The paper's ResNet-18 at 1,000 classes has 11,689,512; its 7x7 stem is 3x3 here.
    stem = (49 - 9) * 3 * 64
    assert count("resnet18", classes=1000, channels=3, size=64) == 11689512 - stem
    lengths = {
        "effnet-lite0-head": 1280,
        "lite0-views-head": 1280,
        "lite2-views-head": 1280,
        "lite0-lite2-views-head": 2560,
        "lite0-small-head": 1280 + 784,
        "scattering-head": 3969,
        "scattering-lite0-head": 3969 + 1280 + 784,
    }
    discriminants = {name for name in HEADS if name not in STEPPED}
    assert {name: count(name, classes=10, channels=3, size=224) for name in HEADS} == {
        **{name: length + length * 10 for name, length in lengths.items()},
        **dict.fromkeys(discriminants, 384 * 10 + 10 + 384 * 385 // 2),
    }
    assert discriminants == {
        model_registry.get(name).one_round for name in STEPPED if model_registry.get(name).one_round
    }


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 9), (3, 33)])
def test_cnn_takes_any_size_from_eight(channels: int, size: int) -> None:
    model = model_registry.get("cnn").build(classes=3, channels=channels, size=size, seed=0)
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 3)


@pytest.mark.parametrize(("channels", "size"), [(1, 14), (3, 15), (3, 32), (1, 65)])
def test_the_tanh_cnn_takes_any_size_from_fourteen(channels: int, size: int) -> None:
    model = model_registry.get("cnn-tanh").build(classes=3, channels=channels, size=size, seed=0)
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 3)


def test_resnet_sees_sixteen_places_in_its_last_stage() -> None:
    model = model_registry.get("resnet18").build(classes=3, channels=3, size=64, seed=0)
    seen: list[torch.Size] = []
    model.get_submodule("blocks").register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert seen == [torch.Size([1, 512, 4, 4])]


@pytest.mark.parametrize("name", HEADS)
def test_a_head_starts_at_zero(name: str) -> None:
    assert all(not parameter.any() for parameter in small_model(name).parameters())


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="cnn, cnn-ws, cnn-tanh, resnet18, effnet-lite0-head"):
        model_registry.get("vgg")
    with pytest.raises(ConfigError, match="8 pixels"):
        model_registry.get("cnn").build(classes=2, channels=1, size=7, seed=0)
    with pytest.raises(ConfigError, match="14 pixels"):
        model_registry.get("cnn-tanh").build(classes=2, channels=1, size=13, seed=0)
    with pytest.raises(ConfigError, match="16 pixels"):
        model_registry.get("resnet18").build(classes=2, channels=3, size=15, seed=0)
    with pytest.raises(ConfigError, match="not 4"):
        model_registry.get("cnn").build(classes=2, channels=4, size=8, seed=0)
    with pytest.raises(ConfigError, match="2\\*\\*63"):
        model_registry.get("cnn").build(classes=2, channels=1, size=8, seed=-1)
    for name in model_registry.names():
        spec = model_registry.get(name)
        with pytest.raises(ConfigError, match="at least one class"):
            spec.build(classes=0, channels=3, size=spec.image_size or 64, seed=0)


def test_defaults_are_usable() -> None:
    for name in model_registry.names():
        defaults = model_registry.get(name).defaults
        assert defaults.rounds >= 1
        assert 0 < defaults.sample_rate <= 1
        assert defaults.clip > 0
        assert defaults.learning_rate > 0
        assert 0 <= defaults.momentum < 1
        assert 0 <= defaults.ema < 1
