"""The public accountants: what a report says of a plan, and Google's own composition."""

from __future__ import annotations

import math
from typing import TypedDict

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

import fedrec
from fedrec.errors import ConfigError, UnreachableBudgetError


class Plan(TypedDict):
    sample_rate: float
    steps: int
    delta: float


PLAN: Plan = {"sample_rate": 0.05, "steps": 100, "delta": 1e-5}


def composed(noise_multiplier: float) -> float:
    """Compose the plan's steps by Google's accountant, called as its documentation does."""
    step = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(noise_multiplier))
    return float(PLDAccountant().compose(step, 100).get_epsilon(1e-5))


def test_epsilon_is_the_composition_of_its_steps() -> None:
    found = fedrec.epsilon(0.7, **PLAN, counted=False)
    assert composed(0.7) * 0.995 <= found <= composed(0.7) * 1.02
    assert fedrec.epsilon(0.7, **PLAN) > found, "the declared count is part of a training"
    assert fedrec.epsilon(0.0, **PLAN) == math.inf


def test_the_noise_for_a_budget_keeps_it_and_hardly_less_would() -> None:
    noise = fedrec.noise_for(8.0, **PLAN)
    assert 0.995 * 8 <= fedrec.epsilon(noise, **PLAN) <= 8
    assert fedrec.epsilon(noise * 0.99, **PLAN) > 8
    assert fedrec.noise_for(4.0, **PLAN) > noise


def test_wrong_arguments_and_unreachable_budgets_are_refused() -> None:
    with pytest.raises(ConfigError, match="sample rate"):
        fedrec.epsilon(1.0, sample_rate=2.0, steps=1, delta=1e-5)
    with pytest.raises(ConfigError, match="delta"):
        fedrec.epsilon(1.0, sample_rate=0.1, steps=1, delta=1.5)
    with pytest.raises(UnreachableBudgetError):
        fedrec.noise_for(1e-6, **PLAN)
