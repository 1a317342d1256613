"""Rate the epsilon of a plan in words."""

from __future__ import annotations

from fedrec.privacy.accounting.budget_rating import Rating, rate_budget, unit_in_words
from fedrec.protocol.plan import TrainingPlan


def rate_plan(plan: TrainingPlan, epsilon: float | None, *, seeded: bool = False) -> Rating:
    """Rate the epsilon of a training in words.

    Args:
        plan: the training's plan.
        epsilon: the epsilon to rate, None without a guarantee.
        seeded: whether noise came from a seed.

    Returns:
        The rating.
    """
    bounded = epsilon if plan.privacy_mode.private and not seeded else None
    return rate_budget(
        bounded, delta=plan.delta, unit=unit_in_words(plan.unit), public_total=plan.records_total
    )
