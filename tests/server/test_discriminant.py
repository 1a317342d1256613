"""The discriminant that the server solves: scikit-learn's without noise, finite for any sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fedrec.privacy.dp.class_statistics import (
    RECORD_NORM,
    clipped_statistics_sum,
    statistics_length,
)
from fedrec.privacy.dp.vectors import load_parameter_vector
from fedrec.server.discriminant import solve_discriminant, solver_of
from fedrec.vision.models.discriminant_head import DiscriminantHead

CLASSES, K = 4, 7
LENGTH = statistics_length(classes=CLASSES, dimension=K)


def data(n: int = 400, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Records of uneven classes whose features have length 1."""
    random = np.random.default_rng(seed)
    labels = random.choice(CLASSES, size=n, p=[0.5, 0.25, 0.15, 0.1])
    centres = random.normal(size=(CLASSES, K))
    features = centres[labels] + random.normal(size=(n, K)) @ random.normal(size=(K, K)) / 2
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def statistics(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    inputs = torch.from_numpy(features)[:, None]
    packed = clipped_statistics_sum(inputs, torch.from_numpy(labels), classes=CLASSES, clip=1.0)
    return packed * RECORD_NORM


def scores(parameters: np.ndarray, features: np.ndarray) -> np.ndarray:
    model = DiscriminantHead(classes=CLASSES, dimension=K).double()
    load_parameter_vector(model, parameters)
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(features)).numpy())


@pytest.mark.parametrize("solver", ["lsqr", "eigen"])
def test_without_noise_the_scores_are_those_of_scikit_learn(solver: str) -> None:
    """But for a prior of k records, which so many records outweigh."""
    features, labels = data(100_000)
    found = solve_discriminant(statistics(features, labels), classes=CLASSES, dimension=K, noise=0.0)
    theirs = LinearDiscriminantAnalysis(solver=solver, store_covariance=True).fit(features, labels)
    fresh, _ = data(seed=1)
    ours, expected = scores(found, fresh), theirs.decision_function(fresh)
    # A term that all classes share has no effect on which is the most probable, or how probable it is.
    np.testing.assert_allclose(
        ours - ours.mean(axis=1, keepdims=True), expected - expected.mean(axis=1, keepdims=True), atol=0.02
    )
    covariance = np.zeros((K, K))
    covariance[np.triu_indices(K)] = found[CLASSES * K + CLASSES :]
    np.testing.assert_allclose(covariance, np.triu(theirs.covariance_), atol=2e-5)


@pytest.mark.parametrize("noise", [0.0, 0.5, 50.0])
def test_scores_are_those_of_the_written_formulas(noise: float) -> None:
    """With noise stated but none added: the prior, means drawn together, what is taken off biases."""
    features, labels = data(4000)
    found = solve_discriminant(statistics(features, labels), classes=CLASSES, dimension=K, noise=noise)
    own = [features[labels == c] for c in range(CLASSES)]
    spread, average, of_count = 0.6 * 1000, 1000.0, noise / 0.6
    counts = [(spread**2 * len(one) + of_count**2 * average) / (spread**2 + of_count**2) for one in own]
    total, centre = sum(counts), features.sum(axis=0) / sum(counts)
    means = [one.sum(axis=0) / count for one, count in zip(own, counts, strict=True)]
    scatter = features.T @ features - sum(n * np.outer(m, m) for n, m in zip(counts, means, strict=True))
    prior = max(0.6 * noise * np.sqrt(K), np.trace(scatter) / total)
    inverse = np.linalg.inv((scatter + prior * np.eye(K)) / (total + prior * K))
    variances = [(noise / 2) ** 2 * (1 - count / total) for count in counts]
    energy = sum(np.sum((n * (m - centre)) ** 2) for n, m in zip(counts, means, strict=True))
    apart = 4 * max(energy - K * sum(variances), 0) / (K * sum(count**2 for count in counts))
    expected = []
    for count, mean, variance in zip(counts, means, variances, strict=True):
        kept = apart / (apart + variance / count**2)
        away = kept * (mean - centre)
        length = away @ inverse @ away - np.trace(inverse) * kept**2 * variance / count**2
        expected.append((features - centre) @ inverse @ away - length / 2 + np.log(count / total))
    columns = np.stack(expected, axis=1)
    ours = scores(found, features)
    np.testing.assert_allclose(
        ours - ours.mean(axis=1, keepdims=True), columns - columns.mean(axis=1, keepdims=True), atol=1e-3
    )


