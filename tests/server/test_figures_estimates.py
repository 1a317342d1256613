"""Site figures from an opened sum: intervals that hold as often as they say, and what count is detectable."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedrec.privacy.dp.calibration import NoisePlan, NoiseRequest, plan_noise
from fedrec.server.figures_estimates import FiguresNoise, ratio, scaled

CLASSES = 5


@pytest.fixture
def noise() -> NoisePlan:
    return plan_noise(
        NoiseRequest(
            mode="distributed", epsilon=None, noise_multiplier=3.0, delta=1e-5, sample_rate=1.0, steps=1,
            dimension=CLASSES + 2, clip=1.0, cohort=6, min_contributors=4, colluders=1,
            records_per_merchant=100,
        )
    )  # fmt: skip


def test_the_noise_is_that_of_every_contributors_share(noise: NoisePlan) -> None:
    known = FiguresNoise.of(noise, contributors=6)
    # Four contributors less a colluder carry the planned noise; six carry the noise of twice as many.
    planned = 3.0 * noise.sensitivity / noise.scale
    assert known.count == pytest.approx(math.sqrt(2) * planned / 0.8, rel=1e-3)
    assert known.correct == pytest.approx(math.sqrt(2) * planned / 0.48, rel=1e-3)
    assert known.loss == pytest.approx(math.sqrt(2) * planned / 0.36 * 2 * math.log(CLASSES), rel=1e-3)


def test_intervals_and_the_detectable_count_hold_as_often_as_they_say(noise: NoisePlan) -> None:
    rng = np.random.default_rng(4)
    known = FiguresNoise.of(noise, contributors=6)
    truth = np.array([0, 0, known.detectable, 40, 300])
    draws = truth + known.count * rng.normal(size=(4000, CLASSES))
    inside = np.mean(
        [
            all(
                e.low is not None and e.high is not None and e.low <= value <= e.high
                for e, value in zip(known.counts(row), truth, strict=True)
            )
            for row in draws
        ]
    )
    # 4,000 draws tell 95% from 94% and from 97%.
    assert 0.94 < inside < 0.97
    # Two of the five classes are nobody's: by Bonferroni 1% each.
    false_alarms = np.mean((draws[:, :2] > known.threshold).any(axis=1))
    assert 0.01 < false_alarms < 0.03
    assert 0.94 < np.mean(draws[:, 2] > known.threshold) < 0.98


def test_the_interval_of_a_ratio_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    inside = 0
    for above, below in zip(30 + 12 * rng.normal(size=4000), 100 + 25 * rng.normal(size=4000), strict=True):
        found = ratio(above, below, above_deviation=12.0, below_deviation=25.0)
        inside += found.low is None or found.high is None or found.low <= 0.3 <= found.high
    assert 0.94 < inside / 4000 < 0.97


def test_nothing_is_clamped_and_a_ratio_to_nothing_has_no_interval(noise: NoisePlan) -> None:
    counts, correct, loss = scaled([-noise.scale] * (CLASSES + 2), noise)
    assert counts == (-1.25,) * CLASSES and correct == pytest.approx(-1 / 0.48) and loss < 0
    assert ratio(5.0, 10.0, above_deviation=1.0, below_deviation=6.0).low is None
    assert ratio(5.0, 0.0, above_deviation=1.0, below_deviation=6.0).value is None
