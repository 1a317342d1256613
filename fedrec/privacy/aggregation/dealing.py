"""Deal a key to the committee by verifiable secret sharing; a member learns nothing beyond its share.

A key's packed scalars are the values at zero of polynomials f_g of degree below the threshold, and member x
gets f_g(x) (Shamir 1979). To those polynomials' coefficients, and to the ones of a random polynomial r, the
dealer commits in vectors: C_j = sum_g f_gj G_g + r_j H, one for each power of x (Pedersen 1991). So anybody
can check a member's shares, and its sum of several dealers' shares, without learning anything from the
commitments: sum_g f_g(x) G_g + r(x) H must be sum_j x**j C_j. A parcel, what one member receives sealed, and
an answer, its sum of shares, have the same form: the member's number, its values of f_g, and that of r.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedrec._internal.shared_results import SHARED
from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import curve, scalar_sharing
from fedrec.privacy.aggregation.curve import Generators, Point
from fedrec.privacy.aggregation.scalar_sharing import MAX_MEMBERS, SCALAR_BYTES, Scalars
from fedrec.privacy.randomness import Randomness

_MAGIC = b"FRSH"
_VERSION = 2
# magic, version, member number x, scalars
_HEADER = struct.Struct("<4sHHI")
_WEIGHT_BYTES = 16
"""Of the random weights by which shares are checked together: a wrong one passes with chance 2**-128."""
_KEPT_POINT_BYTES = 512

_POINT_DIGITS = 2 * curve.POINT_BYTES


@dataclass(frozen=True)
class Published:
    """The public part of a dealing: the commitments C_0, C_1, ..., in hexadecimal; the dealer signs them."""

    commitments: tuple[str, ...]


@dataclass(frozen=True)
class Dealing:
    """A key dealt to members 1..m: their parcels, in order, and the public part."""

    parcels: tuple[bytes, ...]
    published: Published


@lru_cache(maxsize=4)
def generators(count: int) -> Generators:
    """Return the generators for ``count`` scalars and the random one, which comes last."""
    return Generators(count + 1)


def deal(secrets: Sequence[int], *, members: int, threshold: int, rng: Randomness) -> Dealing:
    """Deal scalars to members 1..members.

    Args:
        secrets: the scalars.
        members: number of members.
        threshold: shares that reconstruct the scalars.
        rng: randomness of the shares and of the commitments.

    Returns:
        The parcels and the public part.

    Raises:
        AggregationError: not 1 <= threshold <= members <= 1024.
    """
    if not 1 <= threshold <= members <= MAX_MEMBERS:
        raise AggregationError(
            f"a committee of {members} with threshold {threshold} isn't possible: "
            f"it takes 1 <= threshold <= members <= {MAX_MEMBERS}"
        )
    random = scalar_sharing.random_scalars(1, rng)
    rows = scalar_sharing.polynomials([*secrets, *random], threshold=threshold, rng=rng)
    bases = generators(len(secrets))
    commitments = tuple(curve.encode_point(bases.combine(row)).hex() for row in rows)
    parcels = tuple(encode_share(x, scalar_sharing.share_of(rows, member=x)) for x in range(1, members + 1))
    return Dealing(parcels=parcels, published=Published(commitments=commitments))


def read_commitments(published: Published, *, threshold: int) -> tuple[Point, ...]:
    """Decode a dealing's commitments.

    Args:
        published: the public part, from an untrusted dealer.
        threshold: shares that reconstruct the key.

    Returns:
        The points C_0, C_1, ...

    Raises:
        AggregationError: there are more or fewer than the threshold, or one is no point of the curve.
    """
    if len(published.commitments) != threshold:
        raise AggregationError(
            f"a dealing has {len(published.commitments)} commitments, not {threshold} as its threshold"
        )
    # Members of one process read the same dealings.
    return SHARED.of(
        ("commitments", published.commitments),
        lambda: tuple(map(_read_hex, published.commitments)),
        size=lambda points: len(points) * _KEPT_POINT_BYTES,
    )


def _read_hex(text: str) -> Point:
    if len(text) != _POINT_DIGITS:
        raise AggregationError(f"a commitment has {len(text)} hexadecimal digits, not {_POINT_DIGITS}")
    try:
        blob = bytes.fromhex(text)
    except ValueError:
        raise AggregationError("a commitment is not hexadecimal") from None
    return curve.read_point(blob)


def wrong_parcels(
    parcels: Sequence[bytes],
    published: Sequence[Published],
    *,
    member: int,
    count: int,
    threshold: int,
) -> list[int]:
    """Check one member's parcels of several dealers, all together; one by one only where that fails.

    Args:
        parcels: the opened parcels.
        published: the public part of each dealing.
        member: number of this member, from 1.
        count: scalars of a key.
        threshold: shares that reconstruct a key.

    Returns:
        The positions of the parcels that don't verify, in ascending order; their dealers are at fault.
    """
    wrong: list[int] = []
    claims: dict[int, tuple[Scalars, Point]] = {}
    for position, (parcel, one) in enumerate(zip(parcels, published, strict=True)):
        try:
            share = decode_share(parcel, member=member, count=count)
            commitments = read_commitments(one, threshold=threshold)
        except AggregationError:
            wrong.append(position)
        else:
            claims[position] = (share, curve.polynomial_at(commitments, member))
    return sorted(wrong + _wrong_claims(claims, generators(count)))


def _wrong_claims(claims: dict[int, tuple[Scalars, Point]], bases: Generators) -> list[int]:
    """Return which shares don't open what is stated beside them, by checking ever smaller halves.

    Claims are added with weights that are drawn now, so that wrong ones cancel out only by chance.
    """
    if not claims:
        return []
    drawn = Randomness.from_os().bytes(_WEIGHT_BYTES * len(claims))
    weights = [
        int.from_bytes(drawn[start : start + _WEIGHT_BYTES], "big")
        for start in range(0, len(drawn), _WEIGHT_BYTES)
    ]
    shares, points = zip(*claims.values(), strict=True)
    total = [
        sum(weight * value for weight, value in zip(weights, values, strict=True)) % scalar_sharing.ORDER
        for values in zip(*shares, strict=True)
    ]
    if curve.same(bases.combine(total), curve.linear_combination(points, weights)):
        return []
    if len(claims) == 1:
        return list(claims)
    half = len(claims) // 2
    items = list(claims.items())
    return _wrong_claims(dict(items[:half]), bases) + _wrong_claims(dict(items[half:]), bases)


def add_shares(parcels: Sequence[bytes], *, member: int, count: int) -> bytes:
    """Add one member's shares of several keys.

    Args:
        parcels: opened parcels.
        member: number of this member, from 1.
        count: scalars of a key.

    Returns:
        The member's share of the sum of the keys, encoded.

    Raises:
        AggregationError: there are no parcels, or one is malformed or another member's.
    """
    shares = [decode_share(parcel, member=member, count=count) for parcel in parcels]
    return encode_share(member, scalar_sharing.add(shares))


class DealtSum:
    """The summed commitments of several dealings, which answers are held against.

    Args:
        published: the public part of each dealing.
        count: scalars of a key.
        threshold: shares that reconstruct a key.

    Raises:
        AggregationError: a dealing is malformed.
    """

    def __init__(self, published: Sequence[Published], *, count: int, threshold: int) -> None:
        dealt = [read_commitments(one, threshold=threshold) for one in published]
        self._count = count
        self._commitments = [curve.add(points) for points in zip(*dealt, strict=True)]

    def check(self, answer: bytes, *, member: int) -> None:
        """Check a member's answer.

        Args:
            answer: its share of the sum of the keys, encoded.
            member: its number, from 1.

        Raises:
            AggregationError: the answer isn't the sum of the shares that it was dealt. The member is at
                fault: it checks the same before it answers.
        """
        share = decode_share(answer, member=member, count=self._count)
        expected = curve.polynomial_at(self._commitments, member)
        if not curve.same(generators(self._count).combine(share), expected):
            raise AggregationError("its answer is not the sum of the key shares that it was dealt")


def share_bytes(count: int) -> int:
    """Return the length in bytes of a parcel or an answer for keys of ``count`` scalars."""
    return _HEADER.size + SCALAR_BYTES * (count + 1)


def encode_share(x: int, share: Sequence[int]) -> bytes:
    """Encode a share: magic, version, member number, length, then the scalars.

    Args:
        x: the member number.
        share: the scalars, the random one last.

    Returns:
        The bytes.
    """
    return _HEADER.pack(_MAGIC, _VERSION, x, len(share)) + scalar_sharing.encode_scalars(share)


def decode_share(blob: bytes, *, member: int, count: int) -> Scalars:
    """Decode the result of :func:`encode_share`.

    Args:
        blob: the bytes, from an untrusted party.
        member: the number of the member that it must be for.
        count: scalars of a key.

    Returns:
        The scalars, below the order: ``count`` of the key, then the random one.

    Raises:
        AggregationError: the length, the header or a scalar is wrong.
    """
    if len(blob) != share_bytes(count):
        raise AggregationError(f"a key share of {len(blob)} bytes should have {share_bytes(count)}")
    magic, version, x, stated = _HEADER.unpack_from(blob)
    if magic != _MAGIC or version != _VERSION or stated != count + 1:
        raise AggregationError(
            "a key share has a wrong header; the sender runs another version or sent invalid data"
        )
    if x != member:
        raise AggregationError(f"a key share is labelled as member {x}'s, not member {member}'s")
    return scalar_sharing.decode_scalars(blob[_HEADER.size :], count=count + 1)
