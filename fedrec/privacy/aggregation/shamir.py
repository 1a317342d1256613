"""Shamir's secret sharing (1979) of vectors over the field of p = 2**31 - 1, and the shares' wire format."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import reed_solomon
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


class ContradictionError(AggregationError):
    """Key shares contradict each other, and which of them are wrong can't be told."""


def polynomials(secret: Int64Array, *, threshold: int, rng: Randomness) -> UInt64Array:
    """Draw a random polynomial of degree below ``threshold`` through every secret, at zero.

    ``secret`` is (n,) int64, taken modulo p; returns the coefficients, (threshold, n) uint64 below p, the
    constant ones first. Raises ``AggregationError`` unless 1 <= threshold <= 1024.
    """
    if not 1 <= threshold <= MAX_MEMBERS:
        raise AggregationError(f"a threshold of {threshold} isn't possible: it is from 1 to {MAX_MEMBERS}")
    random = rng.integers((threshold - 1) * secret.size, bound=PRIME).reshape(threshold - 1, secret.size)
    constant = np.mod(secret, np.int64(PRIME)).astype(np.uint64)
    return np.concatenate([constant[None, :], random])


def evaluate(coefficients: UInt64Array, *, members: int) -> UInt64Array:
    """Return the shares of members x = 1..members: any threshold of them give the secrets, fewer say nothing.

    ``coefficients`` is (threshold, n) as from :func:`polynomials`; the result is (members, n) uint64 below p.
    Raises ``AggregationError`` unless threshold <= members <= 1024.
    """
    threshold = len(coefficients)
    if not threshold <= members <= MAX_MEMBERS:
        raise AggregationError(
            f"a committee of {members} with threshold {threshold} isn't possible: "
            f"it takes threshold <= members <= {MAX_MEMBERS}"
        )
    points = np.arange(1, members + 1, dtype=np.uint64)[:, None]
    # Horner's rule; every product stays below 2**42.
    out = np.zeros((members, coefficients.shape[1]), dtype=np.uint64)
    for row in coefficients[::-1]:
        out = (out * points + row) % _P
    return out


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


@dataclass(frozen=True)
class Reconstruction:
    """A shared vector, (n,) int64 centred in (-p/2, p/2), and the members whose shares were wrong."""

    secret: Int64Array
    wrong: tuple[int, ...]


def reconstruct(shares: Mapping[int, UInt64Array], *, threshold: int) -> Reconstruction:
    """Return the vector that the shares agree on, in spite of up to (shares - threshold) // 2 wrong ones.

    ``shares`` maps member numbers to (n,) uint64 below p. Up to that number of wrong shares the vector is
    unique (Reed and Solomon 1960), and who sent them is known. Raises ``AggregationError`` if there are too
    few shares, ``ContradictionError`` if more of them contradict each other than can be told apart.
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
    """Return the members whose shares are wrong, empty if there are too many to tell.

    One combination of the coordinates, with weights drawn after the shares came, is wrong wherever a share
    is, but for 2**-30 a member; so one word of the Reed-Solomon code is decoded instead of n.
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
    """Return the length of an encoded share of ``count`` coefficients."""
    return _HEADER.size + _COEFFICIENT_BYTES * count


def encode_share(x: int, share: UInt64Array) -> bytes:
    """Write a share for the wire: magic, version, member number, length, then 4 bytes a coefficient."""
    return _HEADER.pack(_MAGIC, _VERSION, x, share.size) + share.astype("<u4").tobytes()


def decode_share(blob: bytes, *, count: int) -> tuple[int, UInt64Array]:
    """Read :func:`encode_share`'s bytes; return (x, (count,) uint64 below p).

    Raises ``AggregationError`` unless the length is that of ``count`` coefficients and all is in range.
    """
    if len(blob) != share_bytes(count):
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
