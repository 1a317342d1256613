"""Settle the noise of site figures from the share of the budget that the operator gives them."""

from __future__ import annotations

from fedrec.config import DEFAULT_EPSILON, TrainingOptions
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.dp.figures_noise import figures_multiplier
from fedrec.protocol import modes
from fedrec.protocol.site_figures import SiteFigures


def plan_figures(options: TrainingOptions, *, delta: float) -> SiteFigures | None:
    """Return what the plan states of site figures.

    The share is of epsilon: the figures by themselves cost that part of the whole, by PLD at the plan's
    delta. Together with the training they cost no more than the whole.

    Args:
        options: the operator's options.
        delta: the plan's whole delta.

    Returns:
        The figures with their noise, which is none in a mode without noise; None where none are asked for.

    Raises:
        ConfigError: epsilon or delta is out of range.
        UnreachableBudgetError: no noise reaches the figures' share.
    """
    if options.site_figures is None:
        return None
    if not modes.get(options.privacy).private:
        return SiteFigures(noise_multiplier=None)
    epsilon = options.site_figures * (options.epsilon or DEFAULT_EPSILON)
    return SiteFigures(noise_multiplier=figures_multiplier(epsilon, delta=delta))


def figures_events(figures: SiteFigures | None) -> tuple[Event, ...]:
    """Return the event of site figures, for the noise of the training beside them; none without noise."""
    if figures is None or figures.noise_multiplier is None:
        return ()
    return (Event(1.0, figures.noise_multiplier, 1),)
