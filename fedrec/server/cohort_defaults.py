"""Defaults of a cohort: how many merchants are assumed to collude, and how many a sum needs."""

from __future__ import annotations

import math
from fractions import Fraction


def default_colluders(merchants: int) -> int:
    """Return the default number of colluding merchants: 5% of the cohort, rounded up, at least one."""
    return max(1, -(-merchants // 20))


def default_min_contributors(*, merchants: int, colluders: int, drop: Fraction) -> int:
    """Return the default minimum of contributors to an opened sum.

    It is the cohort less those that may be absent or set aside. They are 5% of it, rounded up and at least
    one, as far as two honest merchants remain beside ``colluders``. If twice the expected dropouts, rounded
    up, are more, so many may be absent.

    Args:
        merchants: size of the cohort.
        colluders: merchants assumed to side with the server.
        drop: expected share of the cohort that drops out of a round.

    Returns:
        The minimum; 0 or less where twice the expected dropouts are the whole cohort.
    """
    away = math.ceil(2 * drop * merchants)
    spare = max(1, -(-merchants // 20))
    if away > spare:
        return merchants - away
    return min(merchants, max(merchants - spare, colluders + 2, 1))
