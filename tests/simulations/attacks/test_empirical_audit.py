"""The empirical audit: its bounds against simulated Gaussians, and pipelines that must be flagged or pass."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_pipelines import (
    noise_scaled,
    records_repeated,
    reused,
    reused_by_one,
    without_clip,
)
from dp_accounting import get_sigma_gaussian
from scipy.stats import binom

from fedrec.cli import app as cli
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.lifetime_spend import Lifetime
from fedrec.simulations.attacks.canaries import audit
from fedrec.simulations.attacks.canary_training import AuditOptions
from fedrec.simulations.attacks.one_run_bounds import bound_gaussian, bound_steinke, lower_bound

SMALL: dict[str, Any] = {"canaries": 1500, "rounds": 2}


@pytest.mark.parametrize(("guesses", "correct"), [(200, 150), (500, 480), (100, 100), (1000, 520)])
def test_steinke_s_bound_without_delta_is_the_binomial_s(guesses: int, correct: int) -> None:
    """With delta 0 the theorem is a binomial tail, which has a search of its own here."""
    found = bound_steinke(canaries=1000, guesses=guesses, correct=correct, delta=0.0, error=0.05)
    grid = np.linspace(0, 12, 24_001)
    refuted = grid[binom.sf(correct - 1, guesses, 1 / (1 + np.exp(-grid))) < 0.05]
    assert found == pytest.approx(float(refuted[-1]) if len(refuted) else 0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("guesses", "correct", "delta"), [(200, 180, 1e-5), (300, 296, 1e-4), (40, 40, 1e-6)]
)
def test_steinke_s_bound_is_where_the_theorem_s_chance_is_the_error(
    guesses: int, correct: int, delta: float
) -> None:
    """The theorem term by term, in a loop over exact binomial coefficients."""

    def chance(epsilon: float) -> float:
        rate = math.exp(epsilon) / (1.0 + math.exp(epsilon))
        mass = [math.comb(guesses, k) * rate**k * (1 - rate) ** (guesses - k) for k in range(guesses + 1)]
        steps = range(1, correct + 1)
        alpha = max(sum(mass[correct - step : correct]) * 2.0 / step for step in steps)
        return sum(mass[correct:]) + alpha * 3000 * delta

    found = bound_steinke(canaries=3000, guesses=guesses, correct=correct, delta=delta, error=0.05)
    assert found > 0.5 and chance(found) == pytest.approx(0.05, abs=1e-6)


def test_delta_only_lowers_a_bound() -> None:
    bounds = [
        bound_steinke(canaries=5000, guesses=500, correct=480, delta=delta, error=0.05)
        for delta in (0.0, 1e-6, 1e-5, 1e-4)
    ]
    assert bounds == sorted(bounds, reverse=True) and bounds[0] > bounds[-1] > 0


def test_more_right_guesses_never_lower_a_bound() -> None:
    for bound in (bound_steinke, bound_gaussian):
        found = [
            bound(canaries=2000, guesses=200, correct=right, delta=1e-5, error=0.05)
            for right in range(100, 201, 10)
        ]
        assert found == sorted(found) and found[0] == 0.0


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_bounds_of_a_gaussian_hold_and_say_something(epsilon: float) -> None:
    """Canaries through an exact Gaussian mechanism: a bound above the truth in at most 5% of runs."""
    rng = np.random.default_rng(1)
    sigma, runs = get_sigma_gaussian(epsilon, 1e-5), 40
    found: dict[str, list[float]] = {"steinke": [], "gaussian": []}
    for _ in range(runs):
        included = rng.random(3000) < 0.5
        scores = included + sigma * rng.normal(size=3000)
        for name, bound in (("steinke", bound_steinke), ("gaussian", bound_gaussian)):
            found[name].append(lower_bound(scores, included, delta=1e-5, error=0.05, bound=bound))
    for bounds in found.values():
        # 8 or more of 40 at a chance of 5% each have a chance below 0.1%.
        assert sum(bound > epsilon for bound in bounds) <= 7
    assert np.median(found["gaussian"]) > np.median(found["steinke"]) > 0.1 * epsilon


@pytest.mark.parametrize("scheme", ["kahe", "none"])
def test_the_honest_pipeline_passes_and_the_audit_is_not_blind(scheme: str) -> None:
    result = audit(AuditOptions(epsilon=8.0, scheme=scheme, **SMALL))
    assert result.violations == ()
    assert 1.5 < result.epsilon_lower_bound < 8.0
    # Without encryption the ledgers charge for what is seen: each merchant's own share of the noise.
    assert (result.epsilon_claimed <= 8.0) is (scheme == "kahe")
    assert result.shared_noise == pytest.approx(0.0, abs=6 / SMALL["canaries"] ** 0.5)


LAYERED: dict[str, Any] = {"contributors": 5, "min_contributors": 3, **SMALL}
"""Five come where three would do: what each adds for two that might stay away is removed."""


def test_the_audit_covers_noise_that_is_removed() -> None:
    result = audit(AuditOptions(epsilon=8.0, **LAYERED))
    assert result.violations == () and result.epsilon_claimed <= 8.0
    # No blinder than where nothing is removed: more noise than is claimed would lower the bound.
    assert 1.5 < result.epsilon_lower_bound < 8.0
    with noise_scaled(0.25):
        result = audit(AuditOptions(epsilon=1.0, **LAYERED))
    assert len(result.violations) == 1 and "was claimed" in result.violations[0]


def test_the_audit_covers_sampling() -> None:
    result = audit(AuditOptions(epsilon=8.0, sample_rate=0.5, canaries=1000, rounds=3))
    assert result.violations == () and result.bound_gaussian is None
    assert 0.0 < result.epsilon_lower_bound < result.epsilon_claimed


@pytest.mark.parametrize(
    "broken",
    [lambda: noise_scaled(0.25), lambda: records_repeated(3), without_clip],
    ids=["a quarter of the noise", "records three times", "no clip"],
)
def test_a_broken_pipeline_is_flagged(broken: Callable[[], AbstractContextManager[None]]) -> None:
    with broken():
        result = audit(AuditOptions(epsilon=1.0, **SMALL))
    assert len(result.violations) == 1 and "was claimed" in result.violations[0]


def test_reused_randomness_is_flagged() -> None:
    result = audit(AuditOptions(epsilon=1.0, **SMALL), randomness_for=reused)
    assert result.shared_noise == pytest.approx(1.0, abs=0.01)
    assert any("of their noise" in violation for violation in result.violations)


def test_randomness_reused_by_a_single_merchant_is_flagged() -> None:
    """Half the noise of two honest merchants is new in every round; the other half is not."""
    result = audit(AuditOptions(epsilon=1.0, **SMALL), randomness_for=reused_by_one)
    assert result.shared_noise == pytest.approx(0.5, abs=0.1)
    assert any("of their noise" in violation for violation in result.violations)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "flagged"),
    [
        (nullcontext, False),
        (lambda: noise_scaled(0.5), True),
        (lambda: noise_scaled(0.25), True),
        (lambda: records_repeated(3), True),
        (without_clip, True),
    ],
    ids=["honest", "half the noise", "a quarter of the noise", "records three times", "no clip"],
)
def test_controls_at_the_defaults(broken: Callable[[], AbstractContextManager[None]], flagged: bool) -> None:
    for _ in range(3):
        with broken():
            assert bool(audit(AuditOptions(epsilon=1.0)).violations) is flagged


def test_the_claim_is_read_from_the_ledgers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that writes down less than the plan's epsilon is a violation, whatever leaks."""
    real = Lifetime.own_epsilon
    monkeypatch.setattr(Lifetime, "own_epsilon", lambda self, cost: 0.5 * real(self, cost))
    result = audit(AuditOptions(epsilon=8.0, **SMALL))
    assert result.epsilon_claimed == pytest.approx(4.0, rel=0.01)
    assert any("the ledgers claim an epsilon of" in violation for violation in result.violations)


