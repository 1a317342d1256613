"""Pack signed integers into plaintext coefficients, and residues into bytes; vectorised and lossless."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]

GROUP = 256
"""The number of coefficients is a multiple of 256.

A multiple of 64 fills whole 64-bit words for any number of bits per coefficient. With 256, even the smallest
sum has enough residues to detect a wrong key, see :meth:`fedrec.privacy.aggregation.kahe.KaheScheme.open`.
"""


def coefficient_count(dimension: int, fields: int) -> int:
    """Count the coefficients that hold a vector.

    Args:
        dimension: values of the vector.
        fields: values per coefficient.

    Returns:
        The number of coefficients, a multiple of ``GROUP``.
    """
    return math.ceil(dimension / (fields * GROUP)) * GROUP


def _sign_extend(values: UInt64Array, bits: int) -> Int64Array:
    """Interpret the low ``bits`` bits as a two's complement integer."""
    shift = 64 - bits
    return (values << np.uint64(shift)).view(np.int64) >> np.int64(shift)


def pack(values: Int64Array, *, fields: int, field_bits: int) -> Int64Array:
    """Pack integers linearly: m = sum over k of v_k * 2**(field_bits * k), modulo 2**(fields * field_bits).

    Packing is a homomorphism: the packed sum equals the sum of the packed vectors, modulo
    2**(fields * field_bits). Value k * coefficient_count + i is in field k of coefficient i.

    Args:
        values: (d,) int64, of any size.
        fields: values per coefficient.
        field_bits: bits per value.

    Returns:
        (coefficient_count,) int64, centred.
    """
    count = coefficient_count(values.size, fields)
    return pack_part(values, fields=fields, field_bits=field_bits, start=0, stop=count)


def pack_part(values: Int64Array, *, fields: int, field_bits: int, start: int, stop: int) -> Int64Array:
    """Compute a range of the result of :func:`pack`, with memory for that range only.

    Args:
        values: (d,) int64, of any size.
        fields: values per coefficient.
        field_bits: bits per value.
        start: first coefficient.
        stop: end of the range, exclusive.

    Returns:
        (stop - start,) int64, centred.
    """
    count = coefficient_count(values.size, fields)
    out = np.zeros(stop - start, dtype=np.uint64)
    for k in range(fields):
        # Values past the end are zero.
        row = values[k * count + start : k * count + stop].astype(np.int64, copy=False).view(np.uint64)
        out[: row.size] += row << np.uint64(field_bits * k)  # wraps modulo 2**64, a multiple of the modulus
    return _sign_extend(out, fields * field_bits)


def unpack(packed: Int64Array, *, dimension: int, fields: int, field_bits: int) -> Int64Array:
    """Invert :func:`pack` on a sum.

    A value of the sum outside [-2**(field_bits-1), 2**(field_bits-1)) wraps around; the value in the next
    field of the same coefficient then changes by the number of times that it wrapped.

    Args:
        packed: (coefficient_count,) int64, reduced modulo 2**(fields * field_bits).
        dimension: values of the vector.
        fields: values per coefficient.
        field_bits: bits per value.

    Returns:
        (dimension,) int64, each value modulo 2**field_bits, centred.
    """
    rest = packed.view(np.uint64)
    rows = np.empty((fields, packed.size), dtype=np.int64)
    for k in range(fields):
        rows[k] = _sign_extend(rest, field_bits)
        if k + 1 < fields:
            rest = ((rest.view(np.int64) - rows[k]) >> np.int64(field_bits)).view(np.uint64)
    return rows.reshape(-1)[:dimension]


def _layout(bits: int) -> tuple[int, int]:
    """Return the length in coefficients, and in words, of the smallest run that fills whole 64-bit words."""
    common = math.gcd(bits, 64)
    return 64 // common, bits // common


def packed_bytes(count: int, bits: int) -> int:
    """Compute the size of packed coefficients.

    Args:
        count: number of coefficients, a multiple of ``GROUP``.
        bits: bits per coefficient.

    Returns:
        The size in bytes.
    """
    return count * bits // 8


def to_bytes(coefficients: UInt64Array, bits: int) -> bytes:
    """Write coefficients with ``bits`` bits each.

    With 64 = g * gcd and bits = w * gcd, coefficient r * (count / g) + i is row r of lane i. The g rows of a
    lane, joined with the low end first, are its w words. The output is all first words, then all second
    words, and so on, each little-endian. Rows, not lanes, are contiguous, so that every step is one long
    vector operation.

    Args:
        coefficients: (count,) uint64 below 2**bits; count is a multiple of ``GROUP``.
        bits: bits per coefficient.

    Returns:
        The bytes.
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
    """Invert :func:`to_bytes`.

    Args:
        data: the bytes.
        count: number of coefficients, a multiple of ``GROUP``.
        bits: bits per coefficient.

    Returns:
        (count,) uint64 below 2**bits.

    Raises:
        AggregationError: the length is wrong.
    """
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
