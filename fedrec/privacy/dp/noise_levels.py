"""Split a merchant's noise into layers, so that no sum keeps more noise than its contributors need.

A sum of u merchants needs the noise variance V of its u - c honest ones, c being the colluders: V / (u - c)
from each. How many come isn't known when noise is drawn. So a merchant adds as much as the fewest would need,
in layers, and the layers that turn out not to be needed are opened and subtracted (add-then-remove, Jiang et
al. 2024, "Dordis", section 3, with merchants for clients).

A *level* is a number of contributors whose sum keeps exactly V. Levels fall from the largest to the minimum
of contributors. Layer 0 has the variance V / (level 0 - c), and is never removed; layer j brings what is kept
from the need of level j - 1 to that of level j. A sum keeps the layers up to the first level that isn't above
its number of contributors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.discrete_noise_lemma import LEAST_SHARE
from fedrec.protocol.schema import MAX_LAYERS

_LEAST_VARIANCE = Fraction(LEAST_SHARE) ** 2
_FIRST_EXCESS = Fraction(1, 100)
"""Largest relative excess of a kept deviation for which a level is left out to save a layer, at first."""


def choose_levels(variance: Fraction, *, cohort: int, min_contributors: int, colluders: int) -> list[int]:
    """Choose the numbers of contributors whose sums keep exactly the noise that they need.

    Every number is a level, except where a layer would be narrower than the accounting is proved for
    (:data:`LEAST_SHARE`), and where the numbers between two levels keep at most 1% more deviation than they
    need. If that takes more than :data:`MAX_LAYERS` layers, the 1% is doubled, and so on.

    Args:
        variance: V, the variance that every sum needs, in grid units squared.
        cohort: the most contributors.
        min_contributors: the fewest contributors; at least two more than ``colluders``.
        colluders: c, the merchants whose noise doesn't count.

    Returns:
        The levels, falling; the last is ``min_contributors``.

    Raises:
        ConfigError: the numbers are out of order.
    """
    if not 0 <= colluders < min_contributors <= cohort:
        raise ConfigError(
            f"noise levels: {min_contributors} contributors of {cohort} and {colluders} colluders are out of "
            "order."
        )
    first = min(cohort, colluders + int(variance / _LEAST_VARIANCE))
    if first <= min_contributors:
        return [min_contributors]
    excess = _FIRST_EXCESS
    while True:
        honest = list(
            _falling(variance, first=first - colluders, last=min_contributors - colluders, excess=excess)
        )
        if len(honest) - 1 <= MAX_LAYERS:
            return [level + colluders for level in honest]
        excess *= 2


def _falling(variance: Fraction, *, first: int, last: int, excess: Fraction) -> Iterator[int]:
    """Yield the honest contributors of the levels from ``first`` to ``last``, falling."""
    ratio = (1 + excess) ** 2
    level = first
    while level > last:
        # As far down as the next number's excess allows, and further where the layer would be too narrow.
        near = max(last, math.ceil((level - 1) / ratio))
        wide = int(variance / (variance / level + _LEAST_VARIANCE))
        following = min(near, wide)
        if following < last or _is_narrow(variance, following, last):
            # What is left is too little for a layer of its own, and is part of this one.
            following = last
        if _is_narrow(variance, level, following):
            break
        yield level
        level = following
    yield last


def _is_narrow(variance: Fraction, level: int, following: int) -> bool:
    """Return whether the layer between two levels would be too narrow; False if they are the same."""
    return 0 < variance / following - variance / level < _LEAST_VARIANCE


def layer_variances(variance: Fraction, levels: Sequence[int], *, colluders: int) -> list[Fraction]:
    """Compute the variances of a merchant's layers.

    Args:
        variance: V, the variance that every sum needs.
        levels: the levels, falling.
        colluders: c, the merchants whose noise doesn't count.

    Returns:
        The variance of each layer, of layer 0 first; the first j + 1 add up to V / (level j - c).
    """
    needed = [variance / (level - colluders) for level in levels]
    return [needed[0], *(more - less for less, more in pairwise(needed))]


def rounded_up(variance: Fraction) -> float:
    """Return the smallest float whose square is at least a variance."""
    std = math.sqrt(variance)
    while Fraction(std) ** 2 >= variance:
        std = math.nextafter(std, 0.0)
    while Fraction(std) ** 2 < variance:
        std = math.nextafter(std, math.inf)
    return std


def split_noise(
    variance: float, *, cohort: int, min_contributors: int, colluders: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Split a merchant's noise into its layers.

    Args:
        variance: V, the variance that every sum needs.
        cohort: the most contributors.
        min_contributors: the fewest contributors; at least two more than ``colluders``.
        colluders: c, the merchants whose noise doesn't count.

    Returns:
        The levels, none if no layer can be removed, and the parameter of each layer, of layer 0 first.
    """
    needed = Fraction(variance)
    levels = choose_levels(needed, cohort=cohort, min_contributors=min_contributors, colluders=colluders)
    stds = tuple(map(rounded_up, layer_variances(needed, levels, colluders=colluders)))
    return (tuple(levels) if len(levels) > 1 else ()), stds


def kept_layers(levels: Sequence[int], *, contributors: int) -> int:
    """Count the layers that every merchant's noise keeps in a sum, besides layer 0.

    Args:
        levels: the levels, falling.
        contributors: merchants in the sum; at least the last level.

    Returns:
        The number of layers: those from this one on, counted from layer 1, are removed.

    Raises:
        ConfigError: there are fewer contributors than any level.
    """
    for kept, level in enumerate(levels):
        if level <= contributors:
            return kept
    raise ConfigError(f"noise levels: a sum of {contributors} contributors is below every level.")
