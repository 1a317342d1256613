"""The discrete Gaussian sampler against the law computed from its definition."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy import stats

from fedrec.errors import ConfigError
from fedrec.privacy.dp import noise
from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.randomness import Randomness


def _law(sigma: float, reach: int) -> np.ndarray:
    support = np.arange(-reach, reach + 1)
    weights = np.exp(-(support.astype(float) ** 2) / (2 * sigma**2))
    law: np.ndarray = weights / weights.sum()
    return law


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.9, 1.0, 1.3, 1.9, 2.7, 4.0, 6.5])
def test_small_sigma_matches_the_law(sigma: float) -> None:
    n = 1_000_000
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
    n = 1_000_000
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


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.7, 900.0])
def test_what_is_too_near_to_call_is_decided_exactly(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every comparison taken for undecided, the digits decide as float64 does where it's clear."""
    usual = discrete_gaussian(2_000, sigma=sigma, rng=Randomness.seeded(9))
    calls = []

    def decide(uniform: float, **candidate: object) -> bool:
        calls.append(uniform)
        # A stream of its own, so that the draws that follow stay the same.
        return exact(uniform, **(candidate | {"rng": Randomness.from_os()}))  # type: ignore[arg-type]

    exact = noise._decide
    monkeypatch.setattr(noise, "_decide", decide)
    monkeypatch.setattr(noise, "_UNDECIDED", 1.0)
    np.testing.assert_array_equal(usual, discrete_gaussian(2_000, sigma=sigma, rng=Randomness.seeded(9)))
    assert len(calls) > 2_000


def test_the_last_bits_decide_with_the_right_probability() -> None:
    # At stair 0 and magnitude 0 the probability is exp(-log_ceiling); put it 30% into a cell of the grid.
    cell = 0.5 + 2.0**-53
    target = Decimal(cell) - Decimal(2) ** -53 + Decimal("0.3") * Decimal(2) ** -52
    with localcontext() as context:
        context.prec = 60
        log_ceiling = -target.ln()
    rng = Randomness.seeded(10)
    accepted = sum(
        noise._decide(cell, stair=0, magnitude=0, sigma=1.0, log_ceiling=log_ceiling, rng=rng)  # type: ignore[arg-type]
        for _ in range(4_000)
    )
    assert abs(accepted / 4_000 - 0.3) < 5 * np.sqrt(0.21 / 4_000)
