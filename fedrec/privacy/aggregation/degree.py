"""A dealer's proof that its shares lie on polynomials of degree below the threshold.

Hashes of shares bind a dealer to them but not to a degree, and a dealer whose shares don't lie on such
polynomials makes every quorum open another key. So a dealer commits to every member's shares, of its key's
coefficients and of ``REPETITIONS`` random masks; weights drawn from a hash of all the commitments (Fiat and
Shamir 1986) combine the key's polynomials, one mask covers each combination, and the dealer publishes the
combinations, which have the right degree by their format. A member checks that they pass through its shares.
This is the test of an interleaved Reed-Solomon code by masked linear combinations of Ames et al. 2017
(Ligero, section 4.1), with a member looking at every one of its own symbols.

Soundness: say the shares of the honest members don't lie on such polynomials, which takes more honest
members than the threshold. The weights for which a combination nevertheless does form an affine subspace
that isn't everything, so that one challenge misses it with probability at most 2**-30, and ``REPETITIONS``
do at most 2**-150 for each set of commitments that the dealer tries. Secrecy: what is published is the
mask's polynomial plus a value, so it is uniform, whatever the key, and whatever shares of fewer members
than the threshold are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.aggregation.shamir import PRIME

REPETITIONS = 5

_DOMAIN = b"fedrec/degree-challenge/1"
_P = np.uint64(PRIME)

UInt64Array = NDArray[np.uint64]


def challenge(statement: bytes, commitments: Sequence[str], *, threshold: int, count: int) -> UInt64Array:
    """Return the weights, (REPETITIONS, count) uint64 below p, from SHAKE-256.

    ``statement`` names training, round and dealer; ``commitments`` are those to all members' shares. 31 bits
    are taken modulo p = 2**31 - 1, so that no weight is likelier than 2**-30.
    """
    hashed = hashlib.shake_256(_DOMAIN)
    for part in (statement, str(threshold).encode(), *(c.encode() for c in commitments)):
        hashed.update(len(part).to_bytes(4, "little") + part)
    words = np.frombuffer(hashed.digest(4 * REPETITIONS * count), dtype="<u4").astype(np.uint64)
    return ((words & np.uint64(0x7FFFFFFF)) % _P).reshape(REPETITIONS, count)


def _combine(weights: UInt64Array, rows: UInt64Array) -> UInt64Array:
    """Return rows @ weights.T modulo p: (REPETITIONS, n) and (k, n) to (k, REPETITIONS)."""
    # A product is below 2**62 and reduced before the sum, of fewer than 2**32 terms below 2**31.
    columns = [(rows * weight % _P).sum(axis=1, dtype=np.uint64) % _P for weight in weights]
    return np.stack(columns, axis=1)


def prove(coefficients: UInt64Array, weights: UInt64Array) -> UInt64Array:
    """Return the combined polynomials' coefficients, (threshold, REPETITIONS) uint64 below p.

    ``coefficients`` is (threshold, count + REPETITIONS): the key's polynomials, then the masks.
    """
    count = weights.shape[1]
    return (_combine(weights, coefficients[:, :count]) + coefficients[:, count:]) % _P


def holds(proof: UInt64Array, share: UInt64Array, *, member: int, weights: UInt64Array) -> bool:
    """Tell whether a member's shares, (count + REPETITIONS,), lie on the proof's polynomials."""
    count = weights.shape[1]
    at_member = np.zeros(REPETITIONS, dtype=np.uint64)
    for row in proof[::-1]:
        at_member = (at_member * np.uint64(member) + row) % _P
    expected = (_combine(weights, share[None, :count])[0] + share[count:]) % _P
    return bool(np.array_equal(at_member, expected))
