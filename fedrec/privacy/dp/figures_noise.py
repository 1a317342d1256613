"""Plan the noise of site figures: of the one sum of a vector per unit, in which every unit takes part.

A unit of class y contributes 0.8 in the place of class y, 0.48 if the model is right about it, and 0.36 times
its loss over the largest one that counts. The squares of the three weights add up to 1, so that no unit's
vector is longer than 1, whatever it is: that is the clip, and a count's noise is the sum's over 0.8.
"""

from __future__ import annotations

import math
from typing import Final

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.noise_multiplier import noise_multiplier_for
from fedrec.privacy.dp.bounds import MAX_RECORDS
from fedrec.privacy.dp.calibration import BETA, NoiseRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.site_figures import SiteFigures, figures_length

COUNT_WEIGHT: Final = 0.8
"""Weight of a unit in the count of its class."""
CORRECT_WEIGHT: Final = 0.48
"""Weight of a unit in the number of those that the model is right about."""
LOSS_WEIGHT: Final = 0.36
"""Weight of a unit's loss, divided by the largest one that counts."""
CLIP: Final = 1.0
"""The largest norm of a unit's vector."""

_MOST_DECLARED: Final = MAX_RECORDS - 4096
"""A merchant that declared so many has more than a sum takes with a negligible probability."""


def largest_loss(classes: int) -> float:
    """Return the loss that larger ones are cut to: twice that of a model that takes all classes as equal."""
    return 2.0 * math.log(max(2, classes))


def figures_request(plan: TrainingPlan, figures: SiteFigures) -> NoiseRequest:
    """Return what the noise of the round of site figures is planned from.

    Args:
        plan: the training's plan.
        figures: its site figures.

    Returns:
        The request.

    Raises:
        ConfigError: a merchant may have more units than a sum takes.
    """
    if plan.records_largest > _MOST_DECLARED:
        raise ConfigError(
            f"site figures take every unit of a merchant in one sum, {_MOST_DECLARED} at most, and the "
            f"largest declared {plan.records_largest}: leave them out"
        )
    return NoiseRequest(
        mode=plan.mode,
        epsilon=None,
        noise_multiplier=figures.noise_multiplier,
        delta=plan.delta,
        sample_rate=1.0,
        steps=1,
        dimension=figures_length(len(plan.classes)),
        clip=CLIP,
        cohort=plan.cohort,
        min_contributors=plan.min_contributors,
        colluders=plan.colluders,
        records_per_merchant=plan.records_largest,
    )


def figures_multiplier(epsilon: float, *, delta: float) -> float:
    """Compute the noise multiplier of site figures that cost a given epsilon by themselves.

    Args:
        epsilon: of the figures alone, by PLD.
        delta: the plan's whole delta.

    Returns:
        The noise multiplier.

    Raises:
        ConfigError: ``epsilon`` or ``delta`` is out of range.
        UnreachableBudgetError: no noise reaches ``epsilon``.
    """
    return noise_multiplier_for(epsilon=epsilon, delta=delta - BETA, sample_rate=1.0, steps=1)
