"""The discrete Gaussian sampler against the law computed from its definition."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from fedrec.errors import ConfigError
from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.randomness import Randomness


def _law(sigma: float, reach: int) -> np.ndarray:
    support = np.arange(-reach, reach + 1)
    weights = np.exp(-(support.astype(float) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.9, 1.0, 1.3, 1.9, 2.7, 4.0, 6.5])
def test_small_sigma_matches_the_law(sigma: float) -> None:
    n = 200_000
    draws = discrete_gaussian(n, sigma=sigma, rng=Randomness.seeded(5, "chi"))
    reach = int(12 * sigma) + 4
    expected = _law(sigma, reach) * n
    observed = np.bincount(draws + reach, minlength=2 * reach + 1)
    rare = expected < 10
    statistic = ((observed - expected)[~rare] ** 2 / expected[~rare]).sum()
    if expected[rare].sum() > 1:
        statistic += (observed[rare].sum() - expected[rare].sum()) ** 2 / expected[rare].sum()
    assert statistic < stats.chi2.ppf(0.9999, (~rare).sum())


@pytest.mark.parametrize("sigma", [50.0, 700.0, 1000.0, 1450.0, 2.0**20 + 0.3])
def test_large_sigma_is_as_good_as_gaussian(sigma: float) -> None:
    n = 400_000
    draws = discrete_gaussian(n, sigma=sigma, rng=Randomness.seeded(6, "moments"))
    scaled = draws / sigma
    assert abs(scaled.mean()) < 5 / np.sqrt(n)
    assert abs(scaled.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((scaled**4).mean() - 3) < 5 * np.sqrt(96 / n)
    assert stats.kstest(scaled[:100_000], "norm").pvalue > 1e-3


def test_two_draws_are_uncorrelated() -> None:
    draws = discrete_gaussian(200_000, sigma=100.0, rng=Randomness.seeded(7)) / 100.0
    assert abs((draws[1:] * draws[:-1]).mean()) < 5 / np.sqrt(200_000)


def test_shapes_seeds_and_errors() -> None:
    assert discrete_gaussian(0, sigma=3.0, rng=Randomness.seeded(1)).shape == (0,)
    one = discrete_gaussian(70_001, sigma=3.0, rng=Randomness.seeded(1))
    assert one.dtype == np.int64
    np.testing.assert_array_equal(one, discrete_gaussian(70_001, sigma=3.0, rng=Randomness.seeded(1)))
    assert (one != discrete_gaussian(70_001, sigma=3.0, rng=Randomness.seeded(2))).any()
    for sigma in (0.0, -1.0, float("nan"), float("inf"), 2.0**31):
        with pytest.raises(ConfigError):
            discrete_gaussian(3, sigma=sigma, rng=Randomness.seeded(1))


def test_is_fast_enough_for_a_large_model() -> None:
    rng = Randomness.seeded(8)
    times = []
    for _ in range(3):
        start = time.process_time()
        discrete_gaussian(422_000, sigma=1000.0, rng=rng)
        times.append(time.process_time() - start)
    # 50 ms on an idle core; the margin is for a busy machine.
    assert min(times) < 0.25
