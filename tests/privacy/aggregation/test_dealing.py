"""Dealt keys: an honest dealing is accepted and gives the key; every dishonest one is caught."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import dealing, degree, reed_solomon, shamir
from fedrec.privacy.aggregation.dealing import Dealing, Published
from fedrec.privacy.randomness import Randomness

P = shamir.PRIME
COUNT = 24
STATEMENT = b"training, round, dealer"


def key(seed: int = 0, count: int = COUNT) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(-42, 43, count)


def deal(members: int, threshold: int, secret: NDArray[np.int64] | None = None) -> Dealing:
    return dealing.deal(
        key() if secret is None else secret,
        members=members,
        threshold=threshold,
        statement=STATEMENT,
        rng=Randomness.from_os(),
    )


def accept(
    parcel: bytes, published: Published, *, member: int, threshold: int, statement: bytes = STATEMENT
) -> bytes:
    return dealing.accept(
        parcel, published, member=member, count=COUNT, threshold=threshold, statement=statement
    )


def commit(parcel: bytes) -> str:
    return hashlib.sha256(b"fedrec/parcel/1" + parcel).hexdigest()


@settings(max_examples=30, deadline=None)
@given(members=st.integers(1, 9), seed=st.integers(0, 2**32), data=st.data())
def test_an_honest_dealing_is_accepted_and_gives_the_key_back(
    members: int, seed: int, data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(1, members))
    secret = key(seed)
    dealt = deal(members, threshold, secret)
    shares = {}
    for x, parcel in enumerate(dealt.parcels, start=1):
        blob = accept(parcel, dealt.published, member=x, threshold=threshold)
        shares[x] = shamir.decode_share(blob, count=COUNT)[1]
    chosen = data.draw(st.permutations(sorted(shares)))[:threshold]
    found = shamir.reconstruct({x: shares[x] for x in chosen}, threshold=threshold)
    assert found.secret.tolist() == secret.tolist()


def forged(coefficients: NDArray[np.uint64], *, members: int, threshold: int) -> Dealing:
    """Deal by any polynomials whatever, with the proof that the dealer would give for the first terms."""
    shares = shamir.evaluate(coefficients, members=members)
    parcels = tuple(bytes(32) + shamir.encode_share(x, share) for x, share in enumerate(shares, start=1))
    commitments = tuple(map(commit, parcels))
    weights = degree.challenge(STATEMENT, commitments, threshold=threshold, count=COUNT)
    proof = degree.prove(coefficients[:threshold], weights).astype("<u4").tobytes().hex()
    return Dealing(parcels=parcels, published=Published(commitments=commitments, proof=proof))


def test_shares_of_too_high_a_degree_are_refused_by_every_member() -> None:
    members, threshold = 7, 4
    secret = np.concatenate([key(), np.zeros(degree.REPETITIONS, dtype=np.int64)])
    high = shamir.polynomials(secret, threshold=threshold + 1, rng=Randomness.from_os())
    high[threshold, 1:] = 0  # one coefficient of one key polynomial has one degree too many
    dealt = forged(high, members=members, threshold=threshold)
    for x, parcel in enumerate(dealt.parcels, start=1):
        with pytest.raises(AggregationError, match="right degree"):
            accept(parcel, dealt.published, member=x, threshold=threshold)
    assert forged(high[:threshold], members=members, threshold=threshold).published.proof
    honest = forged(high[:threshold], members=members, threshold=threshold)
    assert accept(honest.parcels[0], honest.published, member=1, threshold=threshold)


def test_a_dealer_that_cheats_one_member_is_caught_by_that_member_alone() -> None:
    dealt = deal(5, 3)
    x, share = shamir.decode_share(dealt.parcels[2][32:], count=COUNT + degree.REPETITIONS)
    share[7] = (share[7] + np.uint64(1)) % np.uint64(P)
    parcel = dealt.parcels[2][:32] + shamir.encode_share(x, share)
    # The dealer commits to the wrong share and makes the proof that goes with it, over the true polynomials.
    commitments = tuple(commit(parcel) if i == 2 else c for i, c in enumerate(dealt.published.commitments))
    weights = degree.challenge(STATEMENT, commitments, threshold=3, count=COUNT)
    shares = {
        x: shamir.decode_share(p[32:], count=COUNT + degree.REPETITIONS)[1]
        for x, p in enumerate(dealt.parcels, start=1)
    }
    combined = {x: ((shares[x][:COUNT] * weights % P).sum(axis=1) + shares[x][COUNT:]) % P for x in (1, 2, 4)}
    proof = np.stack([lagrange_coefficients({x: int(v[j]) for x, v in combined.items()}) for j in range(5)])
    published = Published(commitments=commitments, proof=proof.T.astype("<u4").tobytes().hex())
    for member in (1, 2, 4, 5):
        accept(dealt.parcels[member - 1], published, member=member, threshold=3)
    with pytest.raises(AggregationError, match="right degree"):
        accept(parcel, published, member=3, threshold=3)


def lagrange_coefficients(points: dict[int, int]) -> NDArray[np.uint64]:
    """Coefficients of the polynomial through points, by plain integers."""
    total = [0] * len(points)
    for i, y in points.items():
        basis, bottom = [1], 1
        for j in points:
            if j != i:
                basis = [(low - j * high) % P for low, high in zip([0, *basis], [*basis, 0], strict=True)]
                bottom = bottom * (i - j) % P
        for k, value in enumerate(basis):
            total[k] = (total[k] + y * value * pow(bottom, -1, P)) % P
    return np.array(total, dtype=np.uint64)


def test_a_dealing_of_another_statement_threshold_or_member_is_refused() -> None:
    dealt = deal(5, 3)
    parcel, published = dealt.parcels[1], dealt.published
    accept(parcel, published, member=2, threshold=3)
    with pytest.raises(AggregationError, match="right degree"):
        accept(parcel, published, member=2, threshold=3, statement=b"another round")
    with pytest.raises(AggregationError, match="wrong length"):
        accept(parcel, published, member=2, threshold=4)
    with pytest.raises(AggregationError, match="committed"):
        accept(parcel, published, member=3, threshold=3)
    swapped = replace(published, commitments=published.commitments[::-1])
    with pytest.raises(AggregationError, match="of member 2, not of member 4"):
        accept(parcel, swapped, member=4, threshold=3)
    for member in (0, 6):
        with pytest.raises(AggregationError, match="no member"):
            accept(parcel, published, member=member, threshold=3)


def test_every_flipped_bit_of_a_parcel_is_refused() -> None:
    dealt = deal(3, 2)
    for bit in range(0, 8 * len(dealt.parcels[0]), 7):
        broken = bytearray(dealt.parcels[0])
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AggregationError):
            accept(bytes(broken), dealt.published, member=1, threshold=2)


@settings(max_examples=100, deadline=None)
@given(parcel=st.binary(max_size=200), proof=st.text(max_size=80), members=st.integers(0, 3))
def test_rubbish_dealings_raise_only_aggregation_errors(parcel: bytes, proof: str, members: int) -> None:
    dealt = deal(3, 2)
    rubbish = Published(commitments=(commit(parcel),) * members, proof=proof)
    with pytest.raises(AggregationError):
        accept(parcel, rubbish, member=1, threshold=2)
    with pytest.raises(AggregationError):
        accept(dealt.parcels[0], replace(dealt.published, proof=proof), member=1, threshold=2)


def opened(dealt: Dealing, threshold: int) -> NDArray[np.uint64]:
    """The dealer's true polynomials, of key and masks, through all of its parcels; (threshold, count)."""
    count = COUNT + degree.REPETITIONS
    shares = {
        x: shamir.decode_share(parcel[dealing.SALT_BYTES :], count=count)[1]
        for x, parcel in enumerate(dealt.parcels, start=1)
    }
    columns = [
        lagrange_coefficients({x: int(shares[x][i]) for x in range(1, threshold + 1)}) for i in range(count)
    ]
    polynomials = np.stack(columns, axis=1)
    assert np.array_equal(shamir.evaluate(polynomials, members=len(shares)), np.stack(list(shares.values())))
    return polynomials


