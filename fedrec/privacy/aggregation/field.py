"""Multiply matrices and vectors over the field of p = 2**31 - 1, by exact products of halves."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PRIME = (1 << 31) - 1
MAX_INNER = 1 << 19
"""Most terms of a sum for which :func:`multiply` is exact."""
MAX_TERMS = 1 << 16
"""Most terms of a sum for which :func:`products_with` is exact."""

_P = np.int64(PRIME)
_BITS = np.int64(31)
_LOW = np.int64(16)
_LOW_MASK = np.int64((1 << 16) - 1)
_BLOCK_PRODUCTS = 1 << 17
"""Multiplications in one block: small enough that a linear algebra library starts no threads for it."""

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]


def _halves(values: UInt64Array) -> tuple[Float64Array, Float64Array]:
    """Split numbers below 2**31 into their high 15 and low 16 bits."""
    signed = values.view(np.int64)
    return (signed >> _LOW).astype(np.float64), (signed & _LOW_MASK).astype(np.float64)


def _fold(values: Int64Array) -> Int64Array:
    """Return a number of the same remainder: 2**31 is 1 modulo p, so that the high bits are added."""
    return (values & _P) + (values >> _BITS)


def multiply(left: UInt64Array, right: UInt64Array) -> UInt64Array:
    """Multiply two matrices modulo p.

    Each number is h * 2**16 + l with h < 2**15 and l < 2**16. Three products of matrices give the sums of
    h h', l l' and (h + l)(h' + l'), of which the mixed terms follow (Karatsuba and Ofman 1962). With at most
    2**19 terms, (h + l)(h' + l') sums to less than 2**19 * 2.25 * 2**32 < 2**53: every float64 on the way is
    an integer below 2**53, so that no order of additions rounds it. The mixed terms sum to less than 2**52
    and are folded to less than 2**32. So less than 2**48 + 2**51 + 2**51 is folded at the end, to less than
    2 p.

    Args:
        left: (m, k) uint64 below p.
        right: (k, n) uint64 below p.

    Returns:
        The product, (m, n) uint64 below p.

    Raises:
        ValueError: the shapes don't match, or k exceeds 2**19.
    """
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0] or len(right) > MAX_INNER:
        raise ValueError(f"matrices of shapes {left.shape} and {right.shape} can't be multiplied")
    width = max(1, _BLOCK_PRODUCTS // max(1, left.size))
    high, low = _halves(left)
    both = high + low
    out = np.empty((len(left), right.shape[1]), dtype=np.uint64)
    for start in range(0, right.shape[1], width):
        block = slice(start, start + width)
        right_high, right_low = _halves(right[:, block])
        highs, lows = high @ right_high, low @ right_low
        mixed = both @ (right_high + right_low) - lows - highs
        total = _fold(mixed.astype(np.int64)) << _LOW
        total += lows.astype(np.int64)
        # 2**32 is 2 modulo p.
        total += highs.astype(np.int64) << np.int64(1)
        total = _fold(total)
        # Below p the subtraction wraps to a huge number.
        np.minimum(total.view(np.uint64), (total - _P).view(np.uint64), out=out[:, block])
    return out


def products_with(rows: UInt64Array, vector: UInt64Array) -> UInt64Array:
    """Compute the inner products of several rows with one vector modulo p.

    The low 16 bits of a row's numbers and their high 15 bits are multiplied by the vector in integers. A sum
    of up to 2**16 products of 16 and 31 bits is below 2**63.

    Args:
        rows: (m, n) uint64 below p.
        vector: (n,) uint64 below p.

    Returns:
        (m,) uint64 below p.

    Raises:
        ValueError: the shapes don't match, or n exceeds 2**16.
    """
    if rows.ndim != 2 or rows.shape[1:] != vector.shape or vector.size > MAX_TERMS:
        raise ValueError(f"rows of shape {rows.shape} can't be multiplied by a vector of {vector.shape}")
    signed, other = rows.view(np.int64), vector.view(np.int64)
    high = ((signed >> _LOW) @ other) % _P
    return ((((signed & _LOW_MASK) @ other) % _P + (high << _LOW)) % _P).astype(np.uint64)


@lru_cache(maxsize=16)
def powers(members: int, count: int) -> UInt64Array:
    """Compute the powers x**0 .. x**(count - 1) modulo p of the points x = 1..members.

    Args:
        members: number of points.
        count: number of powers.

    Returns:
        (members, count) uint64 below p, read-only.
    """
    out = np.ones((members, count), dtype=np.uint64)
    points = np.arange(1, members + 1, dtype=np.uint64)
    for k in range(1, count):
        out[:, k] = out[:, k - 1] * points % np.uint64(PRIME)
    out.flags.writeable = False
    return out
