"""Deal a key to the committee by verifiable secret sharing; a member learns nothing beyond its share.

A parcel is what one member receives, sealed: a salt, then its shares of the key and of the masks of the
degree proof. The dealer publishes a salted hash of every parcel and the proof of
:mod:`fedrec.privacy.aggregation.degree`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import degree, shamir
from fedrec.privacy.randomness import Randomness

SALT_BYTES = 32

_DOMAIN = b"fedrec/parcel/1"

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]


@dataclass(frozen=True)
class Published:
    """The public part of a dealing: one hash per member and the degree proof; the dealer signs all of it."""

    commitments: tuple[str, ...]
    proof: str


@dataclass(frozen=True)
class Dealing:
    """A key dealt to members 1..m: their parcels, in order, and the public part."""

    parcels: tuple[bytes, ...]
    published: Published


def parcel_bytes(count: int) -> int:
    """Return the length of a parcel in bytes for a key of ``count`` coefficients."""
    return SALT_BYTES + shamir.share_bytes(count + degree.REPETITIONS)


def _commitment(parcel: bytes) -> str:
    return hashlib.sha256(_DOMAIN + parcel).hexdigest()


def deal(secret: Int64Array, *, members: int, threshold: int, statement: bytes, rng: Randomness) -> Dealing:
    """Deal a key to members 1..members.

    Args:
        secret: the key, (n,) int64 taken modulo p.
        members: number of members.
        threshold: shares that reconstruct the key.
        statement: encodes the training, the round and the dealer, and is unique to them.
        rng: randomness of shares, masks and salts.

    Returns:
        The parcels and the public part.

    Raises:
        AggregationError: not 1 <= threshold <= members <= 1024.
    """
    masks = rng.integers(degree.REPETITIONS, bound=shamir.PRIME).astype(np.int64)
    coefficients = shamir.polynomials(np.concatenate([secret, masks]), threshold=threshold, rng=rng)
    shares = shamir.evaluate(coefficients, members=members)
    parcels = tuple(
        rng.bytes(SALT_BYTES) + shamir.encode_share(x, share) for x, share in enumerate(shares, start=1)
    )
    commitments = tuple(map(_commitment, parcels))
    weights = degree.challenge(statement, commitments, threshold=threshold, count=secret.size)
    proof = degree.prove(coefficients, weights).astype("<u4").tobytes().hex()
    coefficients.fill(0)
    return Dealing(parcels=parcels, published=Published(commitments=commitments, proof=proof))


def accept(
    parcel: bytes, published: Published, *, member: int, count: int, threshold: int, statement: bytes
) -> bytes:
    """Verify a parcel and extract this member's share of the key.

    Args:
        parcel: the opened parcel.
        published: the public part of the dealing.
        member: number of this member, from 1.
        count: coefficients of the key.
        threshold: shares that reconstruct the key.
        statement: encodes the training, the round and the dealer.

    Returns:
        The share, encoded, without the masks.

    Raises:
        AggregationError: the parcel doesn't match its hash, is another member's, or the proof is invalid. The
            dealer is at fault, since it signed hashes and proof.
    """
    if not 1 <= member <= len(published.commitments):
        raise AggregationError(f"there is no member {member} in a dealing to {len(published.commitments)}")
    if len(parcel) != parcel_bytes(count) or _commitment(parcel) != published.commitments[member - 1]:
        raise AggregationError("the shares are not the ones that the dealer committed to")
    x, share = shamir.decode_share(parcel[SALT_BYTES:], count=count + degree.REPETITIONS)
    if x != member:
        raise AggregationError(f"the shares are of member {x}, not of member {member}")
    weights = degree.challenge(statement, published.commitments, threshold=threshold, count=count)
    if not degree.holds(_read_proof(published.proof, threshold), share, member=member, weights=weights):
        raise AggregationError("the shares don't lie on polynomials of the right degree")
    return shamir.encode_share(member, share[:count])


def _read_proof(text: str, threshold: int) -> UInt64Array:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise AggregationError("the degree proof is not hexadecimal") from None
    if len(data) != 4 * threshold * degree.REPETITIONS:
        raise AggregationError(f"the degree proof has a wrong length for threshold {threshold}")
    proof = np.frombuffer(data, dtype="<u4").astype(np.uint64).reshape(threshold, degree.REPETITIONS)
    if bool((proof >= shamir.PRIME).any()):
        raise AggregationError("the degree proof holds a number outside its field")
    return proof
