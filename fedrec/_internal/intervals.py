"""Confidence intervals: of a share that was measured on some records, and of a mean over some runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import Final

CONFIDENCE: Final = 0.95
_NORMAL: Final = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def wilson_interval(share: float, records: int) -> tuple[float, float]:
    """Return the 95% interval of a share that was measured on so many records.

    The score interval of Wilson (1927), "Probable inference, the law of succession, and statistical
    inference". It says how far the share may be from that of all records like these. For a mean of several
    shares on the same records it is too wide rather than too narrow.

    Args:
        share: the share of successes, in [0, 1].
        records: how many records it was measured on, at least 1.

    Returns:
        Both ends, in [0, 1].
    """
    squared = _NORMAL**2
    centre = (share + squared / (2 * records)) / (1 + squared / records)
    spread = math.sqrt(share * (1 - share) / records + squared / (4 * records**2))
    half = _NORMAL * spread / (1 + squared / records)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95% interval of a mean by Student's t, for independent values that are about normal.

    Args:
        values: the values.

    Returns:
        Both ends; None for fewer than two values, which don't show how much they vary.
    """
    if len(values) < 2:
        return None
    # Imported here: it takes a tenth of a second, and most commands compare nothing.
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    half = quantile * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half
