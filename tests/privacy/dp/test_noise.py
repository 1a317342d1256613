"""The discrete Gaussian sampler against the law computed from its definition, with mpmath."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal, localcontext
from itertools import accumulate
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fedrec.errors import ConfigError
from fedrec.privacy.dp import noise
from fedrec.privacy.dp.gaussian_table import gaussian_table
from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.randomness import Randomness

DIGITS = 100


def law(sigma: float) -> tuple[int, list[Any]]:
    """The reach, 25 sigma, and the probabilities from there to there, to 100 digits."""
    reach = int(25 * sigma) + 2
    with mpmath.workdps(DIGITS):
        half = [mpmath.exp(-mpmath.mpf(y * y) / (2 * mpmath.mpf(sigma) ** 2)) for y in range(reach + 1)]
        total = half[0] + 2 * mpmath.fsum(half[1:])
        return reach, [half[abs(y)] / total for y in range(-reach, reach + 1)]


@settings(max_examples=15, deadline=None)
@given(sigma=st.floats(0.01, 30.0))
def test_the_table_is_the_law_but_for_two_to_the_minus_200(sigma: float) -> None:
    table = gaussian_table(sigma)
    reach, probabilities = law(sigma)
    ours = [high - low for low, high in zip((0, *table.exact), table.exact, strict=False)]
    assert table.shift == 0 and table.exact[-1] == 2**240 and min(ours) >= 0
    with mpmath.workdps(DIGITS):
        padded = [0] * (reach - table.half) + ours + [0] * (reach + 1 - table.half)
        distance = sum(
            abs(mpmath.mpf(got) / 2**240 - want) for got, want in zip(padded, probabilities, strict=True)
        )
        assert distance / 2 < mpmath.mpf(2) ** -200


@pytest.mark.parametrize("sigma", [700.25, 1024.0, 1024.5, 3e4, 2.0**30])
def test_a_cell_weighs_what_its_integer_nearest_to_zero_does(sigma: float) -> None:
    """So that acceptance, density over weight, never passes 1; ``sure`` is below it all over the cell."""
    table = gaussian_table(sigma)
    width = 1 << table.shift
    assert 512 < sigma / width <= 1024
    middle = table.exact[table.half] - table.exact[table.half - 1]
    with mpmath.workdps(DIGITS):
        accepted = mpmath.sqrt(2 * mpmath.pi) * sigma / width * middle / 2**240
        assert mpmath.mpf(1) - mpmath.mpf(2) ** -100 > accepted > 0.998 or width == 1
        for cell in (-table.half, -4001, -37, -2, -1, 1, 2, 511, 8000, table.half - 1):
            i = cell + table.half
            ends = (cell * width, (cell + 1) * width - 1)
            least, largest = sorted(mpmath.exp(-((mpmath.mpf(y) / sigma) ** 2) / 2) for y in ends)
            weight = table.exact[i] - (table.exact[i - 1] if i else 0)
            assert abs(mpmath.mpf(weight) / middle - largest) < mpmath.mpf(2) ** -220
            assert (
                0
                <= least / largest - mpmath.mpf(int(table.accepted_below[cell])) / 2**16
                < mpmath.mpf(3) / 2**16
            )


class Scripted(Randomness):
    """A stream that hands out uniforms of 240 bits piece by piece, as cuts known to the test need it."""

    def __init__(self, uniforms: Sequence[int], cuts: Sequence[int]) -> None:
        super().__init__(bytes(32), is_seeded=True)
        prefixes, words = {cut >> 224 for cut in cuts}, {cut >> 192 for cut in cuts}
        self.first = [u >> 224 for u in uniforms]
        self.second = [(u >> 192) % 2**32 for u in uniforms if u >> 224 in prefixes]
        self.rest = [u % 2**192 for u in uniforms if u >> 192 in words]
        self.ties = len(self.rest)

    def uint16(self, count: int) -> NDArray[np.uint16]:
        assert count == len(self.first)
        return np.array(self.first, dtype=np.uint16)

    def uint32(self, count: int) -> NDArray[np.uint32]:
        assert count == len(self.second)
        return np.array(self.second, dtype=np.uint32)

    def bytes(self, count: int) -> bytes:
        return self.rest.pop(0).to_bytes(count, "little")


@settings(max_examples=15, deadline=None)
@given(sigma=st.floats(0.05, 12.0), seed=st.integers(0, 2**32))
def test_a_uniform_falls_where_all_its_digits_say(sigma: float, seed: int) -> None:
    """Beside every cut of a table made with mpmath and anywhere: 16, 48 or 240 bits decide alike."""
    reach, probabilities = law(sigma)
    with mpmath.workdps(DIGITS):
        cuts = [int(mpmath.floor(c * 2**240)) for c in accumulate(probabilities)]
    uniforms = [cut + away for cut in cuts for away in (-(2**41), 2**41)]
    uniforms += [(cut >> 192 << 192) + rest for cut in cuts for rest in (0, 2**192 - 1)]
    chance = random.Random(seed)
    uniforms += [chance.getrandbits(240) for _ in range(100)]
    # Nearer than 2**-199 to a cut, the sampler's own may lie on the other side.
    uniforms = [u for u in uniforms if 0 <= u < 2**240 and all(abs(u - cut) >= 2**41 for cut in cuts)]
    script = Scripted(uniforms, cuts)
    got = noise._cells(len(uniforms), gaussian_table(sigma), script)
    assert [int(y) for y in got] == [bisect_right(cuts, u) - reach for u in uniforms]
    assert script.ties > 2 and not script.rest


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 1.9, 2.7, 7.0, 20.0])
def test_draws_follow_the_law_sign_by_sign(sigma: float) -> None:
    n = 400_000
    draws = discrete_gaussian(n, sigma=sigma, rng=Randomness.seeded(5, "chi"))
    reach, probabilities = law(sigma)
    expected = np.array([float(p) for p in probabilities]) * n
    observed = np.bincount(draws + reach, minlength=2 * reach + 1)
    rare = expected < 10
    statistic = ((observed - expected)[~rare] ** 2 / expected[~rare]).sum()
    if expected[rare].sum() > 1:
        statistic += (observed[rare].sum() - expected[rare].sum()) ** 2 / expected[rare].sum()
    assert statistic < stats.chi2.ppf(0.9999, (~rare).sum())
    # Rare values are there as often as they should be, whatever their sign.
    for side in (slice(None, reach), slice(reach + 1, None)):
        few = expected[side][rare[side]].sum()
        assert abs(observed[side][rare[side]].sum() - few) < 5 * np.sqrt(few) + 5


@pytest.mark.parametrize("sigma", [50.0, 700.0, 1450.0, 2.0**20 + 0.3, 2.0**30])
def test_large_sigma_is_as_good_as_gaussian(sigma: float) -> None:
    n = 400_000
    draws = discrete_gaussian(n, sigma=sigma, rng=Randomness.seeded(6, "moments"))
    scaled = draws / sigma
    assert abs(scaled.mean()) < 5 / np.sqrt(n)
    assert abs(scaled.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((scaled**4).mean() - 3) < 5 * np.sqrt(96 / n)
    assert stats.kstest(scaled[:100_000], "norm").pvalue > 1e-3
    assert abs((scaled[1:] * scaled[:-1]).mean()) < 5 / np.sqrt(n)


@pytest.mark.parametrize("sigma", [1450.0, 5000.0])
def test_integers_of_wide_cells_follow_the_law(sigma: float) -> None:
    """Residues and cell edges: a cell drawn flat, or accepted with a wrong side, would show there."""
    n, width = 400_000, 1 << gaussian_table(sigma).shift
    assert width > 1
    draws = discrete_gaussian(n, sigma=sigma, rng=Randomness.seeded(8, "cells"))
    counts = np.bincount(draws % (4 * width), minlength=4 * width)
    assert ((counts - n / counts.size) ** 2 / (n / counts.size)).sum() < stats.chi2.ppf(0.9999, counts.size)
    # 400 bins as wide as chance has them, their law by summing densities.
    support = np.arange(-int(6 * sigma), int(6 * sigma) + 1)
    density = np.exp(-(support.astype(float) ** 2) / (2 * sigma**2))
    density /= density.sum()
    bins = np.minimum((np.cumsum(density) * 400).astype(int), 399)
    expected = np.bincount(bins, weights=density, minlength=400) * n
    inside = np.abs(draws) <= support[-1]
    observed = np.bincount(bins[draws[inside] - support[0]], minlength=400)
    assert ((observed - expected) ** 2 / expected).sum() < stats.chi2.ppf(0.9999, 400)


def test_far_values_of_wide_cells_are_accepted_as_often_as_their_density_says() -> None:
    """At 17 sigma a cell's density falls by a thirtieth; each position of one is kept in proportion."""
    sigma = 530.0 * 64
    table = gaussian_table(sigma)
    cells = np.full(400_000, 16 * 530, dtype=np.int16)
    width = 1 << table.shift
    assert width == 64
    for side in (cells, ~cells):
        kept = noise._accepted(side, table, sigma=sigma, rng=Randomness.seeded(11, int(side[0])))
        places = np.bincount(kept - int(side[0]) * width, minlength=width)
        values = int(side[0]) * width + np.arange(width)
        nearest = np.abs(values).min()
        keep = np.exp(-(np.abs(values) - nearest) * (np.abs(values) + nearest) / (2 * sigma**2))
        expected = cells.size / width * keep
        assert keep.min() < 0.98
        assert ((places - expected) ** 2 / expected).sum() < stats.chi2.ppf(0.9999, width)


