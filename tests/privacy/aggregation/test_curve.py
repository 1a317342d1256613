"""Points of secp256k1: against arithmetic from the curve's equation, and hostile encodings."""

from __future__ import annotations

import hashlib

import pytest
from coincurve import PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import curve
from fedrec.privacy.aggregation import scalar_sharing as sharing
from fedrec.privacy.aggregation.scalar_sharing import ORDER
from fedrec.privacy.randomness import Randomness

FIELD = 2**256 - 2**32 - 977
Affine = tuple[int, int] | None
SMALL = st.sampled_from([0, 1, 2, 63, 64, ORDER - 1, ORDER - 2, 2**255])
scalars = st.one_of(SMALL, st.integers(0, ORDER - 1))


def plus(left: Affine, right: Affine) -> Affine:
    """The sum of two points of y**2 = x**3 + 7, by lines and tangents."""
    if left is None or right is None:
        return right if left is None else left
    if left[0] == right[0]:
        if (left[1] + right[1]) % FIELD == 0:
            return None
        slope = 3 * left[0] ** 2 * pow(2 * left[1], -1, FIELD)
    else:
        slope = (right[1] - left[1]) * pow(right[0] - left[0], -1, FIELD)
    x = (slope**2 - left[0] - right[0]) % FIELD
    return x, (slope * (left[0] - x) - left[1]) % FIELD


def times(scalar: int, point: Affine) -> Affine:
    total: Affine = None
    while scalar:
        if scalar & 1:
            total = plus(total, point)
        point, scalar = plus(point, point), scalar >> 1
    return total


def affine(point: curve.Point) -> Affine:
    if point is None:
        return None
    raw = point.format(compressed=False)
    return int.from_bytes(raw[1:33], "big"), int.from_bytes(raw[33:], "big")


def test_generators_are_the_first_points_that_the_hash_gives() -> None:
    seen = set()
    for number in range(6):
        point = affine(curve.generator(number))
        assert point is not None
        x, y = point
        assert (y * y - x**3 - 7) % FIELD == 0 and y % 2 == 0
        counter = 0
        while True:
            text = b"fedrec/secp256k1/generator/1" + number.to_bytes(4, "big") + counter.to_bytes(4, "big")
            candidate = int.from_bytes(hashlib.sha256(text).digest(), "big")
            square = (candidate**3 + 7) % FIELD
            if candidate < FIELD and pow(square, (FIELD - 1) // 2, FIELD) == 1:
                break
            counter += 1
        assert x == candidate
        seen.add(x)
    assert len(seen) == 6
    assert affine(curve.multiply(curve.generator(0), ORDER)) is None
    assert times(ORDER, affine(curve.generator(0))) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(scalars, min_size=1, max_size=4))
def test_combinations_are_those_of_the_curves_equation(values: list[int]) -> None:
    points = [curve.generator(number) for number in range(len(values))]
    expected: Affine = None
    for value, point in zip(values, points, strict=True):
        expected = plus(expected, times(value, affine(point)))
    assert affine(curve.Generators(len(values)).combine(values)) == expected
    assert affine(curve.linear_combination(points, values)) == expected


EDGES = [0, 1, ORDER - 1, 2**255, *(2**place + more for place in (64, 128, 192) for more in (-1, 0, 1))]


@pytest.mark.parametrize("count", [8, 9, 10, 19])
def test_combinations_of_several_tables_are_those_of_single_multiplications(count: int) -> None:
    tables = curve.Generators(count)
    points = [curve.generator(number) for number in range(count)]
    drawn = sharing.random_scalars(2 * count, Randomness.from_os())
    cases = [drawn[:count], drawn[count:], [EDGES[i % len(EDGES)] for i in range(count)]]
    # Each generator alone, so that no place of a table stands for another point.
    cases += [[0] * i + [drawn[i]] + [0] * (count - i - 1) for i in range(count)]
    for values in cases:
        assert curve.same(tables.combine(values), curve.linear_combination(points, values))
    assert tables.combine([0] * count) is None
    for wrong in (count - 1, count + 1):
        with pytest.raises(AggregationError, match="not one for each"):
            tables.combine([1] * wrong)


@settings(max_examples=25, deadline=None)
@given(st.lists(scalars, min_size=1, max_size=5), st.integers(1, 40))
def test_polynomials_are_evaluated_whatever_cancels_out(coefficients: list[int], x: int) -> None:
    base = curve.generator(0)
    value = sum(c * x**j for j, c in enumerate(coefficients)) % ORDER
    points = [curve.multiply(base, c) for c in coefficients]
    assert curve.same(curve.polynomial_at(points, x), curve.multiply(base, value))
    # A hostile dealer's points may add up to the identity at one member's number.
    cancelled = [curve.multiply(base, (coefficients[0] - value) % ORDER), *points[1:]]
    assert curve.polynomial_at(cancelled, x) is None


def test_the_identity_is_a_sum_like_any_other() -> None:
    base = curve.generator(0)
    opposite = curve.multiply(base, -1)
    assert curve.add([]) is curve.add([None, None]) is curve.add([base, opposite]) is None
    assert curve.same(curve.add([None, base, opposite, base]), base)
    assert curve.same(curve.add([base, base]), curve.multiply(base, 2))
    assert curve.multiply(None, 5) is None and curve.multiply(base, 0) is None
    assert curve.same(None, None) and not curve.same(None, base) and not curve.same(base, opposite)
    assert curve.Generators(3).combine([0, 0, 0]) is None
    with pytest.raises(AggregationError, match="identity"):
        curve.encode_point(None)


GOOD = curve.generator(0)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x00",  # the identity, as SEC 1 writes it
        bytes(33),
        GOOD.format()[:-1],
        GOOD.format() + b"\x00",
        GOOD.format(compressed=False),
        bytes([6 + GOOD.format(compressed=False)[-1] % 2]) + GOOD.format(compressed=False)[1:],  # hybrid
        b"\x04" + GOOD.format()[1:],
        b"\x02" + (5).to_bytes(32, "big"),  # 5**3 + 7 is no square
        b"\x02" + FIELD.to_bytes(32, "big"),
        b"\x02" + (FIELD + 1).to_bytes(32, "big"),  # 1 again, were it reduced
        b"\x03" + b"\xff" * 32,
    ],
)
def test_hostile_points_are_refused(blob: bytes) -> None:
    assert pow(132, (FIELD - 1) // 2, FIELD) != 1
    with pytest.raises(AggregationError):
        curve.read_point(blob)


@given(st.binary(min_size=32, max_size=34))
def test_what_is_read_is_on_the_curve_and_has_one_form(rest: bytes) -> None:
    for sign in (b"\x02", b"\x03"):
        try:
            point = curve.read_point(sign + rest)
        except AggregationError:
            continue
        assert isinstance(point, PublicKey) and curve.encode_point(point) == sign + rest
