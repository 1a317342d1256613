"""Epsilon for a photo of which there are several copies, each sampled by a coin of its own.

Taking all k copies out is no step at k times the sensitivity: only as many of them as are drawn move a step's
sum. By the argument of :mod:`fedrec.privacy.accounting.discrete_noise_lemma`, with the shifts of the drawn
copies added up,
the step is dominated by the mixture over j from Binomial(k, q) of Gaussians at j times the sensitivity
(Choquette-Choo, Ganesh, Steinke and Thakurta 2024, "Privacy Amplification for Matrix Mechanisms";
``docs/accounting.md`` has the argument), and rounding may pass the sensitivity of any of the k.
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
"""Numbers of copies whose epsilon stands beside the headline."""
MAX_COPIES = 16


def epsilon_of_copies(events: Iterable[Event], *, copies: int, delta: float, betas: float = 0.0) -> float:
    """Epsilon by PLD for ``copies`` copies of a record, proved as :func:`epsilon_pld` is for one.

    ``betas`` is the chance that rounding passes one record's sensitivity anywhere in ``events``: so many
    times ``copies`` is taken off ``delta``. Infinite where nothing is left of it.

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
        # Every copy is in every step: one Gaussian at k times the sensitivity, which has a closed form.
        return epsilon_pld((Event(1.0, sigma / copies, steps) for _, sigma, steps in groups), delta=left)
    return epsilon_of_kinds(
        [(_mixture(accounted_rate(rate), copies), sigma, steps) for rate, sigma, steps in groups], delta=left
    )


def _mixture(rate: float, copies: int) -> Mixture:
    if rate == 1.0:
        return Mixture(sensitivities=(0.0, float(copies)), weights=(0.0, 1.0))
    weights = tuple(math.comb(copies, j) * rate**j * (1.0 - rate) ** (copies - j) for j in range(copies + 1))
    return Mixture(sensitivities=tuple(float(j) for j in range(copies + 1)), weights=weights)
