"""Privacy accounting: the epsilon of a training, and the noise that a budget needs."""

from __future__ import annotations

from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.noise_multiplier import noise_multiplier_for
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.dp.calibration import BETA


def epsilon(
    noise_multiplier: float, *, sample_rate: float, steps: int, delta: float, counted: bool = True
) -> float:
    """Return the epsilon of a training, as its report and its ledgers would state it.

    It is proved for the noise that merchants really draw, by privacy loss distributions, for one record added
    or removed. The bound on a step's rounding fails with a chance of 1e-12, which is taken off ``delta`` for
    every step.

    Args:
        noise_multiplier: standard deviation of a round's noise over the clip.
        sample_rate: chance of each record to be in a round.
        steps: number of noised steps: rounds times local steps.
        delta: chance with which the guarantee may fail.
        counted: include the noised number of records that a merchant declares beforehand, as every training
            does; False for the steps alone.

    Returns:
        Epsilon; infinite where the noise gives no guarantee.

    Raises:
        ConfigError: an argument is out of range.
    """
    events = (Event(sample_rate, noise_multiplier, steps), *_counts(counted))
    return epsilon_pld(events, delta=delta - BETA * steps)


def noise_for(epsilon: float, *, sample_rate: float, steps: int, delta: float, counted: bool = True) -> float:
    """Return the least noise multiplier, to half a percent of epsilon, that keeps a training within a budget.

    Args:
        epsilon: the budget.
        sample_rate: chance of each record to be in a round.
        steps: number of noised steps: rounds times local steps.
        delta: chance with which the guarantee may fail.
        counted: as in :func:`epsilon`.

    Returns:
        The noise multiplier; never below 0.3, where a larger budget changes nothing.

    Raises:
        ConfigError: an argument is out of range.
        UnreachableBudgetError: no noise keeps within the budget.
    """
    return noise_multiplier_for(
        epsilon=epsilon,
        delta=delta - BETA * steps,
        sample_rate=sample_rate,
        steps=steps,
        releases=_counts(counted),
    )


def _counts(counted: bool) -> tuple[Event, ...]:
    return (count_event(),) if counted else ()
