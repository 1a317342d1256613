"""Noise plans, and the step that carries one out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fedrec.errors import ConfigError, UnreachableBudgetError
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.dp import bounds
from fedrec.privacy.dp.calibration import (
    TRUNCATION_BETA,
    NoisePlan,
    NoiseRequest,
    plan_noise,
    truncation_bits,
)
from fedrec.privacy.dp.clipping import clipped_sum
from fedrec.privacy.dp.quantise import sensitivity
from fedrec.privacy.dp.step import DpSgdSettings, LocalSgdSettings, contribute, local_update
from fedrec.privacy.dp.vectors import load_parameter_vector, parameter_vector
from fedrec.privacy.randomness import Randomness

EVERY_RECORD = DpSgdSettings(clip=0.5, sample_rate=1.0)
QUARTER = DpSgdSettings(clip=0.5, sample_rate=0.25)


def _plan(**changes: Any) -> NoisePlan:
    arguments: dict[str, Any] = {
        "mode": "distributed", "epsilon": None, "noise_multiplier": 3.0, "delta": 1e-5, "sample_rate": 0.25,
        "steps": 60, "dimension": 111, "clip": 0.5, "cohort": 10, "min_contributors": 8, "colluders": 2,
        "records_per_merchant": 40,
    }  # fmt: skip
    return plan_noise(NoiseRequest(**{**arguments, **changes}))


def _problem(n: int = 40) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    generator = torch.Generator().manual_seed(1)
    return model, torch.randn(n, 1, 36, generator=generator), torch.randint(0, 3, (n,), generator=generator)


@pytest.mark.parametrize("dimension", [21, 421_834, 11_173_962])
def test_the_sensitivity_holds_rounding_and_what_floating_point_may_add(dimension: int) -> None:
    plan = _plan(dimension=dimension)
    deviation = math.sqrt(-2 * math.log(1e-12 - 2**-60)) * (plan.scale + math.sqrt(dimension) / 2)
    rounded = math.sqrt(plan.scale**2 + dimension / 4 + deviation)
    assert plan.sensitivity / rounded - 1 == pytest.approx(2.0**-16, rel=1e-9)


def test_opened_noise_is_never_less_than_charged() -> None:
    plan = _plan()
    honest = plan.share_std**2 * (8 - 2)
    # Nine grid units squared are set aside: what is left is a continuous Gaussian's (docs/accounting.md).
    assert math.sqrt(honest - 9) / plan.sensitivity == pytest.approx(3.0, rel=1e-12)
    assert plan.spend.multiplier == 3.0
    own = math.sqrt(plan.share_std**2 - 9) / plan.sensitivity
    assert plan.spend.broken_multiplier == pytest.approx(own, rel=1e-12)
    assert own < 3.0 / math.sqrt(6)
    assert plan.spend.with_steps(5).events()[0] == Event(0.25, 3.0, 5)


@pytest.mark.parametrize("mode", ["distributed", "local"])
@pytest.mark.parametrize("multiplier", [0.3, 1.0, 47.0])
def test_both_views_follow_from_the_noise_that_is_drawn(mode: str, multiplier: float) -> None:
    plan = _plan(mode=mode, noise_multiplier=multiplier, dimension=50_000)
    shares = 6 if mode == "distributed" else 1
    assert math.sqrt(shares * plan.share_std**2 - 9) / plan.sensitivity == pytest.approx(
        multiplier, rel=1e-12
    )
    own = math.sqrt(plan.share_std**2 - 9) / plan.sensitivity
    assert plan.spend.broken_multiplier == pytest.approx(own, rel=1e-12)


def test_a_share_too_small_for_the_lemma_is_refused() -> None:
    smallest = math.sqrt((6 * 64 - 9) / _plan().sensitivity ** 2)
    assert _plan(noise_multiplier=smallest * 1.0001).share_std >= 8
    with pytest.raises(ConfigError, match="discrete noise is proved to be as private"):
        _plan(noise_multiplier=smallest * 0.9999)


def test_a_training_beyond_the_lemma_s_range_is_refused() -> None:
    for changes in ({"dimension": 2**27 + 1}, {"steps": 2**20 + 1}):
        with pytest.raises(ConfigError, match="proved for"):
            _plan(**changes)


def test_epsilon_target_holds_with_rounding_taken_off_delta() -> None:
    plan = _plan(epsilon=2.0, noise_multiplier=None, beta=1e-8)
    assert plan.spend.accounting_delta == pytest.approx(1e-5 - 60e-8, rel=1e-12)
    spent = epsilon_pld(plan.spend.with_steps(60).events(), delta=plan.spend.accounting_delta)
    assert 0.995 * 2.0 <= spent <= 2.0


def test_local_and_off() -> None:
    local = _plan(mode="local", local_steps=3)
    assert local.share_std == pytest.approx(math.hypot(3.0 * local.sensitivity, 3.0))
    assert local.spend.multiplier == pytest.approx(local.spend.broken_multiplier)
    off = _plan(mode="off", noise_multiplier=None)
    assert off.share_std == 0
    assert off.spend.multiplier == off.spend.broken_multiplier == 0
    assert (off.scale, off.clamp_abs) == (local.scale, local.clamp_abs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"colluders": 0}, "must assume at least 1"),
        ({"min_contributors": 3}, "leaves 1 honest shares"),
        ({"min_contributors": 11}, "min contributors: 11"),
        ({"epsilon": 1.0}, "exactly one of epsilon and noise multiplier"),
        ({"noise_multiplier": None}, "exactly one of epsilon and noise multiplier"),
        ({"noise_multiplier": 0.0}, "noise multiplier: 0.0"),
        ({"noise_multiplier": 1e-3}, "one merchant's share of 1.23 grid units"),
        ({"delta": 1e-11}, "rounding uses up all of it"),
        ({"delta": 1.0}, "delta: 1.0"),
        ({"sample_rate": 0.0}, "sample rate: 0.0"),
        ({"clip": 0.0}, "clip: 0.0"),
        ({"local_steps": 2}, "one step per round"),
        ({"mode": "central"}, "'central' is unknown"),
        ({"steps": 0}, "must all be at least 1"),
        ({"dimension": 0}, "must both be at least 1"),
        ({"records_per_merchant": 0}, "must all be at least 1"),
    ],
)
def test_a_number_out_of_range_is_refused_before_noise_is_planned(changes: dict[str, Any], told: str) -> None:
    # Rounding uses 6e-11 of delta, and what is left matters where an epsilon is to be met.
    if "delta" in changes:
        changes = {**changes, "epsilon": 1.0, "noise_multiplier": None}
    with pytest.raises(ConfigError, match=told):
        _plan(**changes)


@pytest.mark.parametrize(
    ("records", "rate"),
    [(131_200, 0.97), (140_000, 0.91), (600_000, 0.212), (10**7, 0.0127), (10**9, 0.000127)],
)
def test_the_chance_of_an_overfull_step_is_bounded_from_above(records: int, rate: float) -> None:
    exact = stats.binom.logsf(bounds.MAX_RECORDS, records, rate) / math.log(2)
    bits = truncation_bits(expected=records * rate)
    assert bits > 0 and exact <= -bits
    if rate < 0.01:
        # For rare coins Chernoff's bound loses a factor of about the deviation, no more.
        assert bits >= -exact - 12


def test_a_step_that_may_sample_too_many_records_is_refused_beforehand() -> None:
    # A merchant whose count came out ten deviations, 200, too low holds so many more than the plan says.
    assert _plan(records_per_merchant=127_000, sample_rate=1.0)
    assert _plan(records_per_merchant=400_000, sample_rate=0.31)
    for records, rate in ((127_700, 1.0), (412_000, 0.31), (10**9, 0.25), (400_000, 1.0)):
        with pytest.raises(ConfigError, match="a step of one merchant takes"):
            _plan(records_per_merchant=records, sample_rate=rate)


def test_the_chance_that_a_draw_is_cut_is_a_part_of_beta() -> None:
    plan = _plan()
    rounding = plan.beta - TRUNCATION_BETA
    assert 0 < TRUNCATION_BETA < 1e-6 * plan.beta
    assert plan.sensitivity == sensitivity(
        scale=plan.scale, dimension=plan.dimension, beta=rounding, float_slack=bounds.FLOAT_SLACK
    )


def test_a_budget_that_no_noise_reaches_is_named_as_such() -> None:
    with pytest.raises(UnreachableBudgetError):
        _plan(epsilon=1e-5, noise_multiplier=None, sample_rate=1.0, steps=1000)


def test_sums_stay_in_a_range_that_is_not_too_wide() -> None:
    plan = _plan()
    rng = np.random.default_rng(0)
    noise = np.round(rng.normal(0, plan.share_std * math.sqrt(10), 2_000_000))
    assert 10 * plan.clamp_abs + np.abs(noise).max() < plan.max_abs_sum
    # 2**-41 over 1000 rounds of 111 coordinates lies near 9 deviations of the sum's noise.
    room = (plan.max_abs_sum - 10 * plan.clamp_abs) / (plan.share_std * math.sqrt(10))
    assert room < 10
    # Half of the 2**-40 of a run, by the sub-Gaussian tail; test_kahe.py has the other half.
    assert math.log2(2 * 111 * 1000) - room**2 / 2 / math.log(2) <= -41


def test_contribution_is_clipped_sum_plus_noise_of_the_share() -> None:
    model, inputs, labels = _problem()
    plan = _plan(sample_rate=1.0)
    exact = clipped_sum(model, inputs, labels, clip=0.5) * plan.scale / 0.5
    rng = Randomness.seeded(9)
    rows = [
        contribute(model, inputs, labels, settings=EVERY_RECORD, plan=plan, rng=rng.child(i)) - exact
        for i in range(60)
    ]
    residual = np.concatenate(rows) / plan.share_std
    assert abs(residual.mean()) < 5 / math.sqrt(residual.size)
    assert abs(residual.var() - 1) < 5 * math.sqrt(2 / residual.size)


def test_off_is_the_rounded_sum_and_clamps() -> None:
    model, inputs, labels = _problem()
    plan = _plan(mode="off", noise_multiplier=None, sample_rate=1.0)
    exact = clipped_sum(model, inputs, labels, clip=0.5) * plan.scale / 0.5
    rng = Randomness.seeded(10)
    ours = contribute(model, inputs, labels, settings=EVERY_RECORD, plan=plan, rng=rng)
    assert ours.dtype == np.int64
    assert np.abs(ours - np.clip(exact, -plan.clamp_abs, plan.clamp_abs)).max() < 1
    # The same stream gives the same bits; another gives others.
    again = contribute(model, inputs, labels, settings=EVERY_RECORD, plan=plan, rng=Randomness.seeded(10))
    np.testing.assert_array_equal(ours, again)
    same = torch.ones(400, 1, 36)
    small = _plan(mode="off", noise_multiplier=None, sample_rate=1.0, records_per_merchant=1)
    clamped = contribute(
        model, same, torch.zeros(400, dtype=torch.int64), settings=EVERY_RECORD, plan=small, rng=rng
    )
    assert np.abs(clamped).max() == small.clamp_abs


def test_no_records_still_carry_noise() -> None:
    model, inputs, labels = _problem()
    plan = _plan()
    ours = contribute(model, inputs[:0], labels[:0], settings=QUARTER, plan=plan, rng=Randomness.seeded(1))
    assert ours.std() == pytest.approx(plan.share_std, rel=0.3)


def test_a_step_outside_its_plan_is_refused() -> None:
    model, inputs, labels = _problem()
    plan, rng = _plan(), Randomness.seeded(1)
    for clip, rate in ((0.6, 0.25), (0.5, 0.3)):
        with pytest.raises(ConfigError, match="are not the plan's"):
            contribute(
                model, inputs, labels, settings=DpSgdSettings(clip=clip, sample_rate=rate), plan=plan, rng=rng
            )
    with pytest.raises(ConfigError, match="trainable parameters"):
        contribute(nn.Linear(36, 4), inputs, labels, settings=QUARTER, plan=plan, rng=rng)


def test_a_local_update_is_the_parameter_difference() -> None:
    model, inputs, labels = _problem()
    plan = _plan(mode="off", noise_multiplier=None, sample_rate=1.0, local_steps=4)
    start = parameter_vector(model)
    total = local_update(
        model, inputs, labels, plan=plan, rng=Randomness.seeded(3),
        settings=LocalSgdSettings(step=EVERY_RECORD, learning_rate=0.8, mean_size=40),
    )  # fmt: skip
    np.testing.assert_array_equal(start, parameter_vector(model))
    # The same descent in floating point, without grid.
    for _ in range(4):
        gradient = clipped_sum(model, inputs, labels, clip=0.5)
        load_parameter_vector(model, parameter_vector(model) - 0.8 * gradient / 40)
    difference = parameter_vector(model) - start
    ours = -0.8 * 0.5 / plan.scale / 40 * total
    assert np.linalg.norm(ours - difference) < 0.01 * np.linalg.norm(difference)


def test_local_noise_adds_up_over_steps() -> None:
    model, inputs, labels = _problem(0)
    plan = _plan(mode="local", local_steps=5)
    draws = [
        local_update(
            model, inputs, labels, plan=plan, rng=Randomness.seeded(4, i),
            settings=LocalSgdSettings(step=QUARTER, learning_rate=0.1, mean_size=40),
        )
        for i in range(40)
    ]  # fmt: skip
    ratio = np.concatenate(draws).var() / (5 * plan.share_std**2)
    assert abs(ratio - 1) < 5 * math.sqrt(2 / (40 * 111))
