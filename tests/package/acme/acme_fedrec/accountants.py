"""An accountant whose bound holds, and one whose figure is too low for any."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fedrec.privacy.accounting.accountant_spec import AccountantSpec
from fedrec.privacy.accounting.events import Event


def _without_sampling(events: Iterable[Event], *, delta: float) -> float:
    """Ignore that steps are sampled: they compose to one Gaussian mechanism (Mironov 2017)."""
    inverse = sum(event.steps / event.noise_multiplier**2 for event in events)
    return inverse / 2 + math.sqrt(2 * inverse * math.log(1 / delta))


def _too_low(events: Iterable[Event], *, delta: float) -> float:
    return 0.01


UNSAMPLED = AccountantSpec(
    name="acme-unsampled",
    version="without sampling, acme/1",
    bound="Sampling only lowers the divergence, and the best order of a Gaussian's is known.",
    epsilon=_without_sampling,
)
TOO_LOW = AccountantSpec(name="acme-too-low", version="acme/1", bound="None.", epsilon=_too_low)
