"""Noise from seeds: the same everywhere, and gone when it is taken off."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest

from fedrec.privacy.aggregation.scalar_sharing import random_scalars
from fedrec.privacy.dp.calibration import NoiseRequest, plan_noise
from fedrec.privacy.dp.layer_noise import add_layer, remove_layer
from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.randomness import Randomness


@pytest.mark.parametrize(
    ("std", "digest"),
    [(8.0, "342df901c1cf7dc7"), (247.25, "78557e7999f0e770"), (3000.5, "4b98658e64fd596f")],
    ids=["narrow", "usual", "wide"],
)
def test_a_seed_is_the_same_noise_on_every_machine(std: float, digest: str) -> None:
    values = np.zeros(70_000, dtype=np.int64)
    add_layer(values, 2**255 + 1, std=std)
    assert hashlib.sha256(values.astype("<i8").tobytes()).hexdigest()[:16] == digest
    assert values.std() == pytest.approx(std, rel=0.02)


def test_what_was_added_is_taken_off_to_the_last_unit() -> None:
    rng = np.random.default_rng(1)
    before = rng.integers(-(10**9), 10**9, 140_001)
    values = before.copy()
    for seed, std in ((5, 20.0), (6, 1500.0), (0, 8.0)):
        add_layer(values, seed, std=std)
    assert (values != before).mean() > 0.99
    for seed, std in ((0, 8.0), (5, 20.0), (6, 1500.0)):
        remove_layer(values, seed, std=std)
    np.testing.assert_array_equal(values, before)


def test_neighbouring_seeds_are_unrelated() -> None:
    one, two = np.zeros(50_000, dtype=np.int64), np.zeros(50_000, dtype=np.int64)
    add_layer(one, 7, std=100.0)
    add_layer(two, 8, std=100.0)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


def test_sums_of_every_size_have_the_deviation_that_is_charged_for() -> None:
    """Six merchants' noise, drawn once; each sum's layers are taken off, and a colluder's isn't counted."""
    plan = plan_noise(
        NoiseRequest(
            mode="distributed", epsilon=None, noise_multiplier=1.5, delta=1e-5, sample_rate=0.1, steps=10,
            dimension=60_000, clip=1.0, cohort=6, min_contributors=3, colluders=1, records_per_merchant=50,
            layered=True,
        )
    )  # fmt: skip
    assert plan.levels == (6, 5, 4, 3)
    needed = Fraction((plan.noise_multiplier * plan.sensitivity) ** 2 + 9)
    exact = [Fraction(std) ** 2 for std in (plan.share_std, *plan.layer_stds)]
    seeds = random_scalars(6 * 3, Randomness.seeded(1))
    noise = []
    for merchant in range(6):
        own = discrete_gaussian(60_000, sigma=plan.share_std, rng=Randomness.seeded(2, merchant))
        for layer, std in enumerate(plan.layer_stds):
            add_layer(own, seeds[3 * merchant + layer], std=std)
        noise.append(own)
    for contributors in (3, 4, 5, 6):
        kept = plan.kept_layers(contributors)
        honest = contributors - 1
        # Never below what is needed, and above it by what doubles round.
        assert needed <= honest * sum(exact[: kept + 1]) <= needed * (1 + Fraction(1, 2**48))
        total = sum(noise[:honest], np.zeros(60_000, dtype=np.int64))
        for merchant in range(honest):
            for layer in range(kept, 3):
                remove_layer(total, seeds[3 * merchant + layer], std=plan.layer_stds[layer])
        # Four standard errors of a deviation from 60,000 draws are 1.2%; all of the noise would be 29% more.
        assert total.std() == pytest.approx(float(needed) ** 0.5, rel=0.012)
        assert plan.kept_std(contributors) * contributors**0.5 == pytest.approx(
            float(needed) ** 0.5 * (contributors / honest) ** 0.5, rel=1e-12
        )
    # The sum before anything is removed fits its range, and what is left if aggregation breaks is layer 0.
    assert plan.added_std == pytest.approx((float(needed) / 2) ** 0.5, rel=1e-12)
    assert plan.spend.broken_multiplier == pytest.approx(
        (plan.share_std**2 - 9) ** 0.5 / plan.sensitivity, rel=1e-12
    )
    assert plan.spend.multiplier == 1.5