def proof_of(dealt: Dealing, threshold: int) -> NDArray[np.uint64]:
    data = bytes.fromhex(dealt.published.proof)
    return np.frombuffer(data, dtype="<u4").reshape(threshold, -1).astype(np.uint64)


def test_the_joint_view_of_a_minority_fits_any_other_key() -> None:
    """Fewer than t members, with everything published, could have seen just this for any key.

    The other key needs other masks; those must be as likely as the true ones, so the true ones count, too.
    """
    members, threshold = 5, 3
    dealt = deal(members, threshold)
    truth = opened(dealt, threshold)
    assert np.array_equal(truth[0, :COUNT], np.mod(key(), P).astype(np.uint64))
    view = {x: shamir.evaluate(truth, members=members)[x - 1] for x in (2, 4)}
    proof = proof_of(dealt, threshold)
    weights = degree.challenge(STATEMENT, dealt.published.commitments, threshold=threshold, count=COUNT)
    for other in (key(0), key(1), key(2), np.zeros(COUNT, dtype=np.int64)):
        # The key's polynomials through the view and the other key; then the masks that the proof asks for.
        columns = [
            lagrange_coefficients({0: int(other[i]) % P, **{x: int(s[i]) for x, s in view.items()}})
            for i in range(COUNT)
        ]
        polynomials = np.stack(columns, axis=1)
        masks = np.stack(
            [
                (proof[:, j] + P - (polynomials * weights[j] % P).sum(axis=1) % P) % P
                for j in range(degree.REPETITIONS)
            ],
            axis=1,
        )
        shares = shamir.evaluate(np.concatenate([polynomials, masks], axis=1), members=members)
        for x, seen in view.items():
            assert np.array_equal(shares[x - 1], seen)
        # For the true key these are the masks that were really dealt, for another one others.
        same = np.array_equal(other, key())
        assert np.array_equal(np.concatenate([polynomials, masks], axis=1), truth) == same
        assert np.array_equal(masks[0], truth[0, COUNT:]) == same


