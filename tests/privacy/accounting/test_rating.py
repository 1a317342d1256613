"""A budget in words: the public scale, and the budgets that are refused because they state nothing."""

from __future__ import annotations

import math

import pytest

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.budget_rating import check_budget, rate_budget


@pytest.mark.parametrize(
    ("epsilon", "word", "times"),
    [
        (0.0, "strong", "1.00"), (0.5, "strong", "1.65"), (1.0, "strong", "2.72"),
        (1.0001, "moderate", "2.72"),
        (4.0, "moderate", "55"), (4.01, "weak", "56"), (10.0, "weak", "22,027"),
        (10.01, "little protection", "22,248"), (40.0, "little protection", "10¹⁸"),
    ],
)  # fmt: skip
def test_the_rating_scale(epsilon: float, word: str, times: str) -> None:
    rating = rate_budget(epsilon, delta=1e-5)
    assert rating.word == word
    assert rating.protected is (epsilon <= 10)
    assert f"at most {times} times as likely" in rating.sentence
    assert rating.sentence.lower().startswith(word)


def test_a_delta_that_shows_whole_records_protects_nothing() -> None:
    assert rate_budget(0.5, delta=1e-5, public_total=100_000).word == "strong"
    bad = rate_budget(0.5, delta=1.1e-5, public_total=100_000, unit="product")
    assert bad.word == "little protection" and not bad.protected
    assert "a whole product to be shown" in bad.sentence
    assert rate_budget(0.01, delta=0.4).word == "little protection"


@pytest.mark.parametrize("epsilon", [None, math.inf, math.nan, -1.0])
def test_without_a_bound_there_is_no_factor(epsilon: float | None) -> None:
    rating = rate_budget(epsilon, delta=1e-5)
    assert not rating.protected and "times" not in rating.sentence


@pytest.mark.parametrize(
    ("epsilon", "delta", "total"),
    [
        (1e6, 0.4, None), (1e6, 1e-5, None), (65.0, 1e-5, None), (0.0, 1e-5, None), (-2.0, 1e-5, None),
        (math.nan, 1e-5, None), (math.inf, 1e-5, None), (8.0, 0.4, None), (8.0, 0.011, None),
        (8.0, 0.0, None),
        (8.0, 1e-13, None), (8.0, math.nan, None), (8.0, 2e-3, 1000),
    ],
)  # fmt: skip
def test_meaningless_budgets_are_refused(epsilon: float, delta: float, total: int | None) -> None:
    with pytest.raises(ConfigError, match="choose one such as"):
        check_budget(epsilon=epsilon, delta=delta, public_total=total)


def test_meaningful_budgets_are_accepted() -> None:
    for epsilon, delta, total in (
        (8.0, 1e-5, None),
        (0.01, 1e-12, 10**9),
        (64.0, 0.01, 100),
        (1.0, 1e-3, 1000),
    ):
        check_budget(epsilon=epsilon, delta=delta, public_total=total)
