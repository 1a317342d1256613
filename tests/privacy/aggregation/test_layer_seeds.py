"""Seeds of noise layers: dealing, opening the last ones, and everybody who may cheat at it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.layer_seeds import (
    SeedCommitments,
    SeedDealing,
    accept_part,
    deal_seeds,
    open_part,
    part_bytes,
    read_opened,
    recover_seeds,
)
from fedrec.privacy.aggregation.scalar_sharing import ORDER, encode_scalars, polynomials, share_of
from fedrec.privacy.randomness import Randomness

STATEMENT = b"training, round, dealer"
SEEDS = [11, ORDER - 1, 12345678901234567890, 0]


def dealt(members: int = 5, threshold: int = 3, statement: bytes = STATEMENT) -> SeedDealing:
    rng = Randomness.seeded(3)
    return deal_seeds(SEEDS, members=members, threshold=threshold, statement=statement, rng=rng)


def opened_by(dealing: SeedDealing, member: int, *, kept: int) -> bytes:
    return open_part(dealing.parts[member - 1], kept=kept, member=member, statement=STATEMENT)


@settings(max_examples=20, deadline=None)
@given(kept=st.integers(0, 3), members=st.integers(3, 7))
def test_every_quorum_opens_the_last_layers_and_no_other(kept: int, members: int) -> None:
    dealing = dealt(members, 3)
    for x, part in enumerate(dealing.parts, start=1):
        accept_part(part, dealing.published, member=x, statement=STATEMENT)
    for quorum in combinations(range(1, members + 1), 3):
        shares = {
            x: read_opened(
                opened_by(dealing, x, kept=kept), dealing.published, kept=kept, member=x, statement=STATEMENT
            )
            for x in quorum
        }
        assert recover_seeds(shares, dealing.published, kept=kept, statement=STATEMENT) == SEEDS[kept:]
    # What stays closed isn't in the answer: neither a share of it nor the salt.
    part = dealing.parts[0]
    closed = [part[:32], *(part[32 * j : 32 * j + 32] for j in range(1, kept + 1))]
    assert not any(secret in opened_by(dealing, 1, kept=kept) for secret in closed)


def test_nothing_is_opened_where_every_layer_is_kept() -> None:
    assert opened_by(dealt(), 1, kept=4) == b"" and part_bytes(0) == 0


def test_shares_below_the_threshold_fit_every_other_seed() -> None:
    """Two shares and any wanted seed lie on one polynomial of degree two; it passes through both."""
    coefficients = polynomials([SEEDS[0]], threshold=3, rng=Randomness.seeded(4))
    seen = {x: share_of(coefficients, member=x)[0] for x in (1, 2)}
    wanted = 987654321
    # By Lagrange through (0, wanted), (1, ...), (2, ...): a third share that no one can rule out.
    third = (wanted * 1 - 3 * seen[1] + 3 * seen[2]) % ORDER
    square = (third - 2 * seen[2] + seen[1]) * pow(2, -1, ORDER) % ORDER
    rows = [[wanted], [(seen[1] - wanted - square) % ORDER], [square]]
    assert share_of(rows, member=1) == [seen[1]] and share_of(rows, member=2) == [seen[2]]


@pytest.mark.parametrize("place", [0, 31, 32, 63, 64, 95])
def test_a_member_that_changes_anything_is_found_out(place: int) -> None:
    dealing = dealt()
    answer = bytearray(opened_by(dealing, 2, kept=2))
    answer[place] ^= 1
    with pytest.raises(AggregationError, match=r"not the ones that it was dealt|outside its field"):
        read_opened(bytes(answer), dealing.published, kept=2, member=2, statement=STATEMENT)


def test_answers_of_other_places_are_refused() -> None:
    dealing, other = dealt(), dealt(statement=b"training, round, another dealer")
    right = opened_by(dealing, 2, kept=2)
    read_opened(right, dealing.published, kept=2, member=2, statement=STATEMENT)
    for answer, published, kept, member in (
        (right, dealing.published, 2, 3),
        (right, dealing.published, 1, 2),
        (right, other.published, 2, 2),
        (right[:-1], dealing.published, 2, 2),
        (b"", dealing.published, 2, 2),
    ):
        with pytest.raises(AggregationError, match=r"not the ones that it was dealt|wrong length"):
            read_opened(answer, published, kept=kept, member=member, statement=STATEMENT)


def test_a_dealer_of_other_seeds_than_it_signed_is_found_out() -> None:
    dealing = dealt()
    for seeds in (
        dealing.published.seeds[::-1],
        dealt(statement=b"another round").published.seeds,
        ("00" * 32,) * 4,
    ):
        wrong = replace(dealing.published, seeds=seeds)
        shares = {
            x: read_opened(opened_by(dealing, x, kept=1), wrong, kept=1, member=x, statement=STATEMENT)
            for x in (1, 2, 3)
        }
        with pytest.raises(AggregationError, match="another seed of noise layer 2"):
            recover_seeds(shares, wrong, kept=1, statement=STATEMENT)


def end_of(part: bytes, member: int) -> str:
    """The hash of a part, by its definition."""
    link = hashlib.sha256(b"fedrec/layer-part/1" + part[:32] + member.to_bytes(4, "big") + STATEMENT).digest()
    for start in range(32, len(part), 32):
        link = hashlib.sha256(b"fedrec/layer-share/1" + link + part[start : start + 32]).digest()
    return link.hex()


def test_hashes_are_those_of_the_definition() -> None:
    dealing = dealt()
    for layer, (seed, found) in enumerate(zip(SEEDS, dealing.published.seeds, strict=True), start=1):
        content = seed.to_bytes(32, "big") + layer.to_bytes(4, "big") + STATEMENT
        assert found == hashlib.sha256(b"fedrec/layer-seed/1" + content).hexdigest()
    ends = tuple(end_of(part, member) for member, part in enumerate(dealing.parts, start=1))
    assert dealing.published.parts == ends


def test_parts_that_a_member_must_not_accept() -> None:
    dealing = dealt()
    part = dealing.parts[0]
    large = part[:32] + encode_scalars([1, 2, 3]) + ORDER.to_bytes(32, "big")
    for wrong, member in ((part, 2), (part[:-1], 1), (b"", 1), (part + b"x", 1), (large, 1)):
        with pytest.raises(AggregationError, match=r"outside its field|wrong length|not the ones"):
            accept_part(wrong, dealing.published, member=member, statement=STATEMENT)
    with pytest.raises(AggregationError, match="not the ones that the dealer committed"):
        accept_part(part, dealing.published, member=1, statement=b"training, next round, dealer")
    # Whatever a dealer signs: an honest member that opened such a share would be named for it.
    for wrong in (large, part + b"x", part + bytes(32)):
        link = hashlib.sha256(
            b"fedrec/layer-part/1" + wrong[:32] + (1).to_bytes(4, "big") + STATEMENT
        ).digest()
        for start in range(32, len(wrong), 32):
            link = hashlib.sha256(b"fedrec/layer-share/1" + link + wrong[start : start + 32]).digest()
        signed = SeedCommitments(dealing.published.seeds, (link.hex(), *dealing.published.parts[1:]))
        with pytest.raises(AggregationError, match=r"outside its field|wrong length"):
            accept_part(wrong, signed, member=1, statement=STATEMENT)
    with pytest.raises(AggregationError, match="wrong length"):
        accept_part(b"x", SeedCommitments(), member=1, statement=STATEMENT)
