"""Confidence intervals against scipy's, and against what they promise: how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedrec._internal.intervals import mean_interval, wilson_interval


@pytest.mark.parametrize(("hits", "records"), [(0, 1), (1, 1), (0, 40), (297, 341), (9_000, 10_000), (3, 7)])
def test_the_interval_of_a_share_is_wilsons(hits: int, records: int) -> None:
    expected = stats.binomtest(hits, records).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits / records, records) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_a_mean_is_students() -> None:
    for count in range(2, 9):
        values = np.random.default_rng(count).normal(0.8, 0.02, count)
        expected = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
        assert mean_interval(values.tolist()) == pytest.approx(expected, abs=1e-9)


def test_a_single_value_has_no_interval() -> None:
    assert mean_interval([]) is None
    assert mean_interval([0.8]) is None


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    draws, records = 4000, 341
    hits = rng.binomial(records, 0.86, draws)
    means = [mean_interval(row) for row in rng.normal(0.86, 0.01, (draws, 3)).tolist()]
    held = [
        np.mean([low <= 0.86 <= high for low, high in found])
        for found in ([wilson_interval(hit / records, records) for hit in hits.tolist()], filter(None, means))
    ]
    # Five standard errors of a frequency of 0.95.
    assert held == pytest.approx([0.95, 0.95], abs=5 * math.sqrt(0.95 * 0.05 / draws))
