"""Compute the epsilons of a plan that a server's status shows, without what a training needs."""

from __future__ import annotations

from functools import lru_cache

from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.accounting.ledger_entries import finite
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.plan import TrainingPlan


def epsilons_by_round(plan: TrainingPlan) -> tuple[float | None, ...]:
    """Return epsilon by PLD, in the server's view, of the declared count and 0, 1, ... rounds.

    Each is None without a guarantee. None of them includes site figures.
    """
    # A frozen pydantic model has a hash, which pyright doesn't see.
    return _by_round(plan)  # pyright: ignore[reportArgumentType]


def epsilon_planned(plan: TrainingPlan) -> float | None:
    """Return epsilon by PLD, in the server's view, of all that a plan asks for, site figures included.

    It is None without a guarantee.
    """
    return _planned(plan)  # pyright: ignore[reportArgumentType]


def epsilon_if_broken(plan: TrainingPlan, *, rounds: int) -> float | None:
    """Return epsilon by PLD if every upload were seen in clear.

    Args:
        plan: the training's plan.
        rounds: how many rounds are charged.

    Returns:
        Epsilon, None without a guarantee.
    """
    return _if_broken(plan, rounds)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=4)
def _by_round(plan: TrainingPlan) -> tuple[float | None, ...]:
    if not plan.privacy_mode.private:
        return (None,) * (plan.rounds + 1)
    spend = derive(plan).spend.with_releases(count_event())
    return tuple(finite(epsilon) for epsilon in spend.schedule(every=plan.local_steps))


@lru_cache(maxsize=4)
def _planned(plan: TrainingPlan) -> float | None:
    if plan.site_figures is None:
        return _by_round(plan)[-1]  # pyright: ignore[reportArgumentType]
    if not plan.privacy_mode.private:
        return None
    return finite(derive(plan).whole_spend.with_releases(count_event()).epsilon())


@lru_cache(maxsize=4)
def _if_broken(plan: TrainingPlan, rounds: int) -> float | None:
    if not plan.privacy_mode.private:
        return None
    spend = derive(plan).spend.with_steps(rounds * plan.local_steps).with_releases(count_event())
    return finite(spend.epsilon("aggregation_broken"))
