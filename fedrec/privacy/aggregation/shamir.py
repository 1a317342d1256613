"""Share vectors by Shamir's scheme (1979) over the field of p = 2**31 - 1; encode and decode shares."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import field, reed_solomon
from fedrec.privacy.randomness import Randomness

PRIME = field.PRIME
MAX_MEMBERS = 1024

_MAGIC = b"FRSH"
_VERSION = 1
# magic, version, member number x, coefficients
_HEADER = struct.Struct("<4sHHI")
_COEFFICIENT_BYTES = 4
_P = np.uint64(PRIME)

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]


class ContradictionError(AggregationError):
    """Key shares contradict each other, and the wrong ones can't be identified."""


def polynomials(secret: Int64Array, *, threshold: int, rng: Randomness) -> UInt64Array:
    """Draw random polynomials of degree below ``threshold`` whose values at zero are the secrets.

    Args:
        secret: (n,) int64, taken modulo p.
        threshold: shares that reconstruct a secret.
        rng: randomness.

    Returns:
        The coefficients, (threshold, n) uint64 below p, constant terms first.

    Raises:
        AggregationError: not 1 <= threshold <= 1024.
    """
    if not 1 <= threshold <= MAX_MEMBERS:
        raise AggregationError(f"a threshold of {threshold} isn't possible: it is from 1 to {MAX_MEMBERS}")
    random = rng.integers((threshold - 1) * secret.size, bound=PRIME).reshape(threshold - 1, secret.size)
    constant = np.mod(secret, np.int64(PRIME)).astype(np.uint64)
    return np.concatenate([constant[None, :], random])


def evaluate(coefficients: UInt64Array, *, members: int) -> UInt64Array:
    """Compute the shares of members x = 1..members.

    Any ``threshold`` of the shares determine the secrets; fewer reveal nothing.

    Args:
        coefficients: (threshold, n) uint64, result of :func:`polynomials`.
        members: number of members.

    Returns:
        (members, n) uint64 below p.

    Raises:
        AggregationError: not threshold <= members <= 1024.
    """
    threshold = len(coefficients)
    if not threshold <= members <= MAX_MEMBERS:
        raise AggregationError(
            f"a committee of {members} with threshold {threshold} isn't possible: "
            f"it takes threshold <= members <= {MAX_MEMBERS}"
        )
    return field.multiply(field.powers(members, threshold), coefficients)


def add(left: UInt64Array, right: UInt64Array) -> UInt64Array:
    """Add two shares of one member.

    Args:
        left: (n,) uint64 below p.
        right: (n,) uint64 below p.

    Returns:
        The member's share of the sum of the secrets, (n,) uint64 below p.
    """
    return (left + right) % _P


def _weights(points: Sequence[int], target: int) -> list[int]:
    """Return the Lagrange coefficients for the value at ``target`` of the polynomial through ``points``."""
    out = []
    for i, x in enumerate(points):
        top, bottom = 1, 1
        for j, other in enumerate(points):
            if i != j:
                top = top * (target - other) % PRIME
                bottom = bottom * (x - other) % PRIME
        out.append(top * pow(bottom, -1, PRIME) % PRIME)
    return out


