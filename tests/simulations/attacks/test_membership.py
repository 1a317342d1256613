"""Membership inference: the attacks against formulas and made-up scores, then on the real training steps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedrec.cli.attacks import membership
from fedrec.errors import AuditError, ConfigError, DataError
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.randomness import Randomness
from fedrec.simulations.attacks.lira import (
    Attack,
    largest_tpr,
    likelihood_ratios,
    loss_threshold,
    margins,
    rates,
)
from fedrec.simulations.attacks.membership import FPR, MembershipSettings, infer_membership
from fedrec.simulations.attacks.shadow_models import Recipe, draw_halves, noise_for

RECIPE = Recipe(steps=50, sample_rate=1.0, learning_rate=1.5, clip=1.0, delta=1e-3)
SMALL = MembershipSettings(epsilons=(2.0,), recipe=RECIPE, records=50, models=10, size=8)


@pytest.mark.slow
def test_members_are_found_without_noise_and_not_with_it() -> None:
    result = infer_membership(SMALL)
    plain, private = result.levels
    assert plain.epsilon is None and private.epsilon == 2.0
    assert plain.accuracy_members > 0.9
    # The attack works: far above chance.
    assert result.attack_works and plain.lira.tpr_low > 0.05 and plain.lira.auc > 0.9
    # With noise it stays below what epsilon allows.
    assert result.exposed == () and private.lira.tpr <= private.bound <= math.exp(2.0) * FPR + 1e-3
    assert private.lira.auc < 0.65

    report = json.loads(json.dumps(result.report(), allow_nan=False))
    assert report["schema"] == "fedrec.membership/1" and report["tpr_without_privacy"] == plain.lira.tpr
    assert report["tpr_at_epsilon_2"] == private.lira.tpr
    assert [level["epsilon"] for level in report["levels"]] == [None, 2.0]


@pytest.mark.slow
def test_noise_too_small_for_its_claim_is_found() -> None:
    # A control: models trained without noise against a claim of epsilon 1.
    result = infer_membership(SMALL)
    claimed = replace(result.levels[0], epsilon=1.0, bound=math.e * FPR + 1e-3)
    assert not claimed.within_bound
    assert replace(result, levels=(result.levels[0], claimed)).exposed == (1.0,)


def test_the_bound_is_that_of_a_gaussian() -> None:
    # One step with every record is a Gaussian mechanism: the best test has TPR Phi(Phi^-1(fpr) + 1/sigma).
    for sigma in (0.5, 1.0, 3.0):
        exact = norm.cdf(norm.ppf(FPR) + 1 / sigma)
        found = largest_tpr([Event(1.0, sigma, 1)], fpr=FPR)
        assert exact <= found <= exact * 1.05
    assert largest_tpr([Event(1.0, 0.0, 1)], fpr=FPR) == 1.0


def test_the_bound_is_not_above_epsilons_own() -> None:
    spent = [Event(0.3, 2.0, 20)]
    bound = largest_tpr(spent, fpr=FPR)
    assert FPR <= bound <= 1.0
    assert bound <= math.exp(epsilon_pld(spent, delta=1e-3)) * FPR + 2e-3


def test_noise_is_that_of_the_claimed_budget() -> None:
    plan = noise_for(RECIPE, epsilon=2.0, dimension=1000, records=25)
    assert plan.share_std == pytest.approx(math.hypot(plan.noise_multiplier * plan.sensitivity, 3))
    spent = plan.spend.epsilon()
    assert 1.98 <= spent <= 2.0
    assert noise_for(RECIPE, epsilon=None, dimension=1000, records=25).share_std == 0.0


def test_margins_are_log_odds() -> None:
    logits = np.array([[2.0, -1.0, 0.5], [0.0, 1000.0, -1000.0]])
    p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    found = margins(logits, np.array([2, 1]))
    assert found[0] == pytest.approx(math.log(p[2] / (1 - p[2])))
    assert found[1] == pytest.approx(1000.0)
    with pytest.raises(DataError, match="not finite"):
        margins(np.array([[np.nan, 0.0]]), np.array([0]))


def test_ratios_find_records_that_differ_in_difficulty() -> None:
    # Every record has a level of its own, far wider than what membership moves: the loss alone is blind.
    rng = np.random.default_rng(0)
    held = rng.random((20, 300)) < 0.5
    margin = 50 * rng.normal(size=300)[None, :] + 3 * held + rng.normal(size=held.shape)
    ratio, threshold = (rates(f(margin, held), fpr=FPR) for f in (likelihood_ratios, loss_threshold))
    assert ratio.auc == pytest.approx(norm.cdf(3 / math.sqrt(2)), abs=0.03)
    assert ratio.tpr > 0.4 and threshold.tpr < 0.05
    # The same scores with membership that has nothing to do with them: chance.
    other = rng.random(held.shape) < 0.5
    chance = rates(likelihood_ratios(margin, other), fpr=FPR)
    assert abs(chance.auc - 0.5) < 0.03 and chance.tpr < 0.03


def test_ratios_are_the_formula() -> None:
    held = np.array([[1, 0], [1, 1], [0, 1], [1, 0], [0, 0], [0, 1]], dtype=bool)
    margin = np.arange(12.0).reshape(6, 2) ** 1.5
    # Model 0 as the target, record 0: two shadows with it, three without; record 1: three and two.
    values, side = margin[1:], held[1:]
    spread_in, spread_out = [], []
    for record in range(2):
        inside, outside = values[side[:, record], record], values[~side[:, record], record]
        spread_in.append(((inside - inside.mean()) ** 2).sum() / 3)
        spread_out.append(((outside - outside.mean()) ** 2).sum() / 3)
    sd_in, sd_out = math.sqrt(sum(spread_in)), math.sqrt(sum(spread_out))
    expected = norm.logpdf(margin[0, 0], values[side[:, 0], 0].mean(), sd_in) - norm.logpdf(
        margin[0, 0], values[~side[:, 0], 0].mean(), sd_out
    )
    attack = likelihood_ratios(margin, held)
    assert attack.scores[0] == pytest.approx(expected) and attack.members[0]
    with pytest.raises(DataError, match="too few"):
        likelihood_ratios(margin[:3], held[:3])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.sampled_from([0.01, 0.1, 0.5]))
def test_rates_against_all_thresholds(seed: int, count: int, fpr: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 50, count).astype(float)  # with ties
    members = np.arange(count) % 2 == 0
    found = rates(Attack(scores, members), fpr=fpr)
    best = max(
        (scores[members] > t).mean()
        for t in [*scores, scores.min() - 1]
        if (scores[~members] > t).mean() <= fpr
    )
    assert found.tpr <= best + 1e-12
    assert found.tpr == pytest.approx(best)
    assert found.tpr_low <= found.tpr <= found.tpr_high and found.guesses == count


def test_unmeasurable_attacks_are_refused() -> None:
    with pytest.raises(DataError, match="all records are members"):
        rates(Attack(np.zeros(3), np.ones(3, dtype=bool)), fpr=FPR)
    for fpr in (0.0, 1.0):
        with pytest.raises(ConfigError, match="outside"):
            rates(Attack(np.arange(4.0), np.array([True, False, True, False])), fpr=fpr)
        with pytest.raises(ConfigError, match="outside"):
            largest_tpr([], fpr=fpr)
    for changes, told in (
        ({"models": 5}, "--models is at least"),
        ({"records": 19}, "--records at least"),
        ({"epsilons": ()}, "--epsilon is missing"),
    ):
        with pytest.raises(ConfigError, match=told):
            infer_membership(replace(SMALL, **changes))


def test_halves_are_fair_coins() -> None:
    held = draw_halves(models=50, records=400, rng=Randomness.seeded(1))
    assert held.shape == (50, 400) and abs(held.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(held[0], held[1])[0, 1]) < 0.15


def test_the_command_writes_figures_and_fails_where_the_attack_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "membership.json"
    arguments = ["--out", str(out), "--records", "20", "--models", "6", "--steps", "1", "--epsilon", "8"]
    app = typer.Typer()
    app.command()(membership)
    with pytest.raises(AuditError, match="attack is too weak"):
        typer.main.get_command(app).main(arguments, standalone_mode=False)
    assert not json.loads(out.read_text())["attack_works"]
    assert "no noise" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="exists already"):
        typer.main.get_command(app).main(arguments, standalone_mode=False)


@pytest.mark.slow
def test_a_head_on_a_frozen_network_is_attacked_at_that_networks_size() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    recipe = replace(RECIPE, learning_rate=10.0)
    result = infer_membership(replace(SMALL, model="effnet-lite0-head", recipe=recipe))
    report = result.report()
    assert report["size"] == 224 and report["parameters"] == 1280 * 11
    assert result.levels[0].accuracy_members > 0.9 and result.levels[0].lira.auc > 0.7
    assert result.exposed == ()
