"""The statistics of a discriminant: one vector a record, clipped to the sensitivity of a gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError
from fedrec.privacy.dp.bounds import FLOAT_SLACK
from fedrec.privacy.dp.calibration import NoisePlan, NoiseRequest, plan_noise
from fedrec.privacy.dp.class_statistics import (
    RECORD_NORM,
    ClassStatistics,
    clipped_statistics_sum,
    pack_statistics,
    statistics_length,
    unpack_statistics,
)
from fedrec.privacy.dp.step import DpSgdSettings, contribute_statistics
from fedrec.privacy.dp.vectors import parameter_count
from fedrec.privacy.randomness import Randomness
from fedrec.vision.models.discriminant_head import DiscriminantHead

CLASSES, K = 3, 4
LENGTH = CLASSES * K + CLASSES + K * (K + 1) // 2


def records(n: int, *, views: int = 1, scale: float = 1.0, k: int = K) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n + views)
    inputs = scale * torch.randn(n, views, k, generator=generator)
    return inputs, torch.randint(0, CLASSES, (n,), generator=generator)


def naive_vector(record: np.ndarray, label: int) -> np.ndarray:
    """One record's statistic by the definition, coordinate by coordinate, scaled to norm 1."""
    mean = record.mean(axis=0)
    z = mean / np.linalg.norm(mean)
    coordinates = [2.0 * z[i] * (c == label) for c in range(CLASSES) for i in range(len(z))]
    coordinates += [0.6 * (c == label) for c in range(CLASSES)]
    for i in range(len(z)):
        for j in range(i, len(z)):
            coordinates.append(z[i] * z[j] * (1.0 if i == j else math.sqrt(2.0)))
    return np.array(coordinates) / math.sqrt(4.0 + 0.36 + 1.0)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("views", [1, 3])
def test_the_sum_is_that_of_a_loop_over_records_and_coordinates(scale: float, views: int) -> None:
    inputs, labels = records(9, views=views, scale=scale)
    expected = sum(
        0.5 * naive_vector(record, int(label))
        for record, label in zip(inputs.double().numpy(), labels, strict=True)
    )
    found = clipped_statistics_sum(inputs, labels, classes=CLASSES, clip=0.5)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_unpacking_inverts_packing_and_gives_the_sums_themselves() -> None:
    inputs, labels = records(30)
    z = torch.nn.functional.normalize(inputs[:, 0].double(), dim=1).numpy()
    gram, sums, counts = np.zeros((K, K)), np.zeros((CLASSES, K)), np.zeros(CLASSES)
    for row, label in zip(z, labels, strict=True):
        sums[label] += row
        counts[label] += 1
        for i in range(K):
            for j in range(K):
                gram[i, j] += row[i] * row[j]
    packed = clipped_statistics_sum(inputs, labels, classes=CLASSES, clip=1.0) * RECORD_NORM
    found = unpack_statistics(packed, classes=CLASSES, dimension=K)
    np.testing.assert_allclose(found.gram, gram, atol=1e-10)
    np.testing.assert_allclose(found.sums, sums, atol=1e-10)
    np.testing.assert_allclose(found.counts, counts, atol=1e-10)
    np.testing.assert_allclose(pack_statistics(found), packed, atol=1e-12)
    assert statistics_length(classes=CLASSES, dimension=K) == LENGTH == len(packed)


def test_a_packed_gram_matrix_keeps_its_norm() -> None:
    matrix = np.random.default_rng(0).normal(size=(K, K))
    matrix = matrix + matrix.T
    packed = pack_statistics(ClassStatistics(np.zeros((CLASSES, K)), np.zeros(CLASSES), matrix))
    assert np.linalg.norm(packed) == pytest.approx(np.linalg.norm(matrix))