def _interpolate(shares: Mapping[int, UInt64Array], points: Sequence[int], target: int) -> UInt64Array:
    out = np.zeros_like(shares[points[0]])
    for x, weight in zip(points, _weights(points, target), strict=True):
        out = (out + shares[x] * np.uint64(weight)) % _P  # below 2**31 + 2**62
    return out


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed vector, (n,) int64 centred in (-p/2, p/2), and the members whose shares were wrong."""

    secret: Int64Array
    wrong: tuple[int, ...]


def reconstruct(shares: Mapping[int, UInt64Array], *, threshold: int) -> Reconstruction:
    """Reconstruct a vector from shares, of which up to (shares - threshold) // 2 may be wrong.

    Up to that number of wrong shares the vector is unique (Reed and Solomon 1960), and the wrong shares are
    identified.

    Args:
        shares: (n,) uint64 below p, by member number.
        threshold: shares that reconstruct the vector.

    Returns:
        The vector, and the members whose shares were wrong.

    Raises:
        AggregationError: there are too few shares, or their member numbers or lengths are invalid.
        ContradictionError: too many shares are wrong to identify them.
    """
    if threshold < 1 or len(shares) < threshold:
        raise AggregationError(f"{len(shares)} key shares are too few: the threshold is {threshold}")
    if any(not 1 <= x <= MAX_MEMBERS for x in shares) or len({s.shape for s in shares.values()}) != 1:
        raise AggregationError("key shares have impossible member numbers or different lengths")
    points = sorted(shares)
    wrong: tuple[int, ...] = ()
    if not _agree(shares, points, threshold):
        wrong = _find_wrong(shares, points, threshold)
        points = [x for x in points if x not in wrong]
        if not wrong or not _agree(shares, points, threshold):
            raise ContradictionError(
                f"the key shares of members {sorted(shares)} contradict each other, "
                "and too few of them agree to tell which are wrong"
            )
    secret = _interpolate(shares, points[:threshold], 0).astype(np.int64)
    return Reconstruction(secret=np.where(secret > PRIME // 2, secret - PRIME, secret), wrong=wrong)


def _agree(shares: Mapping[int, UInt64Array], points: Sequence[int], threshold: int) -> bool:
    first = points[:threshold]
    return all(np.array_equal(_interpolate(shares, first, x), shares[x]) for x in points[threshold:])


def _find_wrong(shares: Mapping[int, UInt64Array], points: Sequence[int], threshold: int) -> tuple[int, ...]:
    """Identify the members whose shares are wrong.

    Instead of n words of the Reed-Solomon code, one random combination of the coordinates is decoded. Its
    weights are drawn after the shares have arrived, so that it is wrong for every wrong share except with
    probability 2**-30 per member.

    Returns:
        The members; empty if too many shares are wrong to identify them.
    """
    length = shares[points[0]].size
    weights = Randomness.from_os().integers(length, bound=PRIME)
    word = {x: int((shares[x] * weights % _P).sum(dtype=np.uint64) % _P) for x in points}
    for errors in range(1, (len(points) - threshold) // 2 + 1):
        wrong = reed_solomon.locate(word, threshold=threshold, errors=errors, prime=PRIME)
        if wrong is not None:
            return wrong
    return ()


def share_bytes(count: int) -> int:
    """Return the length in bytes of an encoded share of ``count`` coefficients."""
    return _HEADER.size + _COEFFICIENT_BYTES * count


def encode_share(x: int, share: UInt64Array) -> bytes:
    """Encode a share: magic, version, member number, length, then 4 bytes per coefficient.

    Args:
        x: the member number.
        share: (n,) uint64 below p.

    Returns:
        The bytes.
    """
    return _HEADER.pack(_MAGIC, _VERSION, x, share.size) + share.astype("<u4").tobytes()


def decode_share(blob: bytes, *, count: int) -> tuple[int, UInt64Array]:
    """Decode the result of :func:`encode_share`.

    Args:
        blob: the bytes, from an untrusted party.
        count: coefficients that the share must have.

    Returns:
        The member number x, and the share, (count,) uint64 below p.

    Raises:
        AggregationError: the length, the header or a coefficient is wrong.
    """
    if len(blob) != share_bytes(count):
        raise AggregationError(
            f"a key share of {len(blob)} bytes has the wrong length for {count} coefficients"
        )
    magic, version, x, stated = _HEADER.unpack_from(blob)
    if magic != _MAGIC or version != _VERSION or stated != count or not 1 <= x <= MAX_MEMBERS:
        raise AggregationError(
            "a key share has a wrong header; the sender runs another version or sent invalid data"
        )
    share = np.frombuffer(blob, dtype="<u4", offset=_HEADER.size).astype(np.uint64)
    if bool((share >= _P).any()):
        raise AggregationError("a key share holds a number outside its field; refuse its sender")
    return x, share
