"""Fine-tuning a vision transformer by LoRA: what is trained, and its per-record gradients against a loop."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.errors import ConfigError
from fedrec.privacy.dp.book_keeping import covers
from fedrec.privacy.dp.calibration import NoiseRequest, plan_noise
from fedrec.privacy.dp.centred_features import centred_features
from fedrec.privacy.dp.clipping import RecordClipper, clipped_sum
from fedrec.privacy.dp.step import DpSgdSettings, contribute_mean
from fedrec.privacy.dp.vectors import (
    count_from_shapes,
    load_parameter_vector,
    named_parameters,
    parameter_count,
    parameter_vector,
    trainable,
)
from fedrec.privacy.randomness import Randomness
from fedrec.vision.backbones.weights_files.layers import pooled_features
from fedrec.vision.models.centred_head import Centring, mean_coordinates
from fedrec.vision.models.lora import FineTuned, LowRankQueryValue
from tests.support.layer_gradients import assert_each_layer_takes_part
from tests.support.vision_transformers import tiny_network

WIDTH, BLOCKS, CLASSES = 32, 2, 3
PARAMETERS = BLOCKS * 2 * 4 * WIDTH + (1 + CLASSES) * WIDTH
"""At rank 4: the matrix B of query and of value in each block, the mean, and the head."""


def tuned(*, seed: int = 0, rank: int = 4, alpha: float = 2.0, moved: bool = True) -> FineTuned:
    """A fine-tuned network; unless it is as it starts, away from where all gradients of A are zero."""
    network = tiny_network()
    torch.manual_seed(seed)
    model = FineTuned(network, classes=CLASSES, dimension=WIDTH, rank=rank, alpha=alpha)
    if moved:
        load_parameter_vector(
            model, parameter_vector(model) + 0.3 * np.random.default_rng(seed).standard_normal(PARAMETERS)
        )
    return model


def records(count: int, views: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, views, 3, 32, 32, generator=generator),
        torch.randint(0, CLASSES, (count,), generator=generator),
    )


def loop(model: nn.Module, inputs: Tensor, labels: Tensor, *, clip: float, passes: int) -> np.ndarray:
    """Autograd once per record, in passes of ``passes`` records of which the others have no loss."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = np.zeros(sum(parameter.numel() for parameter in parameters))
    # No gradient of the loss reaches the mean.
    for views, label in zip(inputs, labels, strict=True):
        logits = model(views.repeat(passes, 1, 1, 1))[: len(views)]
        loss = F.cross_entropy(logits, label.expand(len(views)))
        gradient = np.concatenate(
            [
                part.double().flatten().numpy()
                for part in torch.autograd.grad(loss, parameters, materialize_grads=True)
            ]
        )
        total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    return total