def test_no_record_of_ten_thousand_has_more_than_the_clip() -> None:
    """One at a time, with lengths from 1e-6 to 1e6: the norm never exceeds the clip, and reaches it."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(10_000, 2, K, generator=generator)
    inputs *= 10 ** (12 * torch.rand(10_000, 1, 1, generator=generator) - 6)
    norms = [
        np.linalg.norm(clipped_statistics_sum(inputs[i : i + 1], torch.tensor([i % 3]), classes=3, clip=1.0))
        for i in range(len(inputs))
    ]
    assert max(norms) <= 1.0 + FLOAT_SLACK / 100
    assert min(norms) >= 1.0 - 1e-9


@given(
    st.lists(st.floats(width=32), min_size=2 * K, max_size=2 * K),
    st.integers(0, CLASSES - 1),
    st.integers(0, 3),
    st.sampled_from([1e-6, 0.2, 1e6]),
)
@settings(max_examples=200, deadline=None)
def test_one_record_moves_the_sum_by_the_clip_at_most(
    values: list[float], label: int, others: int, clip: float
) -> None:
    """Whatever floats the record's two views hold, infinities, NaN and tiny numbers included."""
    rest, labels = records(others, views=2)
    own = torch.tensor(values, dtype=torch.float32).reshape(1, 2, K)
    with_it = clipped_statistics_sum(
        torch.cat([own, rest]), torch.cat([torch.tensor([label]), labels]), classes=CLASSES, clip=clip
    )
    moved = with_it - clipped_statistics_sum(rest, labels, classes=CLASSES, clip=clip)
    assert np.isfinite(moved).all()
    assert np.linalg.norm(moved) <= clip * (1 + 1e-9)


def test_features_that_are_not_finite_count_as_no_record() -> None:
    inputs, labels = records(3)
    inputs[1, 0, 0] = math.nan
    found = clipped_statistics_sum(inputs, labels, classes=CLASSES, clip=1.0)
    kept = torch.tensor([0, 2])
    np.testing.assert_allclose(
        found, clipped_statistics_sum(inputs[kept], labels[kept], classes=CLASSES, clip=1.0)
    )


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (torch.zeros(2, K), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, K), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 1, K), torch.tensor([0, CLASSES])),
        (torch.zeros(2, 1, K), torch.tensor([-1, 0])),
    ],
)
def test_what_does_not_fit_is_refused(inputs: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="class statistics"):
        clipped_statistics_sum(inputs, labels, classes=CLASSES, clip=1.0)


def noise(dimension: int, *, records_: int) -> NoisePlan:
    return plan_noise(NoiseRequest(
        mode="distributed", epsilon=None, noise_multiplier=2.0, delta=1e-5, sample_rate=1.0, steps=1,
        dimension=dimension, clip=1.0, cohort=4, min_contributors=4, colluders=1,
        records_per_merchant=records_,
    ))  # fmt: skip


def test_a_contribution_is_the_sum_with_the_noise_of_any_step_and_nothing_is_clamped() -> None:
    """All records alike: every coordinate's sum is as large as that many records can make it."""
    k, count = 20, 2000
    model = DiscriminantHead(classes=CLASSES, dimension=k)
    plan = noise(parameter_count(model), records_=count)
    inputs = torch.ones(count, 1, k)
    labels = torch.zeros(count, dtype=torch.int64)
    values = contribute_statistics(
        model, inputs, labels,
        settings=DpSgdSettings(clip=1.0, sample_rate=1.0), plan=plan, rng=Randomness.seeded(1),
    )  # fmt: skip
    expected = clipped_statistics_sum(inputs, labels, classes=CLASSES, clip=1.0) * plan.scale
    assert expected.max() > 100 * plan.scale
    off = values - expected
    assert np.abs(off).max() < 6 * plan.share_std
    assert np.std(off) == pytest.approx(plan.share_std, rel=0.15)


def test_a_model_takes_features_of_its_own_length_and_no_records_give_noise_alone() -> None:
    model = DiscriminantHead(classes=CLASSES, dimension=K)
    plan = noise(LENGTH, records_=50)
    arguments = {"settings": DpSgdSettings(clip=1.0, sample_rate=1.0), "plan": plan}
    inputs, labels = records(5, k=K + 1)
    with pytest.raises(ConfigError, match="the model takes 4"):
        contribute_statistics(model, inputs, labels, rng=Randomness.seeded(1), **arguments)  # type: ignore[arg-type]
    values = contribute_statistics(
        model, torch.zeros(0, 1, 1), labels[:0], rng=Randomness.seeded(1), **arguments  # type: ignore[arg-type]
    )  # fmt: skip
    assert 0 < np.abs(values).max() < 6 * plan.share_std
