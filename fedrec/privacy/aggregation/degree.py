"""Prove that a dealer's shares lie on polynomials of degree below the threshold.

Hashes bind a dealer to its shares but not to a degree. If the shares don't lie on polynomials of that degree,
every quorum reconstructs a different key. So the dealer commits to each member's shares of the key's
coefficients and of ``REPETITIONS`` random masks. Weights derived from a hash of all commitments (Fiat and
Shamir 1986) combine the key's polynomials, and one mask hides each combination. The dealer publishes the
combinations, whose format fixes their degree. A member verifies that they pass through its shares. This is
the test of an interleaved Reed-Solomon code by masked linear combinations of Ames et al. 2017 (Ligero,
section 4.1), where a member checks all of its own symbols.

Soundness: suppose that the shares of the honest members don't lie on such polynomials, which requires more
honest members than the threshold. The weights for which a combination lies on one nevertheless form a proper
affine subspace. So one challenge fails to detect it with probability at most 2**-30, and ``REPETITIONS``
challenges with at most 2**-150 for each set of commitments that the dealer tries. Secrecy: each published
combination is the mask's polynomial plus a value. It is therefore uniform for any key, even given the shares
of fewer members than the threshold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedrec._internal.shared_results import SHARED
from fedrec.privacy.aggregation.field import PRIME, multiply, powers, products_with

REPETITIONS = 5

_DOMAIN = b"fedrec/degree-challenge/1"
_P = np.uint64(PRIME)

UInt64Array = NDArray[np.uint64]


def challenge(statement: bytes, commitments: Sequence[str], *, threshold: int, count: int) -> UInt64Array:
    """Derive the weights of the combinations with SHAKE-256.

    31 bits are reduced modulo p = 2**31 - 1, so that no weight has a probability above 2**-30.

    Args:
        statement: encodes the training, the round and the dealer.
        commitments: the hashes of all members' parcels, in order.
        threshold: the threshold.
        count: coefficients of the key.

    Returns:
        (REPETITIONS, count) uint64 below p.
    """
    # In four bytes each where results are shared: members of one process verify the same dealings.
    words = SHARED.of(
        ("degree challenge", statement, tuple(commitments), threshold, count),
        lambda: _challenge(
            (statement, str(threshold).encode(), *(c.encode() for c in commitments)),
            length=4 * REPETITIONS * count,
        ),
        size=lambda words: words.nbytes + 128 * len(commitments),
    )
    return words.astype(np.uint64).reshape(REPETITIONS, count)


def _challenge(parts: Sequence[bytes], *, length: int) -> NDArray[np.uint32]:
    """Return the weights as numbers below p."""
    hashed = hashlib.shake_256(_DOMAIN)
    for part in parts:
        hashed.update(len(part).to_bytes(4, "little") + part)
    words = np.frombuffer(hashed.digest(length), dtype="<u4").astype(np.uint32, copy=False) & np.uint32(PRIME)
    # Of 31 bits only p itself has another remainder.
    words[words == PRIME] = 0
    return words


def prove(coefficients: UInt64Array, weights: UInt64Array) -> UInt64Array:
    """Compute the proof: the coefficients of the combined polynomials.

    Args:
        coefficients: (threshold, count + REPETITIONS) uint64, the key's polynomials, then the masks.
        weights: result of :func:`challenge`.

    Returns:
        (threshold, REPETITIONS) uint64 below p.
    """
    count = weights.shape[1]
    return (multiply(weights, coefficients[:, :count].T).T + coefficients[:, count:]) % _P


def holds(proof: UInt64Array, share: UInt64Array, *, member: int, weights: UInt64Array) -> bool:
    """Verify that a member's shares lie on the polynomials of a proof.

    Args:
        proof: result of :func:`prove`.
        share: the member's shares of the key and the masks, (count + REPETITIONS,) uint64 below p.
        member: number of the member, from 1.
        weights: result of :func:`challenge`.

    Returns:
        Whether the proof is valid for this member.
    """
    count = weights.shape[1]
    terms = proof * powers(member, len(proof))[member - 1][:, None] % _P
    at_member = terms.sum(axis=0, dtype=np.uint64) % _P
    expected = (products_with(weights, share[:count]) + share[count:]) % _P
    return bool(np.array_equal(at_member, expected))
