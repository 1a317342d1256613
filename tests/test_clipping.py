"""Per-record clipping against a naive loop over records."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.book_keeping import covers
from fedrec.privacy.dp.clipping import (
    RecordClipper,
    clipped_sum,
    load_parameter_vector,
    parameter_count,
    parameter_vector,
)


def _cnn(channels: int = 1, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4 * 9, 3),
    )  # fmt: skip


def _naive(model: nn.Module, inputs: Tensor, labels: Tensor, clip: float) -> np.ndarray:
    """Autograd once per record, in the plainest way."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in parameters))
    for views, label in zip(inputs, labels, strict=True):
        losses = [nn.functional.cross_entropy(model(view[None]), label[None]) for view in views]
        grads = torch.autograd.grad(sum(losses) / len(losses), parameters)
        flat = np.concatenate([g.double().flatten().numpy() for g in grads])
        total += flat * min(1.0, clip / np.linalg.norm(flat))
    return total


def _data(n: int, views: int, channels: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, views, channels, 6, 6, generator=generator)
    return inputs, torch.randint(0, 3, (n,), generator=generator)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 9),
    views=st.integers(1, 3),
    channels=st.integers(1, 3),
    batch=st.integers(1, 12),
    clip=st.sampled_from([0.05, 1.0, 3.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_equals_the_per_record_loop(
    n: int, views: int, channels: int, batch: int, clip: float, seed: int
) -> None:
    model = _cnn(channels, seed)
    inputs, labels = _data(n, views, channels, seed)
    ours = clipped_sum(model, inputs, labels, clip=clip, physical_batch=batch)
    reference = _naive(model, inputs, labels, clip)
    assert ours.dtype == np.float64
    assert np.linalg.norm(ours - reference) <= 1e-5 * np.linalg.norm(reference)


def test_views_are_averaged_before_clipping() -> None:
    model = nn.Linear(4, 2, bias=False)
    nn.init.zeros_(model.weight)
    view = torch.tensor([100.0, 0.0, 0.0, 0.0])
    # Two opposite views cancel; clipped one by one and averaged they would cancel as well, unequal ones not.
    inputs = torch.stack([view, -view / 100])[None]
    ours = clipped_sum(model, inputs, torch.tensor([0]), clip=1.0)
    assert np.linalg.norm(ours) == pytest.approx(1.0, rel=1e-6)


def test_each_record_moves_the_sum_by_at_most_the_bound() -> None:
    model = _cnn()
    inputs, labels = _data(30, 1)
    inputs = inputs * torch.logspace(-3, 6, 30).reshape(-1, 1, 1, 1, 1)
    for i in range(30):
        one = clipped_sum(model, inputs[i : i + 1], labels[i : i + 1], clip=0.1)
        assert np.linalg.norm(one) <= 0.1 * (1 + 2**-16)


def test_empty_batch_gives_zeros() -> None:
    model = _cnn()
    ours = clipped_sum(model, torch.zeros(0, 2, 1, 6, 6), torch.zeros(0, dtype=torch.int64), clip=1.0)
    assert ours.shape == (parameter_count(model),)
    assert not ours.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_broken_record_contributes_nothing(bad: float) -> None:
    model = _cnn()
    inputs, labels = _data(6, 1)
    broken = inputs.clone()
    broken[2] = bad
    if bad == 1e30:
        # GroupNorm makes any finite scale harmless, so put the overflow behind it.
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
        nn.init.constant_(model[1].weight, 1e30)
        broken[2] = 1e30 * torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    rest = [0, 1, 3, 4, 5]
    ours = clipped_sum(model, broken, labels, clip=1.0)
    without = clipped_sum(model, inputs[rest], labels[rest], clip=1.0)
    assert np.all(np.isfinite(ours))
    np.testing.assert_allclose(ours, without, rtol=1e-5, atol=1e-7)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3))
    model.train()
    model[2].eval()
    model[2].weight.grad = torch.ones(3, 36)
    before = parameter_vector(model)
    keys = [(set(vars(m)), len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    inputs, labels = _data(4, 1)
    first = clipped_sum(model, inputs, labels, clip=1.0)
    second = clipped_sum(model, inputs, labels, clip=1.0)
    np.testing.assert_array_equal(first, second)
    assert keys == [(set(vars(m)), len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    assert [m.training for m in model.modules()] == [True, True, True, False]
    assert torch.equal(model[2].weight.grad, torch.ones(3, 36))
    assert model[2].bias.grad is None
    assert not any(hasattr(p, "grad_sample") or hasattr(p, "_forward_counter") for p in model.parameters())
    np.testing.assert_array_equal(before, parameter_vector(model))


def test_a_failed_pass_leaves_no_hooks_and_no_residue() -> None:
    model = _cnn()
    inputs, labels = _data(4, 1)
    good = clipped_sum(model, inputs, labels, clip=1.0)
    with pytest.raises(IndexError):
        clipped_sum(model, inputs, labels + 100, clip=1.0)
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    np.testing.assert_array_equal(good, clipped_sum(model, inputs, labels, clip=1.0))


def test_one_clipper_serves_many_sums_and_frozen_layers_stay_out() -> None:
    model = _cnn()
    for p in model[0].parameters():
        p.requires_grad_(False)
    inputs, labels = _data(5, 2)
    with RecordClipper(model, clip=0.5, physical_batch=4) as clipper:
        for _ in range(2):
            ours = clipper.clipped_sum(inputs, labels)
            reference = _naive(model, inputs, labels, 0.5)
            assert np.linalg.norm(ours - reference) <= 1e-5 * np.linalg.norm(reference)
        with pytest.raises(IndexError):
            clipper.clipped_sum(inputs, labels + 100)
        again = clipper.clipped_sum(inputs, labels)
        np.testing.assert_array_equal(ours, again)
    with pytest.raises(ConfigError):
        clipper.clipped_sum(inputs, labels)


def test_float32_precision_settings_come_back() -> None:
    model = _cnn()
    inputs, labels = _data(2, 1)
    torch.set_float32_matmul_precision("medium")
    try:
        clipped_sum(model, inputs, labels, clip=1.0)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_refusals() -> None:
    inputs, labels = _data(2, 1)
    with pytest.raises(ConfigError):
        clipped_sum(
            nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 3)), inputs, labels, clip=1.0
        )
    for clip in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError):
            clipped_sum(_cnn(), inputs, labels, clip=clip)
    with pytest.raises(ConfigError):
        clipped_sum(_cnn(), inputs, labels[:1], clip=1.0)


def test_vectors_round_trip_in_order() -> None:
    model = _cnn()
    vector = np.arange(parameter_count(model), dtype=np.float64)
    load_parameter_vector(model, vector)
    np.testing.assert_array_equal(parameter_vector(model), vector)
    assert next(model.parameters()).flatten()[:3].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ConfigError):
        load_parameter_vector(model, vector[:-1])


@settings(max_examples=15, deadline=None)
@given(
    records=st.integers(1, 7), views=st.integers(1, 3), batch=st.integers(1, 9), seed=st.integers(0, 10**6)
)
def test_book_keeping_equals_opacus(records: int, views: int, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, dilation=2, padding=2),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
        nn.Tanh(),
        nn.Linear(5, 3, bias=False),
    )
    inputs = torch.randn(records, views, 2, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (records,), generator=generator)
    sums = []
    for reference in (False, True):
        with RecordClipper(model, clip=0.3, physical_batch=batch, reference=reference) as clipper:
            sums.append(clipper.clipped_sum(inputs, labels))
    scale = np.linalg.norm(sums[1])
    assert scale > 0
    assert np.linalg.norm(sums[0] - sums[1]) <= 1e-5 * scale


def test_layers_that_book_keeping_lacks_are_left_to_opacus() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 3))
    assert not covers(model)
    assert covers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(8, 2)))
    inputs, labels = torch.randn(5, 1, 3, 4), torch.tensor([0, 1, 2, 0, 1])
    total = clipped_sum(model, inputs, labels, clip=0.5)
    assert 0 < np.linalg.norm(total) <= 5 * 0.5 * (1 + 1e-6)
