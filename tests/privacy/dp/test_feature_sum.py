"""The round that releases features' mean: a sum of the same sensitivity as one of clipped gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.book_keeping import covers
from fedrec.privacy.dp.calibration import NoisePlan, NoiseRequest, plan_noise
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.feature_sum import clipped_feature_sum
from fedrec.privacy.dp.step import DpSgdSettings, contribute_mean
from fedrec.privacy.dp.vectors import parameter_count
from fedrec.privacy.randomness import Randomness
from fedrec.vision.models.centred_head import CentredHead, mean_coordinates


def records(n: int, *, views: int = 1, dimension: int = 5, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return scale * torch.randn(n, views, dimension, generator=generator)


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e6])
def test_the_sum_is_that_of_a_loop_over_records(scale: float) -> None:
    inputs, clip = records(9, views=2, scale=scale), 0.3
    expected = np.zeros(5)
    for record in inputs.numpy().astype(np.float64):
        vector = record.mean(axis=0)
        expected += clip * vector / max(1.0, float(np.linalg.norm(vector)))
    np.testing.assert_allclose(clipped_feature_sum(inputs, clip=clip), expected, rtol=1e-12)


@given(
    st.lists(st.floats(width=32), min_size=4, max_size=4),
    st.integers(0, 3),
    st.sampled_from([1e-6, 0.2, 1e6]),
)
@settings(max_examples=200, deadline=None)
def test_one_record_moves_the_sum_by_the_clip_at_most(values: list[float], others: int, clip: float) -> None:
    """Whatever floats the record holds, infinities and NaN included."""
    rest = records(others, dimension=4)
    own = torch.tensor(values, dtype=torch.float32).reshape(1, 1, 4)
    moved = clipped_feature_sum(torch.cat([own, rest]), clip=clip) - clipped_feature_sum(rest, clip=clip)
    assert np.isfinite(moved).all()
    assert np.linalg.norm(moved) <= clip * (1 + 1e-9)


def test_no_record_gives_zero_and_pictures_are_refused() -> None:
    assert not clipped_feature_sum(torch.zeros(0, 1, 3), clip=1.0).any()
    with pytest.raises(ConfigError, match="n, views, d"):
        clipped_feature_sum(torch.zeros(2, 1, 3, 8, 8), clip=1.0)


def test_a_gradient_of_the_head_has_nothing_in_the_mean_and_is_clipped_by_the_rest() -> None:
    torch.manual_seed(0)
    model, clip = CentredHead(classes=3, dimension=5), 0.2
    with torch.no_grad():
        model.centring.mean.copy_(torch.randn(5))
        model.scores.weight.copy_(torch.randn(3, 5))
    inputs, labels = records(20), torch.randint(0, 3, (20,))
    assert covers(model)
    with RecordClipper(model, clip=clip) as clipper:
        found = clipper.clipped_sum(inputs, labels)
    expected = np.zeros(parameter_count(model))
    for record, label in zip(inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(model(record), label[None])
        flat = torch.autograd.grad(loss, [model.scores.weight])[0].reshape(-1).double().numpy()
        expected[5:] += flat * min(1.0, clip / float(np.linalg.norm(flat)))
    assert mean_coordinates(model) == slice(0, 5)
    assert not found[:5].any()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_layers_below_the_centring_are_clipped_with_the_head() -> None:
    """A gradient reaches the centring's input then, and still nothing of it is the mean's."""
    torch.manual_seed(0)
    below, head, clip = nn.Linear(4, 5), CentredHead(classes=3, dimension=5), 0.2
    model = nn.Sequential(below, head)
    with torch.no_grad():
        head.scores.weight.copy_(torch.randn(3, 5))
    inputs, labels = records(20, views=2, dimension=4), torch.randint(0, 3, (20,))
    with RecordClipper(model, clip=clip) as clipper:
        found = clipper.clipped_sum(inputs, labels)
    expected = np.zeros(parameter_count(model))
    for views, label in zip(inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(model(views), label.expand(2))
        parts = torch.autograd.grad(loss, [below.weight, below.bias, head.scores.weight])
        flat = torch.cat([part.reshape(-1) for part in parts]).double().numpy()
        flat *= min(1.0, clip / float(np.linalg.norm(flat)))
        expected[:25] += flat[:25]
        expected[30:] += flat[25:]
    assert mean_coordinates(model) == slice(25, 30)
    assert not found[25:30].any()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_only_a_model_that_centres_has_coordinates_of_a_mean() -> None:
    assert mean_coordinates(nn.Linear(3, 2)) is None
    later = nn.Sequential(nn.Linear(4, 4), CentredHead(classes=2, dimension=4))
    assert mean_coordinates(later) == slice(20, 24)


def noise(dimension: int, *, clip: float) -> NoisePlan:
    return plan_noise(NoiseRequest(
        mode="distributed", epsilon=None, noise_multiplier=2.0, delta=1e-5, sample_rate=1.0, steps=3,
        dimension=dimension, clip=clip, cohort=4, min_contributors=4, colluders=1, records_per_merchant=50,
    ))  # fmt: skip


def test_the_round_of_the_mean_holds_the_noise_of_any_other_in_every_coordinate() -> None:
    model, settings_ = CentredHead(classes=30, dimension=40), DpSgdSettings(clip=0.2, sample_rate=1.0)
    plan = noise(parameter_count(model), clip=0.2)
    inputs = nn.functional.normalize(records(50, dimension=40), dim=2)
    values = contribute_mean(
        model, inputs,
        settings=settings_, plan=plan, rng=Randomness.seeded(3),
    )  # fmt: skip
    expected = inputs[:, 0].double().sum(0).numpy() * plan.scale
    deviation = np.std(values[40:])
    assert deviation == pytest.approx(plan.share_std, rel=0.1)
    assert np.abs(values[:40] - expected).max() < 6 * plan.share_std
    assert math.isclose(plan.sensitivity, plan.scale, rel_tol=0.2)


def test_a_model_that_centres_nothing_takes_no_mean() -> None:
    model = nn.Linear(5, 3)
    with pytest.raises(ConfigError, match="centres no features"):
        contribute_mean(
            model, records(4),
            settings=DpSgdSettings(clip=0.2, sample_rate=1.0), plan=noise(18, clip=0.2),
            rng=Randomness.seeded(1),
        )  # fmt: skip


@pytest.mark.parametrize("records_", [400, 6000])
def test_the_mean_of_features_that_point_one_way_is_not_clamped(records_: int) -> None:
    """A merchant of one class: every record has the same features, with large coordinates."""
    features, classes = 40, 3
    model = CentredHead(classes=classes, dimension=features)
    plan = plan_noise(NoiseRequest(
        mode="off", epsilon=None, noise_multiplier=None, delta=1e-5, sample_rate=1.0, steps=11,
        dimension=parameter_count(model), clip=0.2, cohort=4, min_contributors=4, colluders=1,
        records_per_merchant=records_,
    ))  # fmt: skip
    vector = nn.functional.normalize(torch.cat([torch.tensor([0.2, -0.2]), torch.full((38,), 0.15)]), dim=0)
    inputs = vector.expand(records_, 1, features)
    values = contribute_mean(
        model, inputs, settings=DpSgdSettings(clip=0.2, sample_rate=1.0), plan=plan, rng=Randomness.seeded(2)
    )
    released = values[:features] / plan.scale / records_
    np.testing.assert_allclose(released, vector.numpy(), atol=1e-3)
