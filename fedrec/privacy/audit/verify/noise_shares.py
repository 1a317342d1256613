"""Compute the noise that every merchant adds from a plan or a charge, and check a plan's noise levels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from .encoding import EXACT
from .modes import MODES
from .outcome import Problem
from .plans import Plan
from .sensitivities import plan_sensitivity
from .trust import has_committee

SMOOTHING, LEAST_SHARE = 3.0, 8.0
"""In grid units: discrete noise of variance V, of parts of at least 8, counts as a Gaussian of V - 9."""


def needed_variance(planned: float, *, sensitivity: float) -> float:
    """Compute the noise variance that the honest merchants of a sum must have together.

    Args:
        planned: the noise multiplier planned for a sum.
        sensitivity: Delta, in grid units.

    Returns:
        V, in grid units squared; 0 without noise.
    """
    return (planned * sensitivity) ** 2 + SMOOTHING**2 if planned else 0.0


def own_multiplier(planned: float, *, mode: str, sensitivity: float, honest: int) -> float:
    """Compute the noise multiplier of the noise of a merchant that stays in a sum of so many honest ones.

    Args:
        planned: the noise multiplier planned for a sum.
        mode: the privacy mode.
        sensitivity: Delta, in grid units.
        honest: contributors to the sum whose noise counts.

    Returns:
        The noise multiplier; the planned one where merchants don't share the noise.
    """
    if planned == 0 or not MODES[mode].shared:
        return float(planned)
    variance = needed_variance(planned, sensitivity=sensitivity)
    variance /= max(1, honest)
    return math.sqrt(max(0.0, variance - SMOOTHING**2)) / sensitivity


def charged_own(charge: Mapping[str, Any], *, sensitivity: float) -> float:
    """Compute the noise multiplier of a merchant's own noise that a charge must state.

    Noise that is never removed is what a sum of some number of contributors needs, from the plan's minimum
    on. The charge states the multiplier alone: the number is the nearest one.

    Args:
        charge: the charge.
        sensitivity: Delta, in grid units.

    Returns:
        The noise multiplier of the nearest such number.
    """
    planned, stated = charge["planned_noise_multiplier"], charge["broken_noise_multiplier"]
    mode, honest = charge["mode"], charge["min_contributors"] - charge["colluders"]
    if planned != 0 and MODES[mode].shared and math.isfinite(stated):
        variance = (stated * sensitivity) ** 2 + SMOOTHING**2
        honest = max(honest, round(needed_variance(planned, sensitivity=sensitivity) / variance))
    return own_multiplier(planned, mode=mode, sensitivity=sensitivity, honest=honest)


def check_levels(plan: Plan, here: str) -> Iterator[Problem]:
    """Check that the noise of every sum is what its contributors need, whatever layers are removed.

    Args:
        plan: the plan.
        here: name of the plan in messages.

    Yields:
        Each condition that the plan's noise levels break.
    """
    levels = plan.noise_levels
    if not levels:
        return
    least, cohort = plan.min_contributors, len(plan.roster)
    if not plan.privacy.shared or not has_committee(plan):
        yield Problem(None, f"{here} removes layers of noise, and no committee opens sums of shared noise")
        return
    if levels[-1] != least or levels[0] > cohort or any(high <= low for high, low in pairwise(levels)):
        yield Problem(
            None, f"{here} has noise levels of {list(levels)} that don't fall to the {least} required"
        )
        return
    needed = needed_variance(plan.noise_multiplier or 0.0, sensitivity=plan_sensitivity(plan.dimension))
    kept = [0.0, *(needed / max(1, level - plan.colluders) for level in levels)]
    if any(more - less < LEAST_SHARE**2 * (1 - EXACT) for less, more in pairwise(kept)):
        yield Problem(None, f"{here} has a layer of noise below {LEAST_SHARE:g} grid units")