def test_the_command_writes_its_figures_and_ends_with_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["fedrec", "audit", "empirical", "--canaries", "5000", "--json", str(tmp_path / "e.json")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--runs", "2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and "Nothing contradicts the claim" in capsys.readouterr().out
    document = json.loads((tmp_path / "e.json").read_text("utf-8"))
    assert document["schema"] == "fedrec.empirical/1" and document["runs"] == 2
    bounds = [detail["bound_gaussian"] for detail in document["details"]]
    assert document["epsilon_lower_bound"] == max(bounds)
    assert document["epsilon_lower_bound_median"] == pytest.approx(sum(bounds) / 2)
    assert document["confidence"] == 0.95 and document["confidence_of_each_run"] == pytest.approx(0.975)
    monkeypatch.setattr(sys, "argv", [*arguments, "--epsilon", "1"])
    with noise_scaled(0.1), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 15 and "leaks more than it claims" in capsys.readouterr().err


def test_too_few_canaries_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fedrec", "audit", "empirical", "--canaries", "4999"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "at least 5000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [{"canaries": 10}, {"canaries": 200_000}, {"confidence": 0.4}, {"confidence": 1.0}]
)
def test_options_that_allow_no_conclusion_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="is outside"):
        AuditOptions(**options)  # type: ignore[arg-type]