def test_masks_are_uniform_and_every_proof_has_its_own() -> None:
    masks = np.stack([opened(deal(2, 2), 2)[:, COUNT:] for _ in range(80)])
    assert len(np.unique(masks)) == masks.size
    for row in masks.reshape(80, 2, -1).transpose(1, 0, 2):  # values at zero, then slopes
        counts, _ = np.histogram(row, bins=8, range=(0, P))
        assert ((counts - row.size / 8) ** 2 / (row.size / 8)).sum() < 40  # 7 degrees of freedom: 1e-6


def test_a_proof_shows_no_combination_of_the_key_and_hides_it_anew_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under one set of weights, which salts and commitments don't change: all that is left are the masks."""
    fixed = np.random.default_rng(0).integers(0, P, (degree.REPETITIONS, COUNT)).astype(np.uint64)
    monkeypatch.setattr(degree, "challenge", lambda *_, **__: fixed)
    combined = np.array(
        [sum(int(w) * int(k) for w, k in zip(row, key(), strict=True)) % P for row in fixed],
        dtype=np.uint64,
    )
    at_zero = [proof_of(deal(3, 2), 2)[0] for _ in range(20)]
    assert all((row != combined).all() for row in at_zero)
    assert len(np.unique(np.stack(at_zero))) == 20 * degree.REPETITIONS


def test_weights_depend_on_the_statement_the_threshold_and_every_commitment() -> None:
    commitments = deal(5, 3).published.commitments
    base = degree.challenge(STATEMENT, commitments, threshold=3, count=COUNT)
    others = [
        degree.challenge(b"another", commitments, threshold=3, count=COUNT),
        degree.challenge(STATEMENT, commitments, threshold=4, count=COUNT),
        degree.challenge(STATEMENT, commitments[::-1], threshold=3, count=COUNT),
    ]
    for changed in range(5):
        one = tuple("0" * 64 if i == changed else c for i, c in enumerate(commitments))
        others.append(degree.challenge(STATEMENT, one, threshold=3, count=COUNT))
    assert all(np.count_nonzero(base == other) <= 1 for other in others)


def test_a_dealer_that_knew_the_weights_beforehand_could_cheat_and_so_it_must_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shares of too high a degree whose excess the weights of an honest dealing combine to nothing."""
    members, threshold = 7, 4
    expected = degree.challenge(
        STATEMENT, deal(members, threshold).published.commitments, threshold=threshold, count=COUNT
    )
    secret = np.concatenate([key(), np.zeros(degree.REPETITIONS, dtype=np.int64)])
    high = shamir.polynomials(secret, threshold=threshold + 1, rng=Randomness.from_os())
    high[threshold, COUNT:] = (P - (high[threshold, :COUNT] * expected % P).sum(axis=1) % P) % P
    shares = shamir.evaluate(high, members=members)
    parcels = tuple(bytes(32) + shamir.encode_share(x, share) for x, share in enumerate(shares, start=1))
    commitments = tuple(map(commit, parcels))
    final = degree.challenge(STATEMENT, commitments, threshold=threshold, count=COUNT)
    for weights in (expected, final):
        proof = degree.prove(high[:threshold], weights).astype("<u4").tobytes().hex()
        for x, parcel in enumerate(parcels, start=1):
            with pytest.raises(AggregationError, match="right degree"):
                accept(parcel, Published(commitments=commitments, proof=proof), member=x, threshold=threshold)
    # Were the weights those that it prepared for, every member would take its shares.
    monkeypatch.setattr(degree, "challenge", lambda *_, **__: expected)
    proof = degree.prove(high[:threshold], expected).astype("<u4").tobytes().hex()
    for x, parcel in enumerate(parcels, start=1):
        accept(parcel, Published(commitments=commitments, proof=proof), member=x, threshold=threshold)


@settings(max_examples=60, deadline=None)
@given(
    threshold=st.integers(1, 5), errors=st.integers(0, 4), spare=st.integers(0, 2), seed=st.integers(0, 2**32)
)
def test_wrong_symbols_are_located(threshold: int, errors: int, spare: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    length = threshold + 2 * errors + spare
    coefficients = [int(c) for c in chance.integers(0, P, threshold)]
    word = {x: sum(c * pow(x, k, P) for k, c in enumerate(coefficients)) % P for x in range(1, length + 1)}
    bad = sorted(int(x) for x in chance.choice(length, errors, replace=False) + 1)
    for x in bad:
        word[x] = (word[x] + int(chance.integers(1, P))) % P
    found = reed_solomon.locate(word, threshold=threshold, errors=errors, prime=P)
    assert found == tuple(bad)


def test_more_errors_than_can_be_told_apart_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="can't be told"):
        reed_solomon.locate({1: 1, 2: 2}, threshold=1, errors=1, prime=P)
