"""Dealt keys: an honest dealing is accepted and gives the key; every dishonest one is caught."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import curve, dealing
from fedrec.privacy.aggregation import scalar_sharing as sharing
from fedrec.privacy.aggregation.dealing import Dealing, DealtSum, Published
from fedrec.privacy.aggregation.scalar_sharing import ORDER
from fedrec.privacy.randomness import Randomness

COUNT = 3
KEY = [5, ORDER - 7, 1 << 200]


def deal(members: int, threshold: int, secrets: list[int] | None = None) -> Dealing:
    rng = Randomness.from_os()
    return dealing.deal(secrets or KEY, members=members, threshold=threshold, rng=rng)


def wrong(
    dealt: list[Dealing], *, member: int, threshold: int, parcels: list[bytes] | None = None
) -> list[int]:
    return dealing.wrong_parcels(
        parcels or [one.parcels[member - 1] for one in dealt],
        [one.published for one in dealt],
        member=member,
        count=COUNT,
        threshold=threshold,
    )


def shares_of(dealt: Dealing) -> dict[int, list[int]]:
    return {
        x: dealing.decode_share(parcel, member=x, count=COUNT)
        for x, parcel in enumerate(dealt.parcels, start=1)
    }


def forged(rows: list[list[int]], *, members: int, committed: list[list[int]] | None = None) -> Dealing:
    """A dealing by any polynomials whatever, with commitments to these or other ones."""
    bases = [curve.generator(number) for number in range(COUNT + 1)]
    points = [curve.linear_combination(bases, row) for row in committed or rows]
    return Dealing(
        parcels=tuple(
            dealing.encode_share(x, sharing.share_of(rows, member=x)) for x in range(1, members + 1)
        ),
        published=Published(tuple(curve.encode_point(point).hex() for point in points)),
    )


@settings(max_examples=15, deadline=None)
@given(members=st.integers(1, 6), data=st.data())
def test_an_honest_dealing_is_accepted_and_gives_the_key_back(members: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, members))
    secrets = data.draw(st.lists(st.integers(0, ORDER - 1), min_size=COUNT, max_size=COUNT))
    dealt = deal(members, threshold, secrets)
    assert [wrong([dealt], member=x, threshold=threshold) for x in range(1, members + 1)] == [[]] * members
    shares = shares_of(dealt)
    chosen = data.draw(st.permutations(sorted(shares)))[:threshold]
    assert sharing.interpolate({x: shares[x] for x in chosen})[:COUNT] == secrets
    # Each member, by another way of computing: its shares open the commitments' polynomial at its number.
    points = [curve.read_point(bytes.fromhex(text)) for text in dealt.published.commitments]
    bases = [curve.generator(number) for number in range(COUNT + 1)]
    for x, share in shares.items():
        expected = curve.linear_combination(points, [x**j for j in range(threshold)])
        assert curve.same(curve.linear_combination(bases, share), expected)


def test_shares_of_too_high_a_degree_are_refused_by_every_honest_member() -> None:
    members, threshold, rng = 7, 4, Randomness.from_os()
    high = sharing.polynomials([*KEY, 1], threshold=threshold + 1, rng=rng)
    high[threshold][1:] = [0] * COUNT  # one polynomial alone has one degree too many
    dealt = forged(high, members=members, committed=high[:threshold])
    for x in range(1, members + 1):
        assert wrong([dealt], member=x, threshold=threshold) == [0]
    # All of its commitments are one more than a plan of this threshold takes.
    assert wrong([forged(high, members=members)], member=1, threshold=threshold) == [0]
    assert wrong([forged(high[:threshold], members=members)], member=1, threshold=threshold) == []
    # Whatever it commits to, it can make so many shares fit, and no more: here those of members 1 to 4.
    columns = zip(*(sharing.share_of(high, member=x) for x in range(1, 5)), strict=True)
    fitting = [list(row) for row in zip(*map(interpolated, columns), strict=True)]
    cheat = forged(high, members=members, committed=fitting)
    assert [bool(wrong([cheat], member=x, threshold=threshold)) for x in range(1, 8)] == [False] * 4 + [
        True
    ] * 3


def interpolated(values: tuple[int, ...]) -> list[int]:
    """Coefficients of the polynomial through (1, values[0]), (2, values[1]), ..., by plain integers."""
    total = [0] * len(values)
    points = range(1, len(values) + 1)
    for i, y in zip(points, values, strict=True):
        basis, bottom = [1], 1
        for j in points:
            if j != i:
                basis = [(low - j * high) % ORDER for low, high in zip([0, *basis], [*basis, 0], strict=True)]
                bottom = bottom * (i - j) % ORDER
        for k, value in enumerate(basis):
            total[k] = (total[k] + y * value * pow(bottom, -1, ORDER)) % ORDER
    return total


def test_a_dealer_that_cheats_one_member_is_caught_by_that_member_alone() -> None:
    dealt = [deal(5, 3) for _ in range(6)]
    for position in range(COUNT + 1):  # the last is the random one
        share = dealing.decode_share(dealt[4].parcels[2], member=3, count=COUNT)
        share[position] = (share[position] + 1) % ORDER
        parcels = [one.parcels[2] for one in dealt]
        parcels[4] = dealing.encode_share(3, share)
        assert wrong(dealt, member=3, threshold=3, parcels=parcels) == [4]
        assert wrong(dealt, member=2, threshold=3) == []
        # Two dealers whose errors are each other's opposite don't cancel out.
        other = dealing.decode_share(dealt[1].parcels[2], member=3, count=COUNT)
        other[position] = (other[position] - 1) % ORDER
        parcels[1] = dealing.encode_share(3, other)
        assert wrong(dealt, member=3, threshold=3, parcels=parcels) == [1, 4]


def test_a_dealing_of_another_threshold_member_or_dealer_is_refused() -> None:
    one, two = deal(5, 3), deal(5, 3)
    assert wrong([one], member=2, threshold=4) == wrong([one], member=2, threshold=2) == [0]
    assert wrong([one], member=3, threshold=3, parcels=[one.parcels[1]]) == [0]
    relabelled = dealing.encode_share(3, dealing.decode_share(one.parcels[1], member=2, count=COUNT))
    assert wrong([one], member=3, threshold=3, parcels=[relabelled]) == [0]
    assert wrong([one, two], member=1, threshold=3, parcels=[two.parcels[0], one.parcels[0]]) == [0, 1]
    # Commitments in another order are of other polynomials.
    turned = Dealing(one.parcels, Published(one.published.commitments[::-1]))
    assert wrong([turned, two], member=2, threshold=3) == [0]
    assert wrong([turned], member=1, threshold=3) == []  # at 1, all powers are 1


def test_every_flipped_bit_of_a_parcel_is_refused() -> None:
    dealt = deal(3, 2)
    for bit in range(0, 8 * len(dealt.parcels[0]), 11):
        broken = bytearray(dealt.parcels[0])
        broken[bit // 8] ^= 1 << bit % 8
        assert wrong([dealt], member=1, threshold=2, parcels=[bytes(broken)]) == [0]


GOOD = deal(3, 2)
FIRST, SECOND = GOOD.published.commitments


@pytest.mark.parametrize(
    "commitments",
    [
        (),
        (FIRST,),
        (FIRST, SECOND, SECOND),
        (FIRST, SECOND[:-2]),
        (FIRST, SECOND + "00"),
        (FIRST, "00" * 33),
        (FIRST, "02" + "ff" * 32),
        (FIRST, "zz" * 33),
        (FIRST, f"{SECOND[:2]} {SECOND[2:]}"),  # the same point, in another form
        (FIRST, "04" + SECOND[2:] + "00" * 32),
        (FIRST, f"{5 - int(SECOND[:2]):02x}" + SECOND[2:]),  # the opposite point
        (SECOND, FIRST),
    ],
)
def test_hostile_commitments_are_the_dealers_fault(commitments: tuple[str, ...]) -> None:
    hostile = Dealing(GOOD.parcels, Published(commitments))
    honest = deal(3, 2)
    assert wrong([honest, hostile, honest], member=2, threshold=2) == [1]


def test_commitments_that_add_up_to_the_identity_do_no_harm() -> None:
    """A dealer of points that cancel out: in its own polynomial, or those of another one in the sum."""
    base = curve.generator(1)
    opposite = [curve.encode_point(curve.multiply(base, c)).hex() for c in (2, ORDER - 1)]
    dealt = Dealing((), Published(tuple(opposite)))  # 2 - x: the identity at member 2
    zero = dealing.encode_share(2, [0] * (COUNT + 1))
    assert wrong([dealt], member=2, threshold=2, parcels=[zero]) == []
    other = [curve.encode_point(curve.multiply(base, c)).hex() for c in (ORDER - 2, 1)]
    both = [dealt.published, Published(tuple(other))]
    total = DealtSum(both, count=COUNT, threshold=2)
    total.check(zero, member=2)
    with pytest.raises(AggregationError, match="not the sum"):
        total.check(dealing.encode_share(2, [1, *[0] * COUNT]), member=2)


@settings(max_examples=60, deadline=None)
@given(parcel=st.binary(max_size=200), point=st.text(max_size=80), more=st.integers(0, 2))
def test_rubbish_is_the_dealers_fault(parcel: bytes, point: str, more: int) -> None:
    assert wrong([GOOD], member=1, threshold=2, parcels=[parcel]) == [0]
    hostile = Dealing(GOOD.parcels, Published((FIRST,) + (point,) * more))
    assert wrong([hostile], member=1, threshold=2) == [0]


def test_wrong_answers_are_named_one_by_one_with_no_answer_to_spare() -> None:
    """m = t = 3: whoever lies is known, alone or with others that agree on the lie."""
    dealt = [deal(3, 3) for _ in range(4)]
    total = DealtSum([one.published for one in dealt], count=COUNT, threshold=3)
    answers = {
        x: dealing.add_shares([one.parcels[x - 1] for one in dealt], member=x, count=COUNT) for x in (1, 2, 3)
    }
    for liars in (set(), {2}, {1, 3}, {1, 2, 3}):
        for error in (1, ORDER - 1, 1 << 255):
            named = set()
            for x, answer in answers.items():
                share = dealing.decode_share(answer, member=x, count=COUNT)
                if x in liars:
                    share[1] = (share[1] + error) % ORDER  # the same error: a constant is a polynomial, too
                try:
                    total.check(dealing.encode_share(x, share), member=x)
                except AggregationError:
                    named.add(x)
            assert named == liars
    key = sharing.interpolate(
        {x: dealing.decode_share(answer, member=x, count=COUNT) for x, answer in answers.items()}
    )
    assert key[:COUNT] == [4 * value % ORDER for value in KEY]
    with pytest.raises(AggregationError, match="not the sum of the key shares"):
        DealtSum([], count=COUNT, threshold=3).check(answers[1], member=1)


def test_shares_and_commitments_of_corrupt_members_fit_every_key() -> None:
    """For 3 corrupt members of 9, t = 7: any other key has a dealing that they can't tell apart.

    Anybody who knows the generators' discrete logarithms, as a later quantum computer would, can compute the
    second dealing. So the test has generators whose logarithms it knows, to the base of the last one.
    """
    members, threshold, corrupt = 9, 7, (1, 2, 6)
    rng = Randomness.from_os()
    base = curve.generator(0)
    logarithms = sharing.random_scalars(COUNT, rng)
    bases = [*(curve.multiply(base, log) for log in logarithms), base]

    def commitments(rows: list[list[int]]) -> list[bytes]:
        return [curve.encode_point(curve.linear_combination(bases, row)) for row in rows]

    def parcels(rows: list[list[int]]) -> list[list[int]]:
        return [sharing.share_of(rows, member=x) for x in range(1, members + 1)]

    rows = sharing.polynomials([*KEY, *sharing.random_scalars(1, rng)], threshold=threshold, rng=rng)
    # L, of degree 3: one at zero, and zero at the corrupt members' points.
    vanishing = [1]
    for x in corrupt:
        inverse = pow(-x, -1, ORDER)
        vanishing = [
            (high * inverse + low) % ORDER for low, high in zip([*vanishing, 0], [0, *vanishing], strict=True)
        ]
    vanishing += [0] * (threshold - len(vanishing))
    for other in ([6, ORDER - 7, 1 << 200], [0, 0, 0], sharing.random_scalars(COUNT, rng)):
        steps = [new - old for new, old in zip(other, KEY, strict=True)]
        mask = -sum(step * log for step, log in zip(steps, logarithms, strict=True))
        second = [
            [(value + step * factor) % ORDER for value, step in zip(row, [*steps, mask], strict=True)]
            for row, factor in zip(rows, vanishing, strict=True)
        ]
        assert commitments(second) == commitments(rows)
        changed = [
            x
            for x, (old, new) in enumerate(zip(parcels(rows), parcels(second), strict=True), 1)
            if old != new
        ]
        assert changed == [x for x in range(1, members + 1) if x not in corrupt]
        held = dict(enumerate(parcels(second), start=1))
        for quorum in list(combinations(held, threshold))[::7]:
            assert sharing.interpolate({x: held[x] for x in quorum})[:COUNT] == other


def test_commitments_to_one_key_are_new_each_time() -> None:
    seen = {text for _ in range(20) for text in deal(3, 3).published.commitments}
    assert len(seen) == 60


def test_impossible_committees_are_refused() -> None:
    for members, threshold in ((2, 3), (0, 0), (3, 0), (1025, 3)):
        with pytest.raises(AggregationError, match="isn't possible"):
            deal(members, threshold)
    for blobs in ([], [GOOD.parcels[0], GOOD.parcels[1]], [b""]):
        with pytest.raises(AggregationError, match=r"labelled as|should have|different lengths"):
            dealing.add_shares(blobs, member=1, count=COUNT)
