"""The lemma by brute force: what merchants really draw never hides less than the accountants say.

Exact privacy curves of sampled discrete Gaussians, as sums over integer points in plain numpy, against the
continuous Gaussian at sqrt(V - 9) / Delta. Noise is far smaller here than any that a plan allows, so that an
excess would show.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from fedrec.errors import ConfigError
from fedrec.privacy.accounting import discrete_noise_lemma as lemma
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.pld import epsilon_pld

RATES = (0.01, 0.1, 0.5, 1.0)
EPSILONS = np.array([-0.5, 0.0, 0.1, 0.5, 1.0, 2.0, 4.0])
# Floating point's share of a delta that is summed over some thousand points.
FLOATS = 1e-14


def discrete(variance: float, reach: int) -> np.ndarray:
    """N_Z(0, variance) on the integers from -reach to reach."""
    y = np.arange(-reach, reach + 1)
    masses = np.exp(-(y**2) / (2 * variance))
    return np.asarray(masses / masses.sum())


def shifted(variance: float, shift: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The product law of discrete Gaussians without a record, and with one that adds ``shift``; flattened."""
    reach = math.ceil(9 * math.sqrt(variance)) + max(abs(part) for part in shift)
    law = discrete(variance, reach)
    without, with_record = np.ones(1), np.ones(1)
    for part in shift:
        without = np.multiply.outer(without, law).ravel()
        with_record = np.multiply.outer(with_record, np.roll(law, part)).ravel()
    return without, with_record


def curve(with_record: np.ndarray, without: np.ndarray, rate: float) -> np.ndarray:
    """The larger of both directions' delta at each of ``EPSILONS``."""
    mixed = (1 - rate) * without + rate * with_record
    return np.array(
        [
            max(np.maximum(p - math.exp(e) * q, 0).sum() for p, q in ((mixed, without), (without, mixed)))
            for e in EPSILONS
        ]
    )


def continuous(multiplier: float, rate: float) -> np.ndarray:
    """The same for the sampled continuous Gaussian, in closed form (both directions are half-lines)."""
    found = []
    for e in EPSILONS:
        both = []
        for sign in (1.0, -1.0):
            # The likelihood ratio 1 - q + q exp((2x - 1) / (2 s^2)) passes exp(+-e) at x.
            inner = (math.exp(sign * e) - (1 - rate)) / rate
            x = multiplier**2 * math.log(inner) + 0.5 if inner > 0 else -math.inf
            p, q = norm.sf(x, 1, multiplier), norm.sf(x, 0, multiplier)
            mixed = (1 - rate) * q + rate * p
            removed = mixed - math.exp(e) * q
            added = (1 - q) - math.exp(e) * (1 - mixed)
            both.append(removed if sign > 0 else added)
        found.append(max(*both, 0.0, 1 - math.exp(e)))
    return np.array(found)


SHIFTS = [(1,), (2,), (5,), (1, 1), (2, 1), (3, -2), (1, 1, 1)]


@pytest.mark.parametrize("shift", SHIFTS)
def test_exact_curves_lie_below_the_gaussian_s_at_nine_less(shift: tuple[int, ...]) -> None:
    norm_of_shift = math.sqrt(sum(part**2 for part in shift))
    deviations = (3.5, 4.5) if len(shift) == 3 else (3.2, 3.5, 5.0, 8.0)
    for deviation, rate in itertools.product(deviations, RATES):
        without, with_record = shifted(deviation**2, shift)
        exact = curve(with_record, without, rate)
        bound = continuous(math.sqrt(deviation**2 - 9) / norm_of_shift, rate)
        assert np.all(exact <= bound + FLOATS), (deviation, rate)


def test_without_the_subtraction_the_gaussian_is_no_bound() -> None:
    """Product laws at shifts off the axes pass the Gaussian at sqrt(V) by some percent of delta and more."""
    worst, above = 0.0, 0
    for shift, deviation, rate in itertools.product(((1, 1), (2, 1), (3, -2)), (3.2, 3.5, 5.0), RATES):
        without, with_record = shifted(deviation**2, shift)
        exact = curve(with_record, without, rate)
        bound = continuous(deviation / math.sqrt(sum(part**2 for part in shift)), rate)
        seen = bound > 1e-10
        above += int((exact[seen] > bound[seen] * (1 + 1e-9)).sum())
        worst = max(worst, float((exact[seen] / bound[seen]).max()))
    assert above > 100 and worst > 1.04


