"""Signed integers into plaintext coefficients, and residues into bytes, vectorised and without loss."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]

GROUP = 256
"""Coefficients are counted in whole groups of 256.

A multiple of 64 fills whole words of 64 bits, whatever the bits of one. Even the smallest sum then has enough
residues to tell a wrong key by, see :meth:`fedrec.privacy.aggregation.kahe.KaheScheme.open`.
"""


def coefficient_count(dimension: int, fields: int) -> int:
    """Return how many coefficients carry ``dimension`` values at ``fields`` values each, in whole groups."""
    return math.ceil(dimension / (fields * GROUP)) * GROUP


def _sign_extend(values: UInt64Array, bits: int) -> Int64Array:
    """Read the low ``bits`` bits as a two's complement integer."""
    shift = 64 - bits
    return (values << np.uint64(shift)).view(np.int64) >> np.int64(shift)


def pack(values: Int64Array, *, fields: int, field_bits: int) -> Int64Array:
    """Pack integers linearly: m = sum over k of v_k * 2**(field_bits * k), modulo 2**(fields * field_bits).

    ``values`` is (d,) int64 of any size; the result is (coefficient_count,) int64, centred. Packing is a
    homomorphism: the packed sum is the sum of the packed, modulo 2**(fields * field_bits). Value number
    k * coefficient_count + i sits in field k of coefficient i.
    """
    count = coefficient_count(values.size, fields)
    return pack_part(values, fields=fields, field_bits=field_bits, start=0, stop=count)


def pack_part(values: Int64Array, *, fields: int, field_bits: int, start: int, stop: int) -> Int64Array:
    """Return coefficients ``start`` to ``stop`` of :func:`pack`'s result, in memory for those alone."""
    count = coefficient_count(values.size, fields)
    out = np.zeros(stop - start, dtype=np.uint64)
    for k in range(fields):
        # What lies past the end of the values is zero.
        row = values[k * count + start : k * count + stop].astype(np.int64, copy=False).view(np.uint64)
        out[: row.size] += row << np.uint64(field_bits * k)  # wraps modulo 2**64, a multiple of the modulus
    return _sign_extend(out, fields * field_bits)


def unpack(packed: Int64Array, *, dimension: int, fields: int, field_bits: int) -> Int64Array:
    """Invert :func:`pack` on a sum: (coefficient_count,) int64, taken modulo, to (dimension,) int64.

    Each value comes back modulo 2**field_bits, centred. Where a value of the sum leaves
    [-2**(field_bits-1), 2**(field_bits-1)) it wraps around, and the value in the next field of the same
    coefficient moves by the number of times that it wrapped.
    """
    rest = packed.view(np.uint64)
    rows = np.empty((fields, packed.size), dtype=np.int64)
    for k in range(fields):
        rows[k] = _sign_extend(rest, field_bits)
        if k + 1 < fields:
            rest = ((rest.view(np.int64) - rows[k]) >> np.int64(field_bits)).view(np.uint64)
    return rows.reshape(-1)[:dimension]


def _layout(bits: int) -> tuple[int, int]:
    """Return (coefficients, words) of the smallest run of coefficients that fills whole 64-bit words."""
    common = math.gcd(bits, 64)
    return 64 // common, bits // common


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that ``count`` coefficients of ``bits`` bits take; ``count`` in whole groups."""
    return count * bits // 8


def to_bytes(coefficients: UInt64Array, bits: int) -> bytes:
    """Write coefficients below 2**bits in ``bits`` bits each; (count,) uint64, count in whole groups.

    With 64 = g * gcd and bits = w * gcd, coefficient number r * (count / g) + i is row r of lane i; the g
    rows of a lane, joined little end first, are its w words; the bytes are all first words, all second words
    and so on, each little-endian. Rows, not lanes, lie together, so that every step below is one long vector.
    """
    per_lane, words = _layout(bits)
    rows = coefficients.reshape(per_lane, -1)
    out = np.zeros((words, rows.shape[1]), dtype="<u8")
    for r in range(per_lane):
        word, offset = divmod(r * bits, 64)
        out[word] |= rows[r] << np.uint64(offset)
        if offset + bits > 64:
            out[word + 1] |= rows[r] >> np.uint64(64 - offset)
    return out.tobytes()


def from_bytes(data: bytes | memoryview, *, count: int, bits: int) -> UInt64Array:
    """Invert :func:`to_bytes`; (count,) uint64. Raises ``AggregationError`` unless the length fits."""
    if len(data) != packed_bytes(count, bits) or count % GROUP:
        raise AggregationError("packed coefficients have a wrong length; the sender's parameters differ")
    per_lane, words = _layout(bits)
    source = np.frombuffer(data, dtype="<u8").astype(np.uint64, copy=False).reshape(words, -1)
    out = np.empty((per_lane, source.shape[1]), dtype=np.uint64)
    mask = np.uint64((1 << bits) - 1)
    for r in range(per_lane):
        word, offset = divmod(r * bits, 64)
        np.right_shift(source[word], np.uint64(offset), out=out[r])
        if offset + bits > 64:
            out[r] |= source[word + 1] << np.uint64(64 - offset)
        out[r] &= mask
    return out.reshape(-1)
