"""Share the seeds of a merchant's noise layers with the committee, and open those that a sum doesn't need.

A seed is a uniform scalar, shared by :mod:`fedrec.privacy.aggregation.scalar_sharing`. A member's *part* is a
random salt and its share of every seed; it travels in the member's sealed box. The dealer publishes a hash of
each seed and one of each part, and signs them.

The layers that a sum doesn't need are always the last ones. So the hash of a part is the end of a chain over
its shares in the layers' order: a member opens its last shares by giving them and the link before them, and
the hash binds them to the part, while that link hides the salt and the shares that stay closed. A share that
isn't the dealt one is thus the member's fault; and if as many right shares as the threshold don't give the
seed that the dealer committed to, that is the dealer's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.scalar_sharing import (
    SCALAR_BYTES,
    decode_scalars,
    encode_scalars,
    interpolate,
    polynomials,
    share_of,
)
from fedrec.privacy.randomness import Randomness

SALT_BYTES = 32
_LINK_BYTES = 32
_SEED_DOMAIN = b"fedrec/layer-seed/1"
_SALT_DOMAIN = b"fedrec/layer-part/1"
_LINK_DOMAIN = b"fedrec/layer-share/1"


@dataclass(frozen=True)
class SeedCommitments:
    """The public part of a dealing of seeds, which the dealer signs.

    Attributes:
        seeds: hash of each layer's seed.
        parts: hash of each member's part.
    """

    seeds: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeedDealing:
    """The seeds of one merchant's layers, dealt: the members' parts, in order, and the public part."""

    parts: tuple[bytes, ...]
    published: SeedCommitments


def part_bytes(layers: int) -> int:
    """Return the length of a member's part for so many layers in bytes; 0 for none."""
    return SALT_BYTES + SCALAR_BYTES * layers if layers else 0


def opened_bytes(layers: int) -> int:
    """Return the length of what a member opens of a part, for so many opened layers, in bytes; 0 for none."""
    return _LINK_BYTES + SCALAR_BYTES * layers if layers else 0


def deal_seeds(
    seeds: Sequence[int], *, members: int, threshold: int, statement: bytes, rng: Randomness
) -> SeedDealing:
    """Deal the seeds of a merchant's layers to members 1..members.

    Args:
        seeds: the seed of each layer, a scalar; at least one.
        members: number of members.
        threshold: shares that reconstruct a seed.
        statement: encodes the training, the round and the dealer, and is unique to them.
        rng: randomness of shares and salts.

    Returns:
        The parts and the public part.

    Raises:
        AggregationError: the number of members or the threshold is out of range.
    """
    coefficients = polynomials(seeds, threshold=threshold, rng=rng)
    parts, ends = [], []
    for member in range(1, members + 1):
        salt, shares = rng.bytes(SALT_BYTES), share_of(coefficients, member=member)
        parts.append(salt + encode_scalars(shares))
        ends.append(_links(parts[-1], member=member, statement=statement)[-1].hex())
    hashes = tuple(
        _seed_hash(seed, layer=layer, statement=statement) for layer, seed in enumerate(seeds, start=1)
    )
    return SeedDealing(tuple(parts), SeedCommitments(seeds=hashes, parts=tuple(ends)))


def accept_part(part: bytes, published: SeedCommitments, *, member: int, statement: bytes) -> None:
    """Check a part against the public part of its dealing.

    Args:
        part: the part.
        published: what the dealer signed.
        member: number of this member, from 1.
        statement: encodes the training, the round and the dealer.

    Raises:
        AggregationError: the part isn't the one that the dealer committed to, or isn't well formed. The
            dealer is at fault.
    """
    layers = len(published.seeds)
    if len(part) != part_bytes(layers):
        raise AggregationError(f"the shares of {layers} noise layers have a wrong length")
    if not layers:
        return
    decode_scalars(part[SALT_BYTES:], count=layers)
    if _links(part, member=member, statement=statement)[-1].hex() != published.parts[member - 1]:
        raise AggregationError("the shares of noise layers are not the ones that the dealer committed to")


def open_part(part: bytes, *, kept: int, member: int, statement: bytes) -> bytes:
    """Take from an accepted part what opens this member's shares of the layers after the first ``kept``.

    Args:
        part: the part.
        kept: number of layers that stay closed.
        member: number of this member.
        statement: encodes the training, the round and the dealer.

    Returns:
        The link before the opened shares, and the shares; nothing if no layer is opened.
    """
    if len(part) == part_bytes(kept):
        return b""
    links = _links(part, member=member, statement=statement)
    return links[kept] + part[SALT_BYTES + SCALAR_BYTES * kept :]


def read_opened(
    opened: bytes, published: SeedCommitments, *, kept: int, member: int, statement: bytes
) -> list[int]:
    """Check what a member opened of a part.

    Args:
        opened: the result of :func:`open_part`, from an untrusted party.
        published: what the dealer signed.
        kept: number of layers that stay closed.
        member: the member's number.
        statement: encodes the training, the round and the dealer.

    Returns:
        The member's share of each opened layer's seed.

    Raises:
        AggregationError: these are not the shares that the member was dealt.
    """
    layers = len(published.seeds) - kept
    if len(opened) != opened_bytes(layers):
        raise AggregationError("its shares of noise layers have a wrong length")
    shares = decode_scalars(opened[_LINK_BYTES:], count=layers)
    link = _chain(opened[:_LINK_BYTES], opened[_LINK_BYTES:])[-1]
    if link.hex() != published.parts[member - 1]:
        raise AggregationError("its shares of noise layers are not the ones that it was dealt")
    return shares


def recover_seeds(
    shares: Mapping[int, Sequence[int]], published: SeedCommitments, *, kept: int, statement: bytes
) -> list[int]:
    """Reconstruct the seeds of a merchant's opened layers.

    Args:
        shares: checked shares of as many members as the threshold, by member number.
        published: what the dealer signed.
        kept: number of layers that stay closed.
        statement: encodes the training, the round and the dealer.

    Returns:
        The seeds of the layers after the first ``kept``.

    Raises:
        AggregationError: the shares belong to other seeds than the dealer committed to; it is at fault.
    """
    seeds = interpolate(shares)
    for layer, (seed, expected) in enumerate(zip(seeds, published.seeds[kept:], strict=True), start=kept + 1):
        if _seed_hash(seed, layer=layer, statement=statement) != expected:
            raise AggregationError(f"it dealt shares of another seed of noise layer {layer} than it signed")
    return seeds


def _seed_hash(seed: int, *, layer: int, statement: bytes) -> str:
    # The seed is uniform below a number of 256 bits: it needs no salt to stay hidden.
    content = seed.to_bytes(SCALAR_BYTES, "big") + layer.to_bytes(4, "big") + statement
    return hashlib.sha256(_SEED_DOMAIN + content).hexdigest()


def _links(part: bytes, *, member: int, statement: bytes) -> list[bytes]:
    """Return the chain over a part: the link of its salt, then one after each share."""
    salt, shares = part[:SALT_BYTES], part[SALT_BYTES:]
    first = hashlib.sha256(_SALT_DOMAIN + salt + member.to_bytes(4, "big") + statement).digest()
    return _chain(first, shares)


def _chain(first: bytes, shares: bytes) -> list[bytes]:
    links = [first]
    for start in range(0, len(shares), SCALAR_BYTES):
        share = shares[start : start + SCALAR_BYTES]
        links.append(hashlib.sha256(_LINK_DOMAIN + links[-1] + share).digest())
    return links
