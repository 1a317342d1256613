"""Compute epsilon for a record of which there are several copies, each sampled independently.

Removing all k copies doesn't cost k times the sensitivity in every step, because only the sampled copies
change a step's sum. With the shifts of the sampled copies added up in the argument of
:mod:`fedrec.privacy.accounting.discrete_noise_lemma`, the step is dominated by a mixture of Gaussians at j
times the sensitivity, with j from Binomial(k, q) (Choquette-Choo, Ganesh, Steinke and Thakurta 2024, "Privacy
Amplification for Matrix Mechanisms"; ``docs/accounting.md``, "Copies", has the argument). Rounding may exceed
the sensitivity for any of the k copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.discrete_noise_lemma import accounted_rate
from fedrec.privacy.accounting.events import MIN_DELTA, Event, check_delta, grouped
from fedrec.privacy.accounting.pld import epsilon_of_kinds, epsilon_pld
from fedrec.privacy.accounting.privacy_loss import Mixture

SHOWN_COPIES = (2, 4)
"""Numbers of copies whose epsilon reports show beside the headline."""
MAX_COPIES = 16


def epsilon_of_copies(events: Iterable[Event], *, copies: int, delta: float, betas: float = 0.0) -> float:
    """Compute epsilon by PLD for several copies of a record, proved as :func:`epsilon_pld` is for one.

    Args:
        events: the noised steps.
        copies: number of copies, 1 to 16.
        delta: the whole delta.
        betas: probability that rounding exceeds one record's sensitivity in any of ``events``; ``copies``
            times this is subtracted from ``delta``.

    Returns:
        Epsilon; infinite where nothing is left of ``delta``.

    Raises:
        ConfigError: ``copies`` is outside 1 to 16, or ``delta`` is out of range.
    """
    check_delta(delta)
    if not 1 <= copies <= MAX_COPIES:
        raise ConfigError(f"copies: {copies} is outside 1 to {MAX_COPIES}.")
    left = delta - copies * betas
    if left < MIN_DELTA:
        return math.inf
    groups = grouped(events)
    if all(accounted_rate(rate) == 1.0 for rate, _, _ in groups):
        # Without sampling every copy is in every step: a Gaussian at k times the sensitivity, in closed form.
        return epsilon_pld((Event(1.0, sigma / copies, steps) for _, sigma, steps in groups), delta=left)
    return epsilon_of_kinds(
        [(_mixture(accounted_rate(rate), copies), sigma, steps) for rate, sigma, steps in groups], delta=left
    )


def _mixture(rate: float, copies: int) -> Mixture:
    if rate == 1.0:
        return Mixture(sensitivities=(0.0, float(copies)), weights=(0.0, 1.0))
    weights = tuple(math.comb(copies, j) * rate**j * (1.0 - rate) ** (copies - j) for j in range(copies + 1))
    return Mixture(sensitivities=tuple(float(j) for j in range(copies + 1)), weights=weights)
