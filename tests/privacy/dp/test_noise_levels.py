"""The layers of a merchant's noise: what every sum keeps, in exact numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError
from fedrec.privacy.dp.noise_levels import (
    choose_levels,
    kept_layers,
    layer_variances,
    rounded_up,
)
from fedrec.protocol.schema import MAX_LAYERS


def kept(levels: list[int], variances: list[Fraction], *, contributors: int, colluders: int) -> Fraction:
    """Add up what the honest contributors of a sum keep, layer by layer."""
    layers = kept_layers(levels, contributors=contributors)
    return (contributors - colluders) * sum(variances[: layers + 1], Fraction(0))


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[Fraction, int, int, int]:
    """Draw a variance, a cohort, a minimum and a number of colluders that a plan may have."""
    cohort = draw(st.one_of(st.integers(3, 40), st.integers(3, 1000)))
    colluders = draw(st.integers(1, max(1, min(cohort - 2, cohort // 8))))
    minimum = draw(st.integers(colluders + 2, cohort))
    # From the narrowest share that a plan may have up to those of large models.
    width = draw(st.floats(8.0, 5e4))
    return (minimum - colluders) * Fraction(width) ** 2, cohort, minimum, colluders


@settings(max_examples=150, deadline=None)
@given(case=cohorts())
def test_no_sum_keeps_less_than_it_needs_nor_two_percent_more(
    case: tuple[Fraction, int, int, int],
) -> None:
    variance, cohort, minimum, colluders = case
    levels = choose_levels(variance, cohort=cohort, min_contributors=minimum, colluders=colluders)
    variances = layer_variances(variance, levels, colluders=colluders)
    assert len(variances) - 1 <= MAX_LAYERS and min(variances) >= 64
    assert levels == sorted(set(levels), reverse=True) and levels[0] <= cohort and levels[-1] == minimum
    wide = variance / (cohort - colluders) >= 64**2
    few = cohort - minimum <= MAX_LAYERS or cohort - colluders <= 3 * (minimum - colluders)
    for contributors in range(minimum, cohort + 1):
        noise = kept(levels, variances, contributors=contributors, colluders=colluders)
        assert noise >= variance
        if contributors in levels:
            assert noise == variance
        if wide and few:
            assert noise <= variance * Fraction(102, 100) ** 2


@given(cohort=st.integers(3, 30), data=st.data())
def test_every_count_has_its_own_level_where_layers_are_wide(cohort: int, data: st.DataObject) -> None:
    minimum = data.draw(st.integers(3, cohort))
    variance = Fraction(64 * cohort**2)
    levels = choose_levels(variance, cohort=cohort, min_contributors=minimum, colluders=1)
    assert levels == list(range(cohort, minimum - 1, -1))
    # The definition, without the code's differences: layer 0, then one layer for each merchant that stays
    # away.
    expected = [variance / (cohort - 1)]
    expected += [
        variance / (cohort - j - 1) - variance / (cohort - j) for j in range(1, cohort - minimum + 1)
    ]
    assert layer_variances(variance, levels, colluders=1) == expected


def test_narrow_layers_are_merged_upwards() -> None:
    # 18 honest of 20: shares of 8 to 8.5 grid units, whose differences are far below 8.
    assert choose_levels(Fraction(64 * 19), cohort=20, min_contributors=18, colluders=1) == [18]
    # The whole cohort's share would be below 8, so that layer 0 is that of a smaller sum.
    assert choose_levels(Fraction(64 * 10), cohort=20, min_contributors=5, colluders=1) == [11, 5]
    # In between, the next smaller level's noise is kept.
    assert [kept_layers([11, 5], contributors=count) for count in (20, 11, 10, 5)] == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match="below every level"):
        kept_layers([11, 5], contributors=4)
    with pytest.raises(ConfigError, match="out of order"):
        choose_levels(Fraction(10**6), cohort=4, min_contributors=5, colluders=1)


@given(variance=st.fractions(64, 10**12))
def test_a_deviation_is_never_rounded_below_its_variance(variance: Fraction) -> None:
    std = rounded_up(variance)
    assert Fraction(std) ** 2 >= variance > Fraction(math.nextafter(std, 0.0)) ** 2
    assert (rounded_up(Fraction(64)), rounded_up(Fraction(10**8))) == (8.0, 10000.0)
