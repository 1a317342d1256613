"""Compute the epsilons of a training's steps, its site figures and the declared counts, for reports."""

from __future__ import annotations

from fedrec.privacy.accounting import accountant_registry
from fedrec.privacy.accounting.count_release import COUNT_SIGMA, count_event
from fedrec.privacy.accounting.group_privacy import SHOWN_COPIES
from fedrec.privacy.accounting.ledger_entries import finite
from fedrec.privacy.accounting.privacy_spend import PrivacySpend
from fedrec.privacy.derived_parameters import Derived
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.training_report.privacy_section import ChargedEvent


def epsilon_after(
    plan: TrainingPlan,
    derived: Derived,
    *,
    steps: int,
    figures: bool = False,
    broken: bool = False,
    delta: float | None = None,
) -> float | None:
    """Return the proved epsilon of noised steps and of the count that a merchant declared before them.

    It is computed by privacy loss distributions (PLD).

    Args:
        plan: the training's plan.
        derived: what follows from it.
        steps: number of noised steps.
        figures: whether the round of site figures is counted too, where the plan asks for one.
        broken: True for the view of somebody who sees every upload in clear, False for the server's view.
        delta: delta of the guarantee; None for the plan's own.

    Returns:
        Epsilon, or None without a guarantee.
    """
    if not plan.privacy_mode.private:
        return None
    spend = _spend(derived, steps=steps, figures=figures).with_delta(plan.delta if delta is None else delta)
    return finite(spend.epsilon("aggregation_broken" if broken else "server"))


def epsilons_of_copies(
    plan: TrainingPlan, derived: Derived, *, steps: int, figures: bool = False
) -> dict[str, float | None]:
    """Return the epsilon of 2 and of 4 copies of a photo, in the server's view; see :func:`epsilon_after`.

    Args:
        plan: the training's plan.
        derived: what follows from it.
        steps: number of noised steps.
        figures: whether the round of site figures is counted too.

    Returns:
        Epsilon by the number of copies, None without a guarantee.
    """
    spend = _spend(derived, steps=steps, figures=figures)
    return {str(copies): finite(spend.epsilon_of_copies(copies)) for copies in SHOWN_COPIES}


def cross_checks(derived: Derived, *, steps: int, figures: bool) -> dict[str, float | None]:
    """Return what every accountant but the headline's computes for :func:`epsilon_after`.

    Args:
        derived: what follows from the plan.
        steps: number of noised steps.
        figures: whether the round of site figures is counted too.

    Returns:
        Epsilon by the accountant's name, None without a guarantee.
    """
    spend = _spend(derived, steps=steps, figures=figures)
    return {name: finite(epsilon) for name, epsilon in accountant_registry.cross_checks(spend).items()}


def _spend(derived: Derived, *, steps: int, figures: bool) -> PrivacySpend:
    """Return the privacy spend of so many steps, with the count that a merchant declared before."""
    spend = derived.whole_spend if figures else derived.spend
    return spend.with_steps(steps).with_releases(count_event())


def charged_events(
    plan: TrainingPlan, derived: Derived, *, steps: int, figures: bool
) -> tuple[ChargedEvent, ...]:
    """List everything that a merchant was charged for, with noise multipliers of the server's view.

    Args:
        plan: the training's plan.
        derived: what follows from it.
        steps: number of noised steps.
        figures: whether the round of site figures was charged too.

    Returns:
        The events.
    """
    training = ChargedEvent(
        kind="training",
        sample_rate=plan.sample_rate,
        noise_multiplier=derived.spend.multiplier,
        steps=steps,
    )
    count = ChargedEvent(kind="count", sample_rate=1.0, noise_multiplier=COUNT_SIGMA, steps=1)
    if not figures or derived.figures is None:
        return training, count
    multiplier = derived.figures.spend.multiplier
    return (
        training,
        ChargedEvent(kind="figures", sample_rate=1.0, noise_multiplier=multiplier, steps=1),
        count,
    )
