"""Shares of scalars: against fractions by plain Lagrange interpolation, and hostile encodings."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import scalar_sharing as sharing
from fedrec.privacy.randomness import Randomness

P = sharing.ORDER
scalars = st.one_of(st.sampled_from([0, 1, P - 1, -1, P, 2**255]), st.integers(-(2**300), 2**300))


def at_zero(points: dict[int, int]) -> int:
    """The value at zero of the polynomial through points: exact fractions, reduced at the end."""
    total = Fraction(0)
    for x, y in points.items():
        term = Fraction(y)
        for other in points:
            if other != x:
                term *= Fraction(-other, x - other)
        total += term
    return total.numerator * pow(total.denominator, -1, P) % P


@settings(max_examples=40, deadline=None)
@given(st.lists(scalars, min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 3))
def test_every_quorum_gives_the_secrets_back(secrets: list[int], threshold: int, spare: int) -> None:
    rows = sharing.polynomials(secrets, threshold=threshold, rng=Randomness.from_os())
    assert len(rows) == threshold and rows[0] == [secret % P for secret in secrets]
    shares = {x: sharing.share_of(rows, member=x) for x in range(1, threshold + spare + 1)}
    for x, share in shares.items():
        assert share == [sum(row[i] * x**j for j, row in enumerate(rows)) % P for i in range(len(secrets))]
    for quorum in combinations(shares, threshold):
        found = sharing.interpolate({x: shares[x] for x in quorum})
        assert found == rows[0]
        assert found == [at_zero({x: shares[x][i] for x in quorum}) for i in range(len(secrets))]


def test_sums_of_shares_are_shares_of_sums() -> None:
    rng = Randomness.from_os()
    keys = [[3, P - 5], [P - 1, P - 7], [-9, 2]]
    dealt = [sharing.polynomials(key, threshold=3, rng=rng) for key in keys]
    sums = {x: sharing.add([sharing.share_of(rows, member=x) for rows in dealt]) for x in (2, 5, 1024)}
    assert sharing.interpolate(sums) == [(3 - 1 - 9) % P, (-5 - 7 + 2) % P]


def test_fewer_shares_than_the_threshold_fit_any_secret() -> None:
    """For each other secret there is exactly one polynomial through the same two shares."""
    rows = sharing.polynomials([42], threshold=3, rng=Randomness.from_os())
    seen = {x: sharing.share_of(rows, member=x)[0] for x in (1, 3)}
    for other in (0, 41, P - 1):
        third = at_zero({0 - 2: other, **{x - 2: y for x, y in seen.items()}})  # its value at 2
        assert sharing.interpolate({**{x: [y] for x, y in seen.items()}, 2: [third]}) == [other]


def test_coefficients_are_uniform_and_never_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    # Numbers from the order up are drawn again, and none is reduced.
    stream = [b"\xff" * 32 + P.to_bytes(32, "big") + (P - 1).to_bytes(32, "big"), bytes(64)]
    rng = Randomness.from_os()
    monkeypatch.setattr(rng, "bytes", lambda count: stream.pop(0))
    assert sharing.random_scalars(3, rng) == [P - 1, 0, 0] and not stream
    drawn = sharing.random_scalars(4000, Randomness.from_os())
    assert len(set(drawn)) == 4000 and max(drawn) < P
    counts = [0] * 16
    for value in drawn:
        counts[value >> 252] += 1
    assert sum((count - 250) ** 2 / 250 for count in counts) < 60  # 15 degrees of freedom: 2e-7


@given(st.lists(st.integers(0, P - 1), max_size=4))
def test_encodings_are_big_endian_and_read_back(values: list[int]) -> None:
    blob = sharing.encode_scalars(values)
    assert blob.hex() == "".join(f"{value:064x}" for value in values)
    assert sharing.decode_scalars(blob, count=len(values)) == values


@pytest.mark.parametrize(
    ("blob", "count"),
    [
        (b"", 1),
        (bytes(31), 1),
        (bytes(33), 1),
        (bytes(64), 1),
        (bytes(32), 0),
        (P.to_bytes(32, "big"), 1),
        (b"\xff" * 64, 2),
        (bytes(32) + b"\xff" * 32, 2),
    ],
)
def test_hostile_encodings_are_refused(blob: bytes, count: int) -> None:
    with pytest.raises(AggregationError):
        sharing.decode_scalars(blob, count=count)


def test_impossible_members_thresholds_and_sums_are_refused() -> None:
    rng = Randomness.from_os()
    rows = sharing.polynomials([1, 2], threshold=2, rng=rng)
    for member in (0, -1, 1025):
        with pytest.raises(AggregationError, match="no member"):
            sharing.share_of(rows, member=member)
        with pytest.raises(AggregationError, match="no member"):
            sharing.interpolate({member: [1], 2: [2]})
    for threshold in (0, 1025):
        with pytest.raises(AggregationError, match="threshold"):
            sharing.polynomials([1], threshold=threshold, rng=rng)
    for shares in ([], [[1], [1, 2]]):
        with pytest.raises(AggregationError, match="lengths"):
            sharing.add(shares)
        with pytest.raises(AggregationError, match="lengths"):
            sharing.interpolate(dict(enumerate(shares, start=1)))
