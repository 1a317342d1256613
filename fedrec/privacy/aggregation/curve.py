"""Add and multiply points of the group secp256k1, of prime order, with libsecp256k1 through ``coincurve``.

The library has no encoding of the identity and no multiplication by zero. Here the identity is None, so that
sums of hostile points are exact too. Its multiplication of any point, and the sums here, take a time that
depends on the scalars. Tables of our own points are given to its addition where they are in memory
(:class:`Generators`); points of other parties never are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

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
_GROUP = 9
"""Generators whose subsets' sums are in one table."""
_BLOCKS = 4
_STEPS = 8 * SCALAR_BYTES // _BLOCKS
_POINTERS = "secp256k1_pubkey * *"
_ENTRY_BYTES = ffi.sizeof("secp256k1_pubkey")


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

    For each nine generators the tables hold the sums of all of their subsets; and of these points times
    2**64, 2**128 and 2**192. One bit of all scalars, with the bits 64, 128 and 192 places above it, is then
    the sum of a point from each table. 64 such sums, doubled and added from the highest bit on, are the
    result (Lim and Lee 1994), in less than half the time of as many multiplications. The tables, of three
    megabytes for 200 generators, are built in 0.1 s.

    They are read where libsecp256k1 has them in memory, by the function behind ``PublicKey.combine_keys``.
    Points as single objects of Python are scattered over the memory, and finding them takes as long as
    adding them.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._groups = -(-count // _GROUP)
        self._table: Any = ffi.new("secp256k1_pubkey[]", _BLOCKS * self._groups << _GROUP)
        points: list[PublicKey] = [generator(number) for number in range(count)]
        step = (1 << _STEPS).to_bytes(SCALAR_BYTES, "big")
        for block in range(_BLOCKS):
            for group in range(self._groups):
                chosen = points[group * _GROUP : (group + 1) * _GROUP]
                self._add_subsets(chosen, place=(block * self._groups + group) << _GROUP)
            points = [point.multiply(step) for point in points]

    def _add_subsets(self, points: Sequence[PublicKey], *, place: int) -> None:
        """Write the sum of each subset but the empty one to the place of its bits, from ``place`` on."""
        table = self._table + place
        for number, point in enumerate(points):
            table[1 << number] = point.public_key[0]
            for lower in range(1, 1 << number):
                _combine(table + (lower | 1 << number), (table + lower, table + (1 << number)), 2)

    def combine(self, scalars: Sequence[int]) -> Point:
        """Multiply each generator by a scalar, and add the products.

        Args:
            scalars: as many as there are generators, below the group's order.

        Returns:
            The sum.

        Raises:
            AggregationError: there are more or fewer scalars, or partial sums cancel out, which shows a
                relation among the generators.
        """
        if len(scalars) != self._count:
            raise AggregationError(f"{len(scalars)} scalars are not one for each of {self._count} generators")
        places, chosen = self._places(scalars)
        # Each step adds the sum so far, twice, to a point of each table. It reads that sum at one place and
        # writes it at the other.
        sums: Any = ffi.new("secp256k1_pubkey[2]")
        started = np.logical_or.accumulate(chosen.any(axis=1))
        addresses = np.empty((_STEPS, 2 + places.shape[1]), dtype=np.uint64)
        addresses[::2, :2], addresses[1::2, :2] = _address(sums), _address(sums + 1)
        addresses[:, 2:] = places * np.uint64(_ENTRY_BYTES) + np.uint64(_address(self._table))
        added = np.empty(addresses.shape, dtype=np.bool_)
        added[0, :2], added[1:, :2], added[:, 2:] = False, started[:-1, None], chosen
        terms = addresses[added]
        next_terms: Any = ffi.cast(_POINTERS, terms.ctypes.data)
        for step, count in enumerate(added.sum(axis=1).tolist()):
            if count:
                _combine(sums + (step + 1) % 2, next_terms, count)
                next_terms += count
        return PublicKey(ffi.new("secp256k1_pubkey *", sums[_STEPS % 2])) if started[-1] else None

    def _places(self, scalars: Sequence[int]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Return the place of each table's point, for each step from the highest bit on; and which to add.

        Subsets that are empty aren't added.
        """
        raw = b"".join(scalar.to_bytes(SCALAR_BYTES, "little") for scalar in scalars)
        bits = np.zeros((self._groups * _GROUP, _BLOCKS * _STEPS), dtype=np.float32)
        rows = np.frombuffer(raw, dtype=np.uint8).reshape(len(scalars), SCALAR_BYTES)
        bits[: len(scalars)] = np.unpackbits(rows, axis=1, bitorder="little")
        weights = (1 << np.arange(_GROUP)).astype(np.float32)
        # Sums of powers of two below 512: exact in float32, whose products are the quick ones.
        subsets = (weights @ bits.reshape(self._groups, _GROUP, -1)).astype(np.uint64)
        by_table = subsets.reshape(self._groups, _BLOCKS, _STEPS).transpose(2, 1, 0).reshape(_STEPS, -1)[::-1]
        return by_table + (np.arange(by_table.shape[1], dtype=np.uint64) << np.uint64(_GROUP)), by_table > 0


def _address(place: Any) -> int:
    return int(ffi.cast("uintptr_t", place))


def _combine(result: Any, points: Any, count: int) -> None:
    """Write the sum of points of libsecp256k1 to a place that is none of theirs."""
    # It returns 0 for the identity, which isn't written and must never be read as a point.
    if not lib.secp256k1_ec_pubkey_combine(GLOBAL_CONTEXT.ctx, result, points, count):
        raise AggregationError("points of the generators add up to the identity, which nobody should find")
