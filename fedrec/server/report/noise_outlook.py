"""Tell before a training whether its noise leaves enough of its records to learn from.

T sums of a part q of N records with noise multiplier sigma weigh as much against their noise as one sum of
q N sqrt(T) / sigma records against noise of deviation 1, in units of a record's clipped vector. Divided by
the number of classes this is how many deviations a class stands out by, for all kinds of models. It follows
from the plan alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fedrec._internal import number_format
from fedrec.errors import UnreachableBudgetError
from fedrec.privacy.accounting.privacy_spend import least_multiplier
from fedrec.privacy.dp.calibration import BETA
from fedrec.protocol.plan import TrainingPlan
from fedrec.vision.model_registry import takes_features


@dataclass(frozen=True)
class Levels:
    """How far a class must stand out of the noise, for one kind of models; measured in docs/simulation.md.

    Attributes:
        nothing: below this, next to nothing of the accuracy is left.
        enough: below this, a large part of it is lost.
        other: what to change besides the budget and the number of records.
    """

    nothing: float
    enough: float
    other: str


ON_FEATURES: Final = Levels(nothing=4.0, enough=20.0, other="fewer classes")
"""At 4 heads kept a seventh of their accuracy; from 20 on three quarters, one round half or more."""
ON_PICTURES: Final = Levels(nothing=8.0, enough=50.0, other="fewer classes, or a pretrained model (best)")
"""At 4 networks trained from scratch were near chance; at 40 they kept half to three quarters."""
_EPSILONS: Final = (0.5, 1, 2, 3, 4, 6, 8, 12, 16)


def class_over_noise(plan: TrainingPlan) -> float:
    """Compute how far a class of average size stands out of the noise of the whole training.

    Args:
        plan: the plan.

    Returns:
        Records of a class over the noise's deviation, in units of a record; infinite without noise.
    """
    if not plan.privacy_mode.private or not plan.noise_multiplier:
        return math.inf
    shares = 1 if plan.privacy_mode.shares_noise else plan.cohort
    steps = plan.rounds * plan.local_steps
    noise = plan.noise_multiplier * math.sqrt(shares / steps)
    return plan.sample_rate * plan.records_total / (len(plan.classes) * noise)


def levels_of(plan: TrainingPlan) -> Levels:
    """Return the levels of a plan's model: networks on pictures need more than heads on features."""
    return ON_FEATURES if takes_features(plan.model) else ON_PICTURES


def noise_outlook(plan: TrainingPlan, *, epsilon: float | None) -> str | None:
    """Warn of a training whose noise costs most of what there is to learn.

    Args:
        plan: the plan.
        epsilon: its epsilon in the server's view; None without a guarantee.

    Returns:
        One sentence with what would do; None where there is enough left.
    """
    found, levels = class_over_noise(plan), levels_of(plan)
    if epsilon is None or not epsilon < math.inf or found >= levels.enough:
        return None
    each = plan.records_total / len(plan.classes)
    of_class = f"{number_format.count(max(round(each), 1))} records a class"
    what = (
        "next to nothing is left by the noise, and the model will be hardly better than one that guesses"
        if found < levels.nothing
        else "the noise costs a large part of the accuracy"
    )
    more = number_format.count(math.ceil(plan.records_total * levels.enough / found / 100) * 100)
    larger = _larger_epsilon(plan, epsilon, times=levels.enough / found)
    advice = f"{more} records" if larger is None else f"epsilon {larger:g} or {more} records"
    return (
        f"at epsilon {number_format.epsilon(epsilon)} and {of_class} {what}; about {advice} would be "
        f"needed, or {levels.other}"
    )


def _larger_epsilon(plan: TrainingPlan, epsilon: float, *, times: float) -> float | None:
    """Return the least of some epsilons with so many times less noise; None if none has."""
    try:
        now = _noise_of(epsilon, plan.delta)
        return next(
            (other for other in _EPSILONS if other > epsilon and _noise_of(other, plan.delta) <= now / times),
            None,
        )
    except UnreachableBudgetError:
        return None


def _noise_of(epsilon: float, delta: float) -> float:
    """Return the noise multiplier of one sum of all records; with more steps noise grows alike."""
    return least_multiplier(epsilon, delta=delta, sample_rate=1.0, steps=1, beta=BETA)
