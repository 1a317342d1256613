"""Share scalars by Shamir's scheme (1979) modulo the order of secp256k1; encode and decode shares.

The order is that of the group of the commitments to shared scalars. Members have the numbers x = 1, 2, ...,
and a member's shares are the values of random polynomials at x whose values at zero are the secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedrec.errors import AggregationError
from fedrec.privacy.randomness import Randomness

ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""The prime order of the group secp256k1 (SEC 2, version 2, section 2.4.1)."""
SCALAR_BYTES = 32
MAX_MEMBERS = 1024

Scalars = list[int]


def random_scalars(count: int, rng: Randomness) -> Scalars:
    """Draw scalars that are exactly uniform below ``ORDER``, by rejection.

    Args:
        count: how many.
        rng: randomness.

    Returns:
        The scalars.
    """
    scalars: Scalars = []
    while len(scalars) < count:
        words = rng.bytes(SCALAR_BYTES * (count - len(scalars)))
        scalars += [value for value in _integers(words) if value < ORDER]
    return scalars


def polynomials(secrets: Sequence[int], *, threshold: int, rng: Randomness) -> list[Scalars]:
    """Draw random polynomials of degree below ``threshold`` whose values at zero are the secrets.

    Args:
        secrets: n integers, taken modulo ``ORDER``.
        threshold: shares that reconstruct a secret.
        rng: randomness.

    Returns:
        The coefficients of x**0, x**1, ...: ``threshold`` rows of n scalars.

    Raises:
        AggregationError: not 1 <= threshold <= 1024.
    """
    if not 1 <= threshold <= MAX_MEMBERS:
        raise AggregationError(f"a threshold of {threshold} isn't possible: it is from 1 to {MAX_MEMBERS}")
    rows = [[secret % ORDER for secret in secrets]]
    rows += [random_scalars(len(secrets), rng) for _ in range(threshold - 1)]
    return rows


def share_of(coefficients: Sequence[Sequence[int]], *, member: int) -> Scalars:
    """Compute a member's shares: the values of the polynomials at its number.

    Any ``threshold`` members' shares determine the secrets; fewer reveal nothing.

    Args:
        coefficients: result of :func:`polynomials`.
        member: the member's number, from 1 to 1024.

    Returns:
        A scalar per secret.

    Raises:
        AggregationError: the number is out of range. Zero would be the secrets themselves.
    """
    _check_number(member)
    values = list(coefficients[-1])
    for row in reversed(coefficients[:-1]):
        # Reduced at the end alone: numbers of some hundred bits more are cheaper than a division each time.
        values = [value * member + term for value, term in zip(values, row, strict=True)]
    return [value % ORDER for value in values]


def add(shares: Sequence[Sequence[int]]) -> Scalars:
    """Add one member's shares of several dealings of the same length.

    Args:
        shares: at least one list of scalars.

    Returns:
        The member's shares of the sums of the secrets.

    Raises:
        AggregationError: there is nothing to add, or the lengths differ.
    """
    if not shares or len({len(share) for share in shares}) != 1:
        raise AggregationError("there are no shares to add, or they have different lengths")
    return [sum(terms) % ORDER for terms in zip(*shares, strict=True)]


def interpolate(shares: Mapping[int, Sequence[int]]) -> Scalars:
    """Reconstruct the secrets from the shares of exactly as many members as the threshold.

    Args:
        shares: the scalars by member number.

    Returns:
        A scalar below ``ORDER`` per secret.

    Raises:
        AggregationError: there are no shares, or their numbers or lengths are invalid.
    """
    if not shares or len({len(share) for share in shares.values()}) != 1:
        raise AggregationError("there are no shares to interpolate, or they have different lengths")
    for member in shares:
        _check_number(member)
    weights = _lagrange_at_zero(tuple(shares))
    return [
        sum(weight * value for weight, value in zip(weights, values, strict=True)) % ORDER
        for values in zip(*shares.values(), strict=True)
    ]


def _lagrange_at_zero(points: Sequence[int]) -> Scalars:
    """Return the Lagrange coefficients for the value at zero of the polynomial through distinct points."""
    out: Scalars = []
    for x in points:
        top, bottom = 1, 1
        for other in points:
            if other != x:
                top, bottom = top * other % ORDER, bottom * (other - x) % ORDER
        out.append(top * pow(bottom, -1, ORDER) % ORDER)
    return out


def _check_number(member: int) -> None:
    if not 1 <= member <= MAX_MEMBERS:
        raise AggregationError(f"there is no member {member}: numbers are from 1 to {MAX_MEMBERS}")


def encode_scalars(scalars: Sequence[int]) -> bytes:
    """Encode scalars below ``ORDER`` in 32 bytes each, big-endian as the group's standard has them."""
    return b"".join(scalar.to_bytes(SCALAR_BYTES, "big") for scalar in scalars)


def decode_scalars(blob: bytes, *, count: int) -> Scalars:
    """Decode the result of :func:`encode_scalars`.

    Args:
        blob: the bytes, from an untrusted party.
        count: scalars that there must be.

    Returns:
        The scalars, all below ``ORDER``.

    Raises:
        AggregationError: the length is wrong, or a number isn't below ``ORDER``.
    """
    if len(blob) != SCALAR_BYTES * count:
        raise AggregationError(f"shares of {len(blob)} bytes have the wrong length for {count} scalars")
    scalars = _integers(blob)
    if any(scalar >= ORDER for scalar in scalars):
        raise AggregationError("a share is a number outside its field; refuse its sender")
    return scalars


def _integers(blob: bytes) -> Scalars:
    return [
        int.from_bytes(blob[start : start + SCALAR_BYTES], "big")
        for start in range(0, len(blob), SCALAR_BYTES)
    ]