class Candidates(Randomness):
    """A stream for :func:`noise._accepted`: offsets in their cells, then uniforms of 48 bits."""

    def __init__(self, offsets: Sequence[int], words: Sequence[int]) -> None:
        super().__init__(bytes(32), is_seeded=True)
        self.queue = [offsets, [word % 2**32 for word in words]]
        self.prefixes = [word >> 32 for word in words]

    def uint16(self, count: int) -> NDArray[np.uint16]:
        return np.array(self.prefixes, dtype=np.uint16)

    def uint32(self, count: int) -> NDArray[np.uint32]:
        values = self.queue.pop(0)
        assert count == len(values)
        return np.array(values, dtype=np.uint32)


@pytest.mark.parametrize("sigma", [1025.0, 3000.5, 2.0**30])
@pytest.mark.parametrize("near", [2.0**-47, 1.0])
def test_acceptance_is_the_density_over_the_cells_largest(
    sigma: float, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By uniforms a hair above and below it, decided in float64 and, with all of them near, in digits."""
    monkeypatch.setattr(noise, "_EXACT_WITHIN", near)
    table = gaussian_table(sigma)
    width = 1 << table.shift
    cells, offsets, words, wanted = [], [], [], []
    for cell in (-table.half, -8000, -400, -3, -2, -1, 0, 1, 2, 399, 8000, table.half - 1):
        for offset in {0, 1, width // 2, width - 1}:
            value = cell * width + offset
            nearest = min(abs(cell * width), abs((cell + 1) * width - 1))
            with mpmath.workdps(60):
                ratio = mpmath.exp(-(mpmath.mpf(value) ** 2 - nearest**2) / (2 * mpmath.mpf(sigma) ** 2))
                border = int(mpmath.floor(ratio * 2**48))
            for word in (border - 2, border + 2):
                if word < 2**48:
                    cells.append(cell)
                    offsets.append(offset)
                    words.append(word)
                    wanted += [value] if word < border else []
    got = noise._accepted(np.array(cells, dtype=np.int16), table, sigma=sigma, rng=Candidates(offsets, words))
    assert got.tolist() == wanted and len(wanted) < len(words) - 10


@pytest.mark.parametrize("error", [0.0, 2.0**-46])
def test_no_draw_depends_on_how_a_machine_rounds(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exponentials that err in their last digits, and digits in place of them, give the same draws."""
    usual = discrete_gaussian(20_000, sigma=1025.0, rng=Randomness.seeded(9))
    coins = np.random.default_rng(5)
    exact = np.exp
    if error:
        monkeypatch.setattr(np, "exp", lambda x: exact(x) * (1 + error * coins.uniform(-1, 1, np.shape(x))))
    else:
        monkeypatch.setattr(noise, "_EXACT_WITHIN", 1.0)
    gaussian_table.cache_clear()
    np.testing.assert_array_equal(usual, discrete_gaussian(20_000, sigma=1025.0, rng=Randomness.seeded(9)))


@pytest.mark.parametrize(
    ("sigma", "digest"),
    [
        (8.0, "2d37216e26034be4"),
        (512.0, "e459f596ce196767"),
        (1025.0, "a9dd6df747952263"),
        (3000.5, "7560993c0c862d2d"),
        (1e6, "2c9a1aa47c5dccba"),
    ],
)
def test_a_key_gives_the_same_draws_on_every_machine(sigma: float, digest: str) -> None:
    draws = discrete_gaussian(200_000, sigma=sigma, rng=Randomness(b"k" * 32, is_seeded=True))
    assert hashlib.sha256(draws.astype("<i8").tobytes()).hexdigest()[:16] == digest


def test_the_last_bits_decide_with_the_right_probability() -> None:
    # Of the uniforms that share 48 bits with a probability, the part below it is accepted.
    sigma, squares = 3000.0, 12345
    with localcontext() as context:
        context.prec = 80
        probability = (-Decimal(squares) / (2 * Decimal(sigma) ** 2)).exp() * 2**48
        word = int(probability)
        part = float(probability - word)
    assert 0.1 < part < 0.9
    rng = Randomness.seeded(10)
    kept = [noise._is_accepted(word, squares=squares, sigma=sigma, rng=rng) for _ in range(4_000)]
    assert abs(np.mean(kept) - part) < 5 * np.sqrt(part * (1 - part) / 4_000)
    assert all(noise._is_accepted(word - 1, squares=squares, sigma=sigma, rng=rng) for _ in range(20))
    assert not any(noise._is_accepted(word + 1, squares=squares, sigma=sigma, rng=rng) for _ in range(20))


def test_shapes_seeds_and_errors() -> None:
    assert discrete_gaussian(0, sigma=3.0, rng=Randomness.seeded(1)).shape == (0,)
    for sigma in (3.0, 3000.0):
        one = discrete_gaussian(70_001, sigma=sigma, rng=Randomness.seeded(1))
        assert one.dtype == np.int64 and one.shape == (70_001,)
        np.testing.assert_array_equal(one, discrete_gaussian(70_001, sigma=sigma, rng=Randomness.seeded(1)))
        assert (one != discrete_gaussian(70_001, sigma=sigma, rng=Randomness.seeded(2))).any()
    assert not discrete_gaussian(1000, sigma=0.01, rng=Randomness.seeded(1)).any()
    for sigma in (0.0, 0.009, -1.0, float("nan"), float("inf"), 2.0**31):
        with pytest.raises(ConfigError):
            discrete_gaussian(3, sigma=sigma, rng=Randomness.seeded(1))
    with pytest.raises(ConfigError):
        discrete_gaussian(-1, sigma=3.0, rng=Randomness.seeded(1))


def test_a_cached_table_cannot_be_changed() -> None:
    table = gaussian_table(5.0)
    for array in (table.words, table.first, table.decided, table.accepted_below):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
