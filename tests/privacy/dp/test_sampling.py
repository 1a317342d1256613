"""Poisson sampling: independent coins of the stated probability."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedrec.errors import ConfigError
from fedrec.privacy.dp.sampling import poisson_sample
from fedrec.privacy.randomness import Randomness


def test_no_record_and_rate_one_are_possible_and_other_rates_are_refused() -> None:
    rng = Randomness.seeded(1)
    assert poisson_sample(0, rate=0.5, rng=rng).shape == (0,)
    assert poisson_sample(7, rate=1.0, rng=rng).tolist() == list(range(7))
    for rate in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="sample rate"):
            poisson_sample(5, rate=rate, rng=rng)


def test_size_is_binomial_and_records_are_independent() -> None:
    rng = Randomness.seeded(2)
    drawn = np.zeros((4000, 20))
    for row in drawn:
        chosen = poisson_sample(20, rate=0.3, rng=rng)
        assert chosen.dtype == np.int64
        assert np.all(np.diff(chosen) > 0)
        row[chosen] = 1
    sizes = drawn.sum(axis=1).astype(int)
    # Fixed-size or shuffled batches would show here: their sizes don't vary.
    expected = stats.binom.pmf(np.arange(1, 13), 20, 0.3) * 4000
    observed = np.array([(sizes == k).sum() for k in range(1, 13)])
    assert ((observed - expected) ** 2 / expected).sum() < stats.chi2.ppf(0.999, 12)
    correlation = np.corrcoef(drawn.T) - np.eye(20)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    assert np.abs(drawn.mean(axis=0) - 0.3).max() < 5 * np.sqrt(0.21 / 4000)
