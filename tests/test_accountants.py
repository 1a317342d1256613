"""Accountants against dp-accounting used another way, and against the analytic Gaussian mechanism."""

from __future__ import annotations

import math
import time

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp
from scipy import optimize, stats

from fedrec.errors import ConfigError, UnreachableBudgetError
from fedrec.privacy.accounting.accountants import (
    ORDERS,
    Event,
    epsilon_from_rdp,
    epsilon_pld,
    epsilon_rdp,
    noise_multiplier_for,
    rdp_vector,
)

CASES = [
    (0.01, 0.6, 200),
    (0.05, 1.0, 1000),
    (0.1, 2.0, 300),
    (0.25, 3.48, 150),
    (0.25, 40.0, 60),
    (1.0, 9.0, 20),
]


def _event(rate: float, sigma: float, steps: int) -> dp_accounting.DpEvent:
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    return dp_accounting.SelfComposedDpEvent(step, steps)


@pytest.mark.parametrize(("rate", "sigma", "steps"), CASES)
def test_pld_agrees_with_the_library_at_a_fine_grid(rate: float, sigma: float, steps: int) -> None:
    accountant = pld.PLDAccountant(value_discretization_interval=1e-4)
    fine = accountant.compose(_event(rate, sigma, steps)).get_epsilon(1e-5)
    ours = epsilon_pld([Event(rate, sigma, steps)], delta=1e-5)
    assert fine * 0.9995 <= ours <= fine * 1.01


@pytest.mark.parametrize(("rate", "sigma", "steps"), CASES)
def test_rdp_agrees_with_the_library_at_integer_orders(rate: float, sigma: float, steps: int) -> None:
    accountant = rdp.RdpAccountant(orders=ORDERS.tolist())
    library = accountant.compose(_event(rate, sigma, steps)).get_epsilon(1e-5)
    assert epsilon_rdp([Event(rate, sigma, steps)], delta=1e-5) == pytest.approx(library, rel=1e-6)


@pytest.mark.parametrize(("rate", "sigma", "steps"), CASES)
def test_proved_figure_is_never_below_the_headline(rate: float, sigma: float, steps: int) -> None:
    event = [Event(rate, sigma, steps)]
    assert epsilon_rdp(event, delta=1e-5) >= epsilon_pld(event, delta=1e-5)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0, 5.0, 30.0])
@pytest.mark.parametrize("steps", [1, 30])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_whole_batches_match_the_analytic_gaussian(sigma: float, steps: int, delta: float) -> None:
    # Balle and Wang 2018, theorem 8, for T compositions: sensitivity sqrt(T).
    mu = math.sqrt(steps) / sigma

    def excess(epsilon: float) -> float:
        far = stats.norm.logcdf(-epsilon / mu - mu / 2) + epsilon
        return float(stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(far) - delta)

    exact = optimize.brentq(excess, 1e-6, 1e4, xtol=1e-12)
    ours = epsilon_pld([Event(1.0, sigma, steps)], delta=delta)
    assert exact * (1 - 1e-9) <= ours <= exact * 1.01


def test_one_sampled_step_is_the_hockey_stick_integral() -> None:
    rate, sigma, epsilon = 0.2, 1.5, 0.4
    x = np.linspace(-30, 30, 2_000_001)
    base = stats.norm.pdf(x, 0, sigma)
    mixed = (1 - rate) * base + rate * stats.norm.pdf(x, 1, sigma)
    both = [
        np.maximum(p - math.exp(epsilon) * q, 0).sum() * (x[1] - x[0])
        for p, q in ((mixed, base), (base, mixed))
    ]
    assert epsilon_pld([Event(rate, sigma, 1)], delta=max(both)) == pytest.approx(epsilon, rel=1e-3)


def test_mixed_histories_compose() -> None:
    events = [Event(0.05, 1.0, 200), Event(0.02, 1.2, 500), Event(0.05, 1.0, 30), Event(0.1, 2.0, 0)]
    accountant = pld.PLDAccountant(value_discretization_interval=3e-4)
    for event in (_event(0.05, 1.0, 230), _event(0.02, 1.2, 500)):
        accountant.compose(event)
    fine = accountant.get_epsilon(1e-5)
    assert fine * 0.9995 <= epsilon_pld(events, delta=1e-5) <= fine * 1.01
    added = sum(rdp_vector(event) for event in events)
    assert epsilon_from_rdp(np.asarray(added), delta=1e-5) == epsilon_rdp(events, delta=1e-5)


def test_monotone() -> None:
    base = (0.1, 1.5, 100)
    for measure in (epsilon_pld, epsilon_rdp):
        here = measure([Event(*base)], delta=1e-5)
        assert measure([Event(0.12, 1.5, 100)], delta=1e-5) > here
        assert measure([Event(0.1, 1.4, 100)], delta=1e-5) > here
        assert measure([Event(0.1, 1.5, 120)], delta=1e-5) > here
        assert measure([Event(*base)], delta=1e-6) > here
        assert measure([], delta=1e-5) == 0
        assert measure([Event(0.1, 0.0, 1)], delta=1e-5) == math.inf


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"), [(0.5, 0.25, 60), (2.7, 0.25, 300), (8.0, 0.05, 60), (1.0, 1.0, 60)]
)
def test_noise_found_meets_the_target(epsilon: float, rate: float, steps: int) -> None:
    start = time.process_time()
    sigma = noise_multiplier_for(epsilon=epsilon, delta=1e-5, sample_rate=rate, steps=steps)
    assert time.process_time() - start < 10
    reached = (
        pld.PLDAccountant(value_discretization_interval=3e-4)
        .compose(_event(rate, sigma, steps))
        .get_epsilon(1e-5)
    )
    assert 0.99 * epsilon <= reached <= epsilon
    assert 0.995 * epsilon <= epsilon_pld([Event(rate, sigma, steps)], delta=1e-5) <= epsilon


def test_loose_and_unreachable_targets() -> None:
    assert noise_multiplier_for(epsilon=1e6, delta=1e-5, sample_rate=0.1, steps=10) == 0.3
    with pytest.raises(UnreachableBudgetError):
        noise_multiplier_for(epsilon=1e-4, delta=1e-6, sample_rate=1.0, steps=1000)


def test_out_of_range() -> None:
    for rate, sigma, steps in (
        (0.0, 1.0, 1),
        (1.1, 1.0, 1),
        (0.1, -1.0, 1),
        (0.1, math.nan, 1),
        (0.1, 1.0, -1),
    ):
        with pytest.raises(ConfigError):
            Event(rate, sigma, steps)
    for delta in (0.0, 1.0, -1e-5, math.nan):
        with pytest.raises(ConfigError):
            epsilon_pld([Event(0.1, 1.0, 1)], delta=delta)
        with pytest.raises(ConfigError):
            epsilon_rdp([Event(0.1, 1.0, 1)], delta=delta)
    for epsilon, steps in ((0.0, 10), (-1.0, 10), (math.inf, 10), (1.0, 0)):
        with pytest.raises(ConfigError):
            noise_multiplier_for(epsilon=epsilon, delta=1e-5, sample_rate=0.1, steps=steps)
