"""The number of units that a merchant declares: counted exactly, told with noise, charged first."""

from __future__ import annotations

from fedrec.privacy.accounting.code_hash import code_name
from fedrec.privacy.accounting.count_release import COUNT_SIGMA, noised_size
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import Unit


def count_randomness(seed: int | None, merchant: str) -> Randomness:
    """Return the stream that a merchant's count is drawn from; a seed's hides nothing."""
    if seed is None:
        return Randomness.from_os()
    return Randomness.seeded(seed, "count", merchant)


def draw_count(units: int, *, unit: Unit, delta: float, policy_hash: str, rng: Randomness) -> Count:
    """Draw a release of an exact number of distinct units, to be charged before it is told to anybody.

    ``delta`` is what its cost is stated at where the policy sets no lifetime delta.
    """
    return Count(
        number=1,
        unit=unit,
        size=noised_size(units, rng=rng),
        sigma=COUNT_SIGMA,
        delta=delta,
        code=code_name(),
        policy_hash=policy_hash,
        seeded=rng.is_seeded,
    )
