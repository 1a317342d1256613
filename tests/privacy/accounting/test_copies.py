"""Epsilon for several copies of a photo, against dp-accounting's mixture mechanism and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from scipy.stats import binom, norm

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.group_privacy import epsilon_of_copies
from fedrec.privacy.accounting.pld import epsilon_pld


@pytest.mark.parametrize(("rate", "sigma", "steps", "copies"), [(0.05, 1.0, 60, 2), (0.25, 6.7, 300, 4)])
def test_epsilon_of_copies_uses_the_library_s_mixture(
    rate: float, sigma: float, steps: int, copies: int
) -> None:
    weights = [float(binom.pmf(j, copies, rate)) for j in range(copies + 1)]
    step = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        sigma, [float(j) for j in range(copies + 1)], weights, value_discretization_interval=5e-3
    )
    fine = step.self_compose(steps).get_epsilon_for_delta(1e-5)
    ours = epsilon_of_copies([Event(rate, sigma, steps)], copies=copies, delta=1e-5)
    assert fine * 0.998 <= ours <= fine * 1.01


@pytest.mark.parametrize(("rate", "sigma", "copies"), [(0.3, 2.0, 2), (0.1, 1.0, 4), (0.6, 3.0, 3)])
def test_one_step_by_brute_force_in_both_directions(rate: float, sigma: float, copies: int) -> None:
    """Every subset of the copies by itself, on a fine line."""
    x = np.linspace(-14 * sigma, copies + 14 * sigma, 400_001)
    base = norm.pdf(x, 0, sigma)
    mixed = np.zeros(x.shape)
    for drawn in itertools.product((0, 1), repeat=copies):
        chance = math.prod(rate if one else 1 - rate for one in drawn)
        mixed += chance * norm.pdf(x, sum(drawn), sigma)
    for epsilon in (0.2, 1.0, 2.5):
        delta = max(np.maximum(p - math.exp(epsilon) * q, 0).sum() for p, q in ((mixed, base), (base, mixed)))
        delta *= x[1] - x[0]
        ours = epsilon_of_copies([Event(rate, sigma, 1)], copies=copies, delta=float(delta))
        assert epsilon * (1 - 1e-6) <= ours <= epsilon * 1.002


def test_copies_that_shift_apart_cost_no_more_than_along_one_axis() -> None:
    """Two copies in one step may move it in two directions: by Kahane's inequality, less than along one."""
    rate, sigma = 0.4, 1.5
    axis = np.linspace(-12, 14, 1301)
    cell = (axis[1] - axis[0]) ** 2

    def law(shift: tuple[float, float]) -> np.ndarray:
        across, along = (np.asarray(norm.pdf(axis, part, sigma)) for part in shift)
        return np.asarray(np.multiply.outer(across, along) * cell)

    base = law((0, 0))
    for angle in (0.5, math.pi / 2, 3.0):
        second = (math.cos(angle), math.sin(angle))
        both = (1 + second[0], second[1])
        mixed = (1 - rate) ** 2 * base + rate * (1 - rate) * (law((1, 0)) + law(second)) + rate**2 * law(both)
        for epsilon in (0.3, 1.5):
            delta = max(
                float(np.maximum(p - math.exp(epsilon) * q, 0).sum())
                for p, q in ((mixed, base), (base, mixed))
            )
            assert epsilon_of_copies([Event(rate, sigma, 1)], copies=2, delta=delta) >= epsilon * (1 - 1e-4)


def test_whole_batches_betas_and_one_copy() -> None:
    assert epsilon_of_copies([Event(1.0, 9.0, 4)], copies=3, delta=1e-5) == epsilon_pld(
        [Event(1.0, 3.0, 4)], delta=1e-5
    )
    assert epsilon_of_copies([Event(0.1, 1.0, 9)], copies=1, delta=1e-5) == pytest.approx(
        epsilon_pld([Event(0.1, 1.0, 9)], delta=1e-5), rel=1e-3
    )
    mixed = [Event(0.1, 1.0, 9), Event(1.0, 8.0, 1)]
    alone = epsilon_of_copies(mixed[:1], copies=2, delta=1e-5)
    assert alone < epsilon_of_copies(mixed, copies=2, delta=1e-5) < alone + 2
    # Any of the copies may be the one whose rounding passes its bound.
    assert epsilon_of_copies(mixed, copies=4, delta=1e-5, betas=2e-6) == epsilon_of_copies(
        mixed, copies=4, delta=1e-5 - 4 * 2e-6
    )
    assert epsilon_of_copies(mixed, copies=4, delta=1e-5, betas=3e-6) == math.inf
    for copies in (0, 17):
        with pytest.raises(ConfigError):
            epsilon_of_copies(mixed, copies=copies, delta=1e-5)
