"""Features' mean, released by the first opened round, encrypted and charged as any other step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.vectors import parameter_count
from fedrec.protocol.plan import ServerSetting, ServerUpdate, TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.server.optimizers.optimizer_registry import REGISTRY, start_weights
from fedrec.server.weights import shortened
from fedrec.vision.models.centred_head import CentredHead, mean_coordinates
from tests.support.cohort import CLASSES, FEATURES, RECORDS, Cohort, InProcessGrid, change_means

DIMENSION = FEATURES + FEATURES * CLASSES


def head(plan: TrainingPlan | None = None) -> CentredHead:
    return CentredHead(classes=CLASSES, dimension=FEATURES)


def centred(folder: Path, **changes: object) -> tuple[Cohort, TrainingPlan]:
    cohort = Cohort(folder)
    for merchant in cohort.merchants.values():
        change_means(merchant, build_model=head)
    plan = cohort.plan(
        dimension=DIMENSION, sample_rate=1.0, clip=0.2,
        initial_model_hash=sha256_hex(np.zeros(DIMENSION, "<f4").tobytes()), **changes,
    )  # fmt: skip
    return cohort, plan


def train(
    cohort: Cohort, plan: TrainingPlan, grid: InProcessGrid | None = None
) -> tuple[np.ndarray, list[bool]]:
    coordinator, records = cohort.coordinator(plan, grid, np.zeros(DIMENSION))
    update = ServerUpdate(
        optimizer="adamw", learning_rate=0.1, averaging=0.5,
        settings=tuple(
            ServerSetting(name=name, value=setting.default)
            for name, setting in REGISTRY.get("adamw").settings.items()
        ),
    )  # fmt: skip
    coordinator.weights = start_weights(
        update, np.zeros(DIMENSION), rounds=plan.rounds, mean=mean_coordinates(head())
    )
    coordinator.run()
    return coordinator.weights.reported, [record.opened for record in records]


def true_mean(cohort: Cohort) -> np.ndarray:
    """The mean of all records, each clipped to length 1: what a sum without noise gives."""
    rows = []
    for index in range(cohort.size):
        generator = torch.Generator().manual_seed(index)
        rows.append(torch.randn(RECORDS, 1, FEATURES, generator=generator)[:, 0].double().numpy())
    every = np.concatenate(rows)
    lengths = np.linalg.norm(every, axis=1, keepdims=True)
    return np.asarray((every / np.maximum(lengths, 1.0)).mean(axis=0))


def test_without_noise_the_mean_is_the_features_own_and_stays(tmp_path: Path) -> None:
    cohort, plan = centred(
        tmp_path, rounds=4, mode="off", noise_multiplier=None, scheme="none", committee=(), threshold=0
    )
    parameters, opened = train(cohort, plan)
    assert opened == [True] * 4
    np.testing.assert_allclose(parameters[:FEATURES], true_mean(cohort), atol=1e-3)
    assert np.abs(parameters[FEATURES:]).min() > 0


def test_a_mean_costs_a_round_as_any_other(tmp_path: Path) -> None:
    cohort, plan = centred(tmp_path, rounds=3)
    parameters, opened = train(cohort, plan)
    assert opened == [True] * 3
    # Noise multiplier 1 at 160 records: a coordinate of the mean is off by little more than 1 / 160.
    assert np.abs(parameters[:FEATURES] - true_mean(cohort)).max() < 0.05
    charges = [entry.charge for entry in cohort.charges("m0")]
    assert len(charges) == 3
    assert len({(c.sample_rate, c.clip, c.guaranteed_noise_multiplier, c.sensitivity) for c in charges}) == 1


def test_the_server_knows_the_noise_of_the_mean_and_shortens_it(tmp_path: Path) -> None:
    """Noise longer than any mean of features: what is subtracted from them is far shorter, and not zero."""
    cohort, plan = centred(tmp_path, rounds=1, noise_multiplier=200.0)
    coordinator, _ = cohort.coordinator(plan, None, np.zeros(DIMENSION))
    coordinator.weights.mean = mean_coordinates(head())
    seen: list[tuple[np.ndarray, float]] = []
    take = coordinator.weights.set_mean

    def watching(released: np.ndarray, *, noise: float) -> None:
        seen.append((released[:FEATURES].copy(), noise))
        take(released, noise=noise)

    coordinator.weights.set_mean = watching  # type: ignore[method-assign]
    coordinator.run()
    ((released, noise),) = seen
    planned = derive(plan).noise
    shares = cohort.size / (plan.min_contributors - plan.colluders)
    least = planned.sensitivity / planned.scale * 200.0 / plan.records_total
    assert least * 0.98 < noise < least * np.sqrt(shares) * 1.02
    energy = released @ released
    kept = max(1 - noise**2 * FEATURES / energy, 0.01)
    np.testing.assert_allclose(coordinator.weights.reported[:FEATURES], kept * released)
    assert not coordinator.weights.lacks_mean


def test_a_shortened_mean_is_nearer_to_the_true_one_than_the_noised_one_or_none() -> None:
    random = np.random.default_rng(0)
    true = random.normal(size=2000)
    true *= 0.7 / np.linalg.norm(true)
    for noise in (0.001, 0.01, 0.03, 0.1):
        noisy = true + noise * random.normal(size=true.shape)
        error = np.linalg.norm(shortened(noisy, noise=noise) - true)
        assert error < np.linalg.norm(noisy - true)
        assert error < 0.75
    np.testing.assert_array_equal(shortened(true, noise=0.0), true)
    # All of it is noise: what is left says that there was a mean, and does nothing.
    left = shortened(noisy, noise=10.0)
    assert left.any()
    assert np.linalg.norm(left) < 0.1
    assert not shortened(np.zeros(5), noise=1.0).any()


def test_a_lost_first_round_leaves_the_mean_to_the_next(tmp_path: Path) -> None:
    cohort, plan = centred(tmp_path, rounds=3)
    grid = InProcessGrid(
        cohort.app(), 4, drop=lambda kind, group, index: kind == "query.unmask" and group.endswith("1")
    )
    parameters, opened = train(cohort, plan, grid)
    assert opened == [False, True, True]
    assert np.abs(parameters[:FEATURES] - true_mean(cohort)).max() < 0.05
    assert np.abs(parameters[FEATURES:]).min() > 0


def test_the_vector_begins_with_the_mean() -> None:
    assert parameter_count(head()) == DIMENSION
    assert mean_coordinates(head()) == slice(0, FEATURES)