def test_many_classes_of_few_records_are_told_apart_under_noise() -> None:
    """Means whose noise is longer than they are: the biases that it makes would choose the class."""
    classes, dimension, each = 60, 64, 40
    random = np.random.default_rng(3)
    labels = np.repeat(np.arange(classes), each)
    centres = random.normal(size=(classes, dimension))
    records = centres[labels] + 0.8 * random.normal(size=(len(labels), dimension))
    features = records / np.linalg.norm(records, axis=1, keepdims=True)
    packed = clipped_statistics_sum(
        torch.from_numpy(features)[:, None], torch.from_numpy(labels), classes=classes, clip=1.0
    )
    noisy = packed * RECORD_NORM + 24.0 * random.normal(size=packed.shape)
    found = solve_discriminant(noisy, classes=classes, dimension=dimension, noise=24.0)
    cut = classes * dimension
    chosen = (features @ found[:cut].reshape(classes, -1).T + found[cut : cut + classes]).argmax(axis=1)
    assert (chosen == labels).mean() > 0.3


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_fewer_records_than_directions_lose_little(noise: float) -> None:
    """The covariance of so few lacks directions; the prior stands in for them."""
    random = np.random.default_rng(4)
    centres = random.normal(size=(CLASSES, 64))
    labels = random.integers(0, CLASSES, 1080)
    records = centres[labels] + 2 * random.normal(size=(1080, 64))
    features = records / np.linalg.norm(records, axis=1, keepdims=True)
    packed = clipped_statistics_sum(
        torch.from_numpy(features[:80])[:, None], torch.from_numpy(labels[:80]), classes=CLASSES, clip=1.0
    )
    found = solve_discriminant(packed * RECORD_NORM, classes=CLASSES, dimension=64, noise=noise)
    cut = CLASSES * 64
    chosen = (features[80:] @ found[:cut].reshape(CLASSES, -1).T + found[cut : cut + CLASSES]).argmax(axis=1)
    assert (chosen == labels[80:]).mean() > 0.9


def test_noise_costs_accuracy_gradually() -> None:
    features, labels = data(4000)
    exact = statistics(features, labels)
    random = np.random.default_rng(0)
    found = []
    for noise in (0.0, 3.0, 1e4):
        noisy = exact + noise * random.normal(size=exact.shape)
        parameters = solve_discriminant(noisy, classes=CLASSES, dimension=K, noise=noise)
        found.append(float((scores(parameters, features).argmax(axis=1) == labels).mean()))
    assert found[0] > 0.75
    assert found[0] - 0.02 < found[1]
    assert found[2] < found[0] - 0.1


@pytest.mark.parametrize("noise", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("value", [0.0, -1.0, -1e12, 1e12])
def test_degenerate_sums_give_finite_parameters(noise: float, value: float) -> None:
    vector = np.full(LENGTH, value)
    found = solve_discriminant(vector, classes=CLASSES, dimension=K, noise=noise)
    assert found.shape == (LENGTH,)
    assert np.isfinite(found.astype(np.float32)).all()


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=LENGTH, max_size=LENGTH), st.sampled_from([0.0, 1e-6, 1.0, 1e6])
)
@settings(max_examples=100, deadline=None)
def test_any_sum_gives_finite_parameters(values: list[float], noise: float) -> None:
    found = solve_discriminant(np.array(values), classes=CLASSES, dimension=K, noise=noise)
    assert np.isfinite(found).all()


def test_an_empty_class_is_hardly_ever_chosen() -> None:
    features, labels = data()
    kept = labels != 2
    parameters = solve_discriminant(
        statistics(features[kept], labels[kept]), classes=CLASSES, dimension=K, noise=0.0
    )
    assert np.isfinite(parameters).all()
    assert (scores(parameters, features[kept]).argmax(axis=1) == 2).mean() < 0.05


def test_only_a_discriminant_has_a_solver_and_it_takes_sums_of_unit_vectors() -> None:
    assert solver_of(torch.nn.Linear(K, CLASSES)) is None
    solve = solver_of(DiscriminantHead(classes=CLASSES, dimension=K))
    assert solve is not None
    features, labels = data()
    vector = statistics(features, labels)
    np.testing.assert_array_equal(
        solve(vector / RECORD_NORM, 0.1 / RECORD_NORM),
        solve_discriminant(
            vector / RECORD_NORM * RECORD_NORM,
            classes=CLASSES,
            dimension=K,
            noise=0.1 / RECORD_NORM * RECORD_NORM,
        ),
    )
