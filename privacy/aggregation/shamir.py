"""Shamir's secret sharing (1979) of vectors over the field of p = 2**31 - 1, and the shares' wire format."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.randomness import Randomness

PRIME = (1 << 31) - 1
MAX_MEMBERS = 1024

_MAGIC = b"FRSH"
_VERSION = 1
# magic, version, member number x, coefficients
_HEADER = struct.Struct("<4sHHI")
_COEFFICIENT_BYTES = 4
_P = np.uint64(PRIME)

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]


def split(secret: Int64Array, *, members: int, threshold: int, rng: Randomness) -> list[UInt64Array]:
    """Share a vector: any ``threshold`` of the shares give it back, fewer say nothing of it.

    ``secret`` is (n,) int64, taken modulo p; the result holds the shares of members x = 1..members, each (n,)
    uint64 below p. Raises ``AggregationError`` unless 1 <= threshold <= members <= 1024.
    """
    if not 1 <= threshold <= members <= MAX_MEMBERS:
        raise AggregationError(
            f"a committee of {members} with threshold {threshold} isn't possible: "
            f"it takes 1 <= threshold <= members <= {MAX_MEMBERS}"
        )
    points = np.arange(1, members + 1, dtype=np.uint64)[:, None]
    random = rng.integers((threshold - 1) * secret.size, bound=PRIME).reshape(threshold - 1, secret.size)
    # Horner's rule; every product stays below 2**42.
    out = np.zeros((members, secret.size), dtype=np.uint64)
    for row in random:
        out = (out + row) * points % _P
    out = (out + np.mod(secret, np.int64(PRIME)).astype(np.uint64)) % _P
    return list(out)


def add(left: UInt64Array, right: UInt64Array) -> UInt64Array:
    """Add two shares of one member: a share of the sum of the secrets."""
    return (left + right) % _P


def _weights(points: Sequence[int], target: int) -> list[int]:
    """Return Lagrange's coefficients for the value at ``target`` of the polynomial through ``points``."""
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


def reconstruct(shares: Mapping[int, UInt64Array], *, threshold: int) -> Int64Array:
    """Return the shared vector, centred in (-p/2, p/2); (n,) int64.

    ``shares`` maps member numbers to (n,) uint64 below p. Every share beyond the first ``threshold``
    is checked against them. Raises ``AggregationError`` if there are too few or they contradict each other.
    """
    if threshold < 1 or len(shares) < threshold:
        raise AggregationError(f"{len(shares)} key shares are too few: the threshold is {threshold}")
    if any(not 1 <= x <= MAX_MEMBERS for x in shares) or len({s.shape for s in shares.values()}) != 1:
        raise AggregationError("key shares have impossible member numbers or different lengths")
    points = sorted(shares)
    first = points[:threshold]
    for x in points[threshold:]:
        if not np.array_equal(_interpolate(shares, first, x), shares[x]):
            raise AggregationError(
                f"the key shares of members {points} contradict each other: "
                "a member or a merchant sent a wrong one"
            )
    secret = _interpolate(shares, first, 0).astype(np.int64)
    return np.where(secret > PRIME // 2, secret - PRIME, secret)


def encode_share(x: int, share: UInt64Array) -> bytes:
    """Write a share for the wire: magic, version, member number, length, then 4 bytes a coefficient."""
    return _HEADER.pack(_MAGIC, _VERSION, x, share.size) + share.astype("<u4").tobytes()


def decode_share(blob: bytes, *, count: int) -> tuple[int, UInt64Array]:
    """Read :func:`encode_share`'s bytes; return (x, (count,) uint64 below p).

    Raises ``AggregationError`` unless the length is that of ``count`` coefficients and all is in range.
    """
    if len(blob) != _HEADER.size + _COEFFICIENT_BYTES * count:
        raise AggregationError(
            f"a key share of {len(blob)} bytes has the wrong length for {count} coefficients"
        )
    magic, version, x, stated = _HEADER.unpack_from(blob)
    if magic != _MAGIC or version != _VERSION or stated != count or not 1 <= x <= MAX_MEMBERS:
        raise AggregationError(
            "a key share has a wrong header; the sender runs another version or sent rubbish"
        )
    share = np.frombuffer(blob, dtype="<u4", offset=_HEADER.size).astype(np.uint64)
    if bool((share >= _P).any()):
        raise AggregationError("a key share holds a number outside its field; refuse its sender")
    return x, share
