"""Add and multiply points of the group secp256k1, of prime order, with libsecp256k1 through ``coincurve``.

The library has no encoding of the identity and no multiplication by zero. Here the identity is None, so that
sums of hostile points are exact too. Its multiplication of any point, and the sums here, take a time that
depends on the scalars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from coincurve import PublicKey
from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.scalar_sharing import ORDER, SCALAR_BYTES

POINT_BYTES = 33
"""An encoded point: the sign of y as 2 or 3, then x, big-endian (SEC 1, section 2.3.3, compressed)."""

Point = PublicKey | None
"""A point; None is the identity."""

_DOMAIN = b"fedrec/secp256k1/generator/1"
_DIGIT_BITS = 6
_DIGIT_VALUES = 1 << _DIGIT_BITS
_DIGITS = -(-8 * SCALAR_BYTES // _DIGIT_BITS)
_STRUCT_BYTES = 64
"""Of the library's form of a point, ``secp256k1_pubkey``, which its header allows to copy."""


def read_point(blob: bytes) -> PublicKey:
    """Decode a point of another party.

    Args:
        blob: 33 bytes.

    Returns:
        The point, which is never the identity.

    Raises:
        AggregationError: the bytes aren't the compressed form of a point of the curve.
    """
    # The library would also read the forms of 65 bytes.
    if len(blob) != POINT_BYTES:
        raise AggregationError(f"a curve point of {len(blob)} bytes should have {POINT_BYTES}")
    try:
        return PublicKey(bytes(blob))
    except ValueError:
        raise AggregationError("a commitment is not a point of the curve; refuse its sender") from None


def encode_point(point: Point) -> bytes:
    """Encode a point in 33 bytes; ``AggregationError`` for the identity, which has no such form."""
    if point is None:
        raise AggregationError("the identity of the curve has no encoding")
    return point.format()


def add(points: Sequence[Point]) -> Point:
    """Add points; the sum of none is the identity."""
    finite = [point for point in points if point is not None]
    if len(finite) < 2:
        return finite[0] if finite else None
    try:
        return PublicKey.combine_keys(finite)
    except ValueError:  # how the library says that the sum is the identity
        return None


def multiply(point: Point, scalar: int) -> Point:
    """Multiply a point by an integer.

    Args:
        point: the point.
        scalar: the integer, taken modulo the group's order.

    Returns:
        The product.
    """
    reduced = scalar % ORDER
    if point is None or not reduced:
        return None
    return point.multiply(reduced.to_bytes(SCALAR_BYTES, "big"))


def linear_combination(points: Sequence[Point], scalars: Sequence[int]) -> Point:
    """Multiply each point by an integer of its own, and add the products.

    Args:
        points: the points.
        scalars: as many integers, taken modulo the group's order.

    Returns:
        The sum.
    """
    return add([multiply(point, scalar) for point, scalar in zip(points, scalars, strict=True)])


def polynomial_at(coefficients: Sequence[Point], x: int) -> Point:
    """Evaluate a polynomial whose coefficients are points, by Horner's rule.

    Args:
        coefficients: of x**0, x**1, ...
        x: where, a small positive number: it is added that many times.

    Returns:
        The value.
    """
    value: Point = None
    for coefficient in reversed(coefficients):
        value = add([*[value] * x, coefficient])
    return value


def same(left: Point, right: Point) -> bool:
    """Test whether two points are equal.

    Args:
        left: a point.
        right: another.

    Returns:
        Whether they are the same.
    """
    if left is None or right is None:
        return left is right
    return left.format() == right.format()


def generator(number: int) -> PublicKey:
    """Derive a generator that nobody knows a discrete logarithm of, to any other base.

    SHA-256 of a domain, the number and a counter is taken for x, and the first counter counts for which the
    curve has a point with this x; of its two points it is the one with an even y.

    Args:
        number: which generator, from 0.

    Returns:
        The point.
    """
    counter = 0
    while True:
        x = hashlib.sha256(_DOMAIN + number.to_bytes(4, "big") + counter.to_bytes(4, "big")).digest()
        try:
            return read_point(b"\x02" + x)
        except AggregationError:
            counter += 1


class Generators:
    """The first generators, with tables for sums of their multiples.

    A scalar's digits d_0, d_1, ... of six bits stand for the sum of d_k 64**k. So a sum of multiples of n
    generators is one of 43 n points 64**k G, each times a digit. They are first added by the value of their
    digit, and then those sums by the bits of their values (Yao 1976, and Pippenger): half of the time of n
    multiplications. Building the tables takes 0.4 ms a generator.

    The library's function that adds points is called with addresses within one array of them: a list of
    objects for each sum would take a third of the time.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        powers: list[PublicKey] = []
        for number in range(count):
            power = generator(number)
            for _ in range(_DIGITS):
                powers.append(power)
                power = power.multiply(_DIGIT_VALUES.to_bytes(1, "big"))
        self._powers = ffi.new("secp256k1_pubkey[]", len(powers))
        for position, power in enumerate(powers):
            ffi.memmove(self._powers + position, power.public_key, _STRUCT_BYTES)
        first = int(ffi.cast("uintptr_t", self._powers))
        self._addresses = first + _STRUCT_BYTES * np.arange(len(powers), dtype=np.uintp)

    def combine(self, scalars: Sequence[int]) -> Point:
        """Multiply each generator by a scalar, and add the products.

        Args:
            scalars: as many as there are generators, below the group's order.

        Returns:
            The sum.
        """
        digits = _digits(scalars)
        ends = np.cumsum(np.bincount(digits, minlength=_DIGIT_VALUES)).tolist()
        by_digit = self._addresses[np.argsort(digits, kind="stable")]
        sums = [None, *(_sum_at(by_digit[start:end]) for start, end in pairwise(ends))]
        total: Point = None
        for bit in reversed(range(_DIGIT_BITS)):
            total = add([total, total, *(part for value, part in enumerate(sums) if value >> bit & 1)])
        return total


def _sum_at(addresses: NDArray[np.uintp]) -> Point:
    """Add the points at these addresses."""
    if not addresses.size:
        return None
    total = ffi.new("secp256k1_pubkey *")
    points = ffi.from_buffer("secp256k1_pubkey *[]", addresses)
    # It says by its result that the sum is the identity.
    if not lib.secp256k1_ec_pubkey_combine(GLOBAL_CONTEXT.ctx, total, points, addresses.size):
        return None
    return PublicKey(total)


def _digits(scalars: Sequence[int]) -> NDArray[np.uint8]:
    """Split scalars below 2**256 into their 43 digits each, lowest first."""
    raw = b"".join(scalar.to_bytes(SCALAR_BYTES, "little") for scalar in scalars)
    bits = np.zeros((len(scalars), _DIGITS * _DIGIT_BITS), dtype=np.uint8)
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(len(scalars), SCALAR_BYTES)
    bits[:, : 8 * SCALAR_BYTES] = np.unpackbits(rows, axis=1, bitorder="little")
    weights = np.uint8(1) << np.arange(_DIGIT_BITS, dtype=np.uint8)
    return bits.reshape(-1, _DIGIT_BITS) @ weights
