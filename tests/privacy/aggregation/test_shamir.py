from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import shamir
from fedrec.privacy.randomness import Randomness

P = shamir.PRIME


def split(
    secret: NDArray[np.int64], *, members: int, threshold: int, rng: Randomness
) -> list[NDArray[np.uint64]]:
    return list(shamir.evaluate(shamir.polynomials(secret, threshold=threshold, rng=rng), members=members))


def naive_lagrange_at(points: dict[int, int], target: int) -> int:
    total = 0
    for i, y in points.items():
        term = y
        for j in points:
            if j != i:
                term = term * (target - j) * pow(i - j, -1, P) % P
        total += term
    return total % P


@settings(max_examples=40, deadline=None)
@given(
    secret=st.lists(st.integers(-(P // 2), P // 2), min_size=1, max_size=20),
    members=st.integers(1, 9),
    data=st.data(),
)
def test_every_quorum_reconstructs_the_secret(secret: list[int], members: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, members))
    vector = np.array(secret, dtype=np.int64)
    shares = split(vector, members=members, threshold=threshold, rng=Randomness.from_os())
    chosen = data.draw(st.permutations(range(1, members + 1)))[:threshold]
    got = shamir.reconstruct({x: shares[x - 1] for x in chosen}, threshold=threshold).secret
    assert got.tolist() == secret
    assert naive_lagrange_at({x: int(shares[x - 1][0]) for x in chosen}, 0) == secret[0] % P


def test_shares_of_a_sum_are_sums_of_shares() -> None:
    rng = Randomness.seeded(1)
    secrets = [np.array([5, -7, 42]), np.array([-6, 7, P // 2 - 100])]
    dealt = [split(s, members=5, threshold=3, rng=rng) for s in secrets]
    summed = {x: shamir.add(dealt[0][x - 1], dealt[1][x - 1]) for x in (2, 4, 5)}
    assert shamir.reconstruct(summed, threshold=3).secret.tolist() == (secrets[0] + secrets[1]).tolist()


def test_fewer_than_threshold_shares_fit_every_other_secret() -> None:
    shares = split(np.array([1234]), members=5, threshold=3, rng=Randomness.seeded(2))
    seen = {2: int(shares[1][0]), 5: int(shares[4][0])}
    for other in (0, 1, 999_999, P - 1):
        # The polynomial of degree 2 through the two shares and (0, other): a sharing of the other secret.
        through = {0: other, **seen}
        forged = {x: np.array([naive_lagrange_at(through, x)], dtype=np.uint64) for x in range(1, 6)}
        assert all(int(forged[x][0]) == y for x, y in seen.items())
        assert int(shamir.reconstruct(forged, threshold=3).secret[0]) % P == other


def test_shares_look_uniform_whatever_the_secret() -> None:
    for secret in (0, 1000):
        share = split(np.full(20_000, secret), members=3, threshold=2, rng=Randomness.seeded(3))[0]
        counts, _ = np.histogram(share, bins=16, range=(0, P))
        assert ((counts - 1250) ** 2 / 1250).sum() < 50  # chi-square, 15 degrees: P < 2e-5


def test_contradicting_and_missing_shares_are_refused() -> None:
    shares = split(np.arange(10), members=5, threshold=3, rng=Randomness.seeded(4))
    by_member = dict(enumerate(shares, start=1))
    for bad in by_member:
        wrong = {x: s.copy() for x, s in by_member.items() if x != bad % 5 + 1}
        wrong[bad][7] = (int(wrong[bad][7]) + 1) % P
        with pytest.raises(AggregationError, match="contradict"):
            shamir.reconstruct(wrong, threshold=3)
    with pytest.raises(AggregationError, match="too few"):
        shamir.reconstruct({1: shares[0], 2: shares[1]}, threshold=3)
    for quorum in itertools.combinations(by_member, 3):
        assert shamir.reconstruct({x: by_member[x] for x in quorum}, threshold=3).secret.tolist() == list(
            range(10)
        )


@settings(max_examples=60, deadline=None)
@given(
    threshold=st.integers(1, 5),
    spare=st.integers(0, 7),
    length=st.integers(1, 30),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_wrong_shares_are_named_and_corrected_as_far_as_they_can_be_told(
    threshold: int, spare: int, length: int, seed: int, data: st.DataObject
) -> None:
    members = threshold + spare
    chance = np.random.default_rng(seed)
    secret = chance.integers(-(P // 2), P // 2, length)
    shares = split(secret, members=members, threshold=threshold, rng=Randomness.from_os())
    by_member = dict(enumerate((s.copy() for s in shares), start=1))
    liars = data.draw(st.lists(st.integers(1, members), max_size=spare // 2, unique=True))
    for x in liars:
        place = int(chance.integers(length))
        by_member[x][place] = (int(by_member[x][place]) + int(chance.integers(1, P))) % P
    found = shamir.reconstruct(by_member, threshold=threshold)
    assert found.secret.tolist() == secret.tolist()
    assert found.wrong == tuple(sorted(liars))


@pytest.mark.parametrize(("members", "threshold"), [(3, 4), (3, 0), (0, 0), (shamir.MAX_MEMBERS + 1, 2)])
def test_impossible_committees_are_refused(members: int, threshold: int) -> None:
    with pytest.raises(AggregationError, match=r"isn.t possible"):
        split(np.array([1]), members=members, threshold=threshold, rng=Randomness.seeded(5))


def test_share_wire_format() -> None:
    share = np.array([0, 1, P - 1], dtype=np.uint64)
    blob = shamir.encode_share(7, share)
    x, back = shamir.decode_share(blob, count=3)
    assert (x, back.tolist()) == (7, [0, 1, P - 1])
    for bit in range(12 * 8):
        if 48 <= bit < 64:
            continue  # another member number is well formed; whoever uses the share compares it
        broken = bytearray(blob)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AggregationError):
            shamir.decode_share(bytes(broken), count=3)
    for wrong in (blob[:-1], blob + b"\0", b"", blob[:-4] + P.to_bytes(4, "little")):
        with pytest.raises(AggregationError):
            shamir.decode_share(wrong, count=3)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
def test_rubbish_shares_raise_only_aggregation_errors(blob: bytes) -> None:
    with pytest.raises(AggregationError):
        shamir.decode_share(blob, count=8)
    with pytest.raises(AggregationError):
        shamir.decode_share(blob[:44].ljust(44, b"\0"), count=8)