@pytest.mark.parametrize(
    ("deviations", "shift"), [((4.2, 4.2), 3), ((8.0, 8.0, 8.0), 10), ((5.0, 9.0, 6.0), 4)]
)
def test_a_sum_of_shares_hides_as_their_variances_add_up(deviations: tuple[float, ...], shift: int) -> None:
    reach = 8 * math.ceil(sum(deviations))
    law: np.ndarray = np.ones(1)
    for deviation in deviations:
        law = np.convolve(law, discrete(deviation**2, reach))
    law = np.concatenate([law, np.zeros(2 * shift)])
    for rate in RATES:
        variance = sum(deviation**2 for deviation in deviations)
        exact = curve(np.roll(law, shift), law, rate)
        assert np.all(exact <= continuous(math.sqrt(variance - 9) / shift, rate) + FLOATS)


@pytest.mark.parametrize(
    ("deviation", "shift", "rate", "steps"), [(3.5, 1, 0.2, 3), (4.0, 2, 0.5, 3), (3.2, 1, 0.05, 4)]
)
def test_steps_composed_by_brute_force_stay_below_pld(
    deviation: float, shift: int, rate: float, steps: int
) -> None:
    """Every outcome of all steps, by its privacy loss: no grid, no Fourier transform."""
    without, with_record = shifted(deviation**2, (shift,))
    keep = without + with_record > 1e-13
    cut = steps * float(with_record[~keep].sum() + without[~keep].sum())
    without, with_record = without[keep], with_record[keep]
    mixed = (1 - rate) * without + rate * with_record
    event = Event(rate, math.sqrt(deviation**2 - 9) / shift, steps)
    for p, q in ((mixed, without), (without, mixed)):
        losses: np.ndarray = np.zeros(1)
        masses: np.ndarray = np.ones(1)
        for _ in range(steps):
            losses = np.add.outer(losses, np.log(p / q)).ravel()
            masses = np.multiply.outer(masses, p).ravel()
            # Equal losses together, so that outcomes stay countable; the order of the steps doesn't matter.
            rounded, index = np.unique(np.round(losses, 10), return_inverse=True)
            losses, masses = rounded, np.bincount(index, weights=masses)
        for delta in (1e-3, 1e-5, 1e-7):
            epsilon = epsilon_pld([event], delta=delta)
            spent = float((masses * np.maximum(0, -np.expm1(np.minimum(epsilon - losses, 0)))).sum())
            assert spent <= delta + cut + 1e-9 * delta


def test_rounding_a_gaussian_at_random_is_a_discrete_gaussian_up_to_the_lemma_s_factor() -> None:
    """Lemma 1, with quadrature in place of its proof; at a small eta the factor is large enough to see."""
    for eta, deviation in ((0.5, 1.3), (0.7, 1.0), (1.0, 2.0)):
        x = np.linspace(-14 * deviation, 14 * deviation, 40_001)
        density = norm.pdf(x, 0, math.sqrt(deviation**2 - eta**2)) * (x[1] - x[0])
        y = np.arange(-60, 61)
        kernel = np.exp(-((y[None, :] - x[:, None]) ** 2) / (2 * eta**2))
        law = density @ (kernel / kernel.sum(axis=1, keepdims=True))
        wanted = discrete(deviation**2, 60)
        near = wanted > 1e-12
        ratios = np.log(law[near] / wanted[near])
        assert 0 < np.abs(ratios).max() <= lemma.log_ratio(eta) * (1 + 1e-6) + 1e-9


def test_constants_are_negligible_in_the_whole_range() -> None:
    assert math.log2(lemma.log_ratio(3.0)) == pytest.approx(-254, abs=1)
    # At eta 2 they would not be; two shares of 3 are too narrow, and shares of 8 never matter.
    assert math.log2(lemma.log_ratio(2.0)) == pytest.approx(-112, abs=1)
    assert math.log2(lemma.log_ratio(3 / math.sqrt(2))) == pytest.approx(-127, abs=1)
    most = {"dimension": lemma.MAX_DIMENSION, "steps": lemma.MAX_STEPS}
    for shares in (1, 2, 1000, 100_000):
        assert lemma.log_factor(**most, share=8.0, shares=shares) < 2.0**-200


def test_shares_and_multipliers_are_inverse_functions() -> None:
    for multiplier, shares in itertools.product((0.3, 1.0, 30.0), (1, 2, 50)):
        share = lemma.share_std(multiplier, sensitivity=1050.0, shares=shares)
        assert lemma.accounted_multiplier(shares * share**2, sensitivity=1050.0) == pytest.approx(multiplier)
    assert (
        lemma.share_std(0.0, sensitivity=5.0, shares=3)
        == lemma.accounted_multiplier(0.0, sensitivity=5.0)
        == 0
    )
    with pytest.raises(ConfigError, match="below the 8"):
        lemma.accounted_multiplier(63.9, sensitivity=1.0)
    assert lemma.accounted_rate(1.0) == lemma.accounted_rate(1 - 2.0**-53) == 1.0
    assert lemma.accounted_rate(0.25) > 0.25