@settings(max_examples=8, deadline=None)
@given(
    count=st.integers(1, 6), views=st.integers(1, 3), clip=st.sampled_from([0.01, 1.0, 1e6]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_clipped_sums_equal_the_loop_over_records(count: int, views: int, clip: float, seed: int) -> None:
    model, (inputs, labels) = tuned(seed=seed), records(count, views, seed)
    ours = clipped_sum(model, inputs, labels, clip=clip, physical_batch=4 * views)
    expected = loop(model, inputs, labels, clip=clip, passes=4)
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)


def test_clipped_sums_equal_the_loop_in_float64_and_opacus() -> None:
    model, (inputs, labels) = tuned(), records(5, 2)
    assert covers(model)
    with RecordClipper(model, clip=0.5, reference=True) as clipper:
        by_opacus = clipper.clipped_sum(inputs, labels)
    ours = clipped_sum(model, inputs, labels, clip=0.5)
    assert np.linalg.norm(ours - by_opacus) <= 1e-5 * np.linalg.norm(by_opacus)
    model.double()
    exact = clipped_sum(model, inputs.double(), labels, clip=0.5)
    expected = loop(model, inputs.double(), labels, clip=0.5, passes=1)
    assert np.linalg.norm(exact - expected) <= 1e-9 * np.linalg.norm(expected)
    assert_each_layer_takes_part(model, expected)


def test_clipped_sums_from_tokens_equal_the_loop_over_records() -> None:
    """Of the last block alone, from half-precision tokens, of chosen records."""
    model = FineTuned(
        tiny_network(), classes=CLASSES, dimension=WIDTH, rank=4, alpha=2.0, frozen_blocks=BLOCKS - 1
    )
    start = parameter_vector(model)
    load_parameter_vector(model, start + 0.3 * np.random.default_rng(0).standard_normal(start.size))
    assert covers(model)
    tokens = torch.randn(7, 2, 17, WIDTH, generator=torch.Generator().manual_seed(0)).half()
    labels, chosen = torch.arange(7) % CLASSES, torch.tensor([6, 0, 3, 4, 2])
    for clip in (0.05, 1e6):
        with RecordClipper(model, clip=clip, physical_batch=8) as clipper:
            ours = clipper.clipped_sum(tokens, labels, chosen=chosen)
        total = np.zeros_like(ours)
        for place in chosen:
            scores = model(tokens[place].float().repeat(4, 1, 1))[:2]
            loss = F.cross_entropy(scores, labels[place].expand(2))
            parts = torch.autograd.grad(loss, list(trainable(model)), materialize_grads=True)
            gradient = np.concatenate([part.double().flatten().numpy() for part in parts])
            total += gradient * min(1.0, clip / np.linalg.norm(gradient))
        assert np.linalg.norm(ours - total) <= 1e-5 * np.linalg.norm(total) > 0


def test_a_contribution_does_not_depend_on_place_or_company_by_one_bit() -> None:
    model, (inputs, labels) = tuned(), records(7)

    def summed(chosen: list[int]) -> np.ndarray:
        return clipped_sum(model, inputs[chosen], labels[chosen], clip=0.5, physical_batch=4)

    one = [summed([index]) for index in range(7)]
    for gone in (None, 0, 3, 6):
        left = [index for index in range(7) if index != gone]
        expected = np.sum([one[index] for index in left], axis=0)
        assert np.linalg.norm(summed(left) - expected) <= 1e-13 * np.linalg.norm(expected)


def test_only_the_changes_and_the_head_are_trained_and_counted() -> None:
    model = tuned(moved=False)
    trained = named_parameters(model)
    assert set(trained) == {
        "head.centring.mean",
        "head.scores.weight",
        *(
            f"network.blocks.{block}.attn.qkv.{part}.weight"
            for block in range(BLOCKS)
            for part in ("query", "value")
        ),
    }
    assert parameter_count(model) == PARAMETERS == len(parameter_vector(model))
    assert (
        count_from_shapes(lambda: FineTuned(tiny_network(), classes=CLASSES, dimension=WIDTH, rank=4))
        == PARAMETERS
    )
    before = {name: value.clone() for name, value in model.state_dict().items() if name not in trained}
    inputs, labels = records(4)
    total = clipped_sum(model, inputs, labels, clip=1.0)
    load_parameter_vector(model, parameter_vector(model) - total)
    assert before and all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_it_starts_as_the_frozen_network_whatever_the_seed() -> None:
    pictures = records(3)[0][:, 0]
    model = tuned(moved=False).eval()
    with torch.no_grad():
        frozen = pooled_features(tiny_network().eval(), pictures)
        assert torch.equal(pooled_features(model.network, pictures), frozen)
        assert not model(pictures).any()
    for name, value in tuned(moved=False, seed=1).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_the_fixed_matrices_are_public_signs_of_their_layer_s_name() -> None:
    network = tuned(moved=False).network
    weights = [network.get_parameter(f"blocks.{block}.attn.qkv.down.weight") for block in range(BLOCKS)]
    assert all(torch.equal(weight.abs(), torch.full((8, WIDTH), WIDTH**-0.5)) for weight in weights)
    drawn = int.from_bytes(hashlib.shake_256(b"fedrec/lora/1 blocks.1.attn").digest(WIDTH), "big")
    expected = [drawn >> place & 1 for place in reversed(range(8 * WIDTH))]
    assert (weights[1].flatten() > 0).int().tolist() == expected
    assert 0.3 < (weights[0] == weights[1]).float().mean() < 0.7


def test_a_change_is_the_low_rank_product_in_query_and_value_alone() -> None:
    layer = tuned(rank=4, alpha=2.0).network.get_submodule("blocks.1.attn.qkv")
    assert isinstance(layer, LowRankQueryValue)
    tokens = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    down, up = layer.down.weight, torch.zeros(3 * WIDTH, 8)
    up[:WIDTH, :4], up[2 * WIDTH :, 4:] = layer.query.weight, layer.value.weight
    weight = layer.frozen.weight + 0.5 * up @ down
    torch.testing.assert_close(layer(tokens), F.linear(tokens, weight, layer.frozen.bias))
    assert torch.equal(layer(tokens)[..., WIDTH : 2 * WIDTH], layer.frozen(tokens)[..., WIDTH : 2 * WIDTH])


def test_a_network_without_plain_attention_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 classes and 0 attention layers"):
        FineTuned(nn.Sequential(nn.Linear(3, 3)), classes=3, dimension=3)
    with pytest.raises(ConfigError, match="0 classes and 2 attention layers"):
        FineTuned(tiny_network(), classes=0, dimension=WIDTH)


def test_the_first_round_sums_the_unchanged_network_s_features() -> None:
    """Each record's, of unit length, as the network alone gives them; views are averaged."""
    model, (inputs, _) = tuned(moved=False), records(21, 2)
    inputs[3] = float("nan")
    found = centred_features(model, inputs)
    expected = F.normalize(pooled_features(tiny_network().eval(), inputs.flatten(0, 1)), dim=1)
    torch.testing.assert_close(found, expected.reshape(21, 2, WIDTH), equal_nan=True)
    alone = torch.cat([centred_features(model, inputs[[index]]) for index in range(21)])
    assert torch.equal(found.nan_to_num(), alone.nan_to_num())
    assert torch.equal(centred_features(model, inputs, chosen=torch.tensor([20, 2, 5])), found[[20, 2, 5]])
    # Kernels that compute a view's last digits otherwise in another place: no view shares its pass then.
    first = next(layer for layer in model.modules() if isinstance(layer, Centring))
    handle = first.register_forward_pre_hook(
        lambda layer, given: (given[0] * (1 + 1e-6 * torch.arange(len(given[0]))[:, None]),)
    )
    uneven = centred_features(model, inputs).nan_to_num()
    assert torch.equal(uneven, centred_features(model, inputs.flip(0)).flip(0).nan_to_num())
    handle.remove()
    assert centred_features(model, inputs[:0]).shape == (0, 1, WIDTH)
    plan = plan_noise(NoiseRequest(
        mode="off", epsilon=None, noise_multiplier=None, delta=1e-5, sample_rate=1.0, steps=3,
        dimension=PARAMETERS, clip=0.2, cohort=4, min_contributors=4, colluders=1, records_per_merchant=99,
    ))  # fmt: skip
    values = contribute_mean(
        model, inputs, settings=DpSgdSettings(clip=0.2, sample_rate=1.0), plan=plan, rng=Randomness.seeded(2)
    )
    where = mean_coordinates(model)
    assert where is not None
    total = found[[index for index in range(21) if index != 3]].mean(dim=1).sum(dim=0)
    np.testing.assert_allclose(values[where] / plan.scale, total, atol=1e-2)
    assert not np.delete(values, np.arange(PARAMETERS)[where]).any()
