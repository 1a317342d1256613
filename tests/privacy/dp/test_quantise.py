"""Stochastic rounding and the bound on what one record moves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.privacy.dp.quantise import choose_scale, sensitivity, stochastic_round
from fedrec.privacy.randomness import Randomness


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20), st.integers(0, 2**32))
def test_rounds_to_a_neighbour(values: list[float], seed: int) -> None:
    x = np.array(values)
    rounded = stochastic_round(x, Randomness.seeded(seed))
    assert rounded.dtype == np.int64
    assert np.all((rounded == np.floor(x)) | (rounded == np.ceil(x)))


def test_rounding_is_unbiased() -> None:
    for value in (0.25, -3.9, 1e6 + 0.01, -1e-3):
        mean = stochastic_round(np.full(200_000, value), Randomness.seeded(3)).mean()
        assert mean == pytest.approx(value, abs=5 * 0.5 / math.sqrt(200_000))


class Dither(Randomness):
    """A stream whose bits are those of one integer K below 2**40, its first 16 and then its last 24."""

    def __init__(self, k: int) -> None:
        super().__init__(bytes(32), is_seeded=True)
        self._k = k

    def uint16(self, count: int) -> NDArray[np.uint16]:
        """Return the first bits."""
        return np.full(count, self._k >> 24, dtype=np.uint16)

    def uint32(self, count: int) -> NDArray[np.uint32]:
        """Return the last bits, below others that must not matter."""
        return np.full(count, self._k & (2**24 - 1) | 0xAB << 24, dtype=np.uint32)


@settings(max_examples=300, deadline=None)
@given(
    whole=st.integers(-(2**51), 2**51),
    fraction=st.integers(0, 2**40) | st.sampled_from([0, 1, 2**24 - 1, 2**24, 2**39, 2**40 - 1]),
    k=st.integers(0, 2**40 - 1),
    step=st.none() | st.integers(-2, 1),
)
def test_rounds_up_for_exactly_as_many_dithers_as_the_fraction_says(
    whole: int, fraction: int, k: int, step: int | None
) -> None:
    """The result is floor(x + K / 2**40), in Python's integers, at the dithers where it changes as well."""
    # As many bits of the fraction as a float64 of this size has.
    whole >>= max(0, whole.bit_length() - 12)
    k = k if step is None else min(max(2**40 - fraction + step, 0), 2**40 - 1)
    found = stochastic_round(np.array([whole + fraction / 2**40]), Dither(k))
    assert found.tolist() == [((whole << 40) + fraction + k) >> 40]


def test_refuses_what_has_no_integer() -> None:
    for value in (float("nan"), float("inf"), 2.0**53):
        with pytest.raises(ConfigError, match="not finite or beyond"):
            stochastic_round(np.array([value]), Randomness.seeded(0))
    with pytest.raises(ConfigError, match="expects float64"):
        stochastic_round(np.zeros((2, 2)), Randomness.seeded(0))


@pytest.mark.parametrize(("dimension", "scale"), [(500, 32), (20_000, 512), (100_000, 2048)])
def test_the_largest_move_of_a_worst_case_record_stays_below(dimension: int, scale: int) -> None:
    rng = Randomness.seeded(4, dimension)
    bound = sensitivity(scale=scale, dimension=dimension, beta=1e-12, float_slack=0.0)
    base = rng.uniform(dimension) * 50
    # Fractions of 1/2 have the most variance; a flat gradient has the most of them.
    flat = np.full(dimension, scale / math.sqrt(dimension))
    few = np.zeros(dimension)
    halves = min(dimension, int((scale / 0.5) ** 2))
    few[:halves] = 0.5
    few[0] = 0.0
    few[0] = math.sqrt(scale**2 - few @ few)
    largest = 0.0
    for draw in range(40):
        for gradient in (flat, few):
            assert np.linalg.norm(gradient) <= scale * (1 + 1e-3)
            # The same dither with and without the record, as in the argument.
            dither = ("dither", draw)
            moved = stochastic_round(base + gradient, rng.child(*dither)) - stochastic_round(
                base, rng.child(*dither)
            )
            largest = max(largest, float(np.linalg.norm(moved)))
    assert largest <= bound
    # And the bound isn't idle: the worst case comes within a few deviations of it.
    assert largest >= bound * 0.75


def test_bound_is_the_published_formula_with_slack() -> None:
    s, d, beta = 2048, 539_146, 1e-12
    plain = math.sqrt(s**2 + d / 4 + math.sqrt(2 * math.log(1 / beta)) * (s + math.sqrt(d) / 2))
    assert sensitivity(scale=s, dimension=d, beta=beta, float_slack=0.0) == pytest.approx(plain, rel=1e-12)
    assert sensitivity(scale=s, dimension=d, beta=beta, float_slack=0.01) == pytest.approx(plain * 1.01)
    assert plain == pytest.approx(2085, abs=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20_000_000))
def test_scale_is_the_smallest_fine_enough(dimension: int) -> None:
    scale = choose_scale(dimension=dimension, beta=1e-12, float_slack=2**-16)
    assert scale & (scale - 1) == 0
    now = sensitivity(scale=scale, dimension=dimension, beta=1e-12, float_slack=2**-16) / scale
    half = sensitivity(scale=scale // 2, dimension=dimension, beta=1e-12, float_slack=2**-16) / (scale // 2)
    assert now <= 1.025 < half


def test_the_scale_of_each_known_dimension_is_the_stated_power_of_two() -> None:
    known = {422_000: 2048, 539_146: 2048, 1_000_000: 4096, 12_000_000: 8192}
    for dimension, scale in known.items():
        assert choose_scale(dimension=dimension, beta=1e-12, float_slack=2**-16) == scale
