"""Draw the noised number of units that a merchant declares."""

from __future__ import annotations

from fedrec.privacy.accounting.code_hash import code_name
from fedrec.privacy.accounting.count_release import COUNT_SIGMA, noised_size
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import Unit


def count_randomness(seed: int | None, merchant: str) -> Randomness:
    """Return the randomness of a merchant's count.

    Args:
        seed: for a simulation's repeatable stream, which protects nothing; None for the operating system's.
        merchant: the merchant's name.

    Returns:
        The stream.
    """
    if seed is None:
        return Randomness.from_os()
    return Randomness.seeded(seed, "count", merchant)


def draw_count(units: int, *, unit: Unit, delta: float, policy_hash: str, rng: Randomness) -> Count:
    """Add noise to an exact number of distinct units. Charge the result to the ledger before publishing it.

    Args:
        units: the exact number.
        unit: the unit of differential privacy.
        delta: the delta at which the cost of the count is stated.
        policy_hash: hash of the policy in force.
        rng: source of the noise.

    Returns:
        The noised count.
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
