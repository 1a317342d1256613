"""Pack the small coefficients of a key into scalars, such that sums of keys can be read from sums of scalars.

A scalar is the sum of k_i 2**(b i) over the coefficients k_i that it holds, an integer that may be negative,
modulo the group's order. Coefficients of a sum of keys are within a bound that b bits hold with their sign,
so that the digits of a sum are the sums of the digits, and nothing else can be read from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.scalar_sharing import ORDER, SCALAR_BYTES, Scalars

_USABLE_BITS = 255
"""A signed number of so many bits is determined by its residue modulo the order, which is above 2**255."""

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class KeyPacking:
    """How a key is packed.

    Attributes:
        count: coefficients of a key.
        bound: on the absolute value of a coefficient, of sums of keys too.
    """

    count: int
    bound: int

    @property
    def bits(self) -> int:
        """Bits of a coefficient with its sign."""
        return self.bound.bit_length() + 1

    @property
    def per_scalar(self) -> int:
        """Coefficients in one scalar."""
        return _USABLE_BITS // self.bits

    @property
    def scalars(self) -> int:
        """Scalars of a key."""
        return -(-self.count // self.per_scalar)

    @property
    def _offset(self) -> int:
        """The packed number whose digits are all 2**(bits - 1); added, it makes every digit positive."""
        ones = ((1 << self.bits * self.per_scalar) - 1) // ((1 << self.bits) - 1)
        return ones << (self.bits - 1)

    def pack(self, key: Int64Array) -> Scalars:
        """Pack a key.

        Args:
            key: int64 (count,).

        Returns:
            The scalars, below the order.

        Raises:
            AggregationError: the length is wrong, or a coefficient exceeds the bound.
        """
        if key.shape != (self.count,) or int(np.abs(key).max()) > self.bound:
            raise AggregationError(f"a key to pack has {self.count} coefficients of at most {self.bound}")
        digits = np.zeros(self.scalars * self.per_scalar, dtype=np.int64)
        digits[: self.count] = key
        digits += np.int64(1 << (self.bits - 1))
        bits = (digits[:, None] >> np.arange(self.bits, dtype=np.int64)) & np.int64(1)
        rows = np.zeros((self.scalars, 8 * SCALAR_BYTES), dtype=np.uint8)
        rows[:, : self.bits * self.per_scalar] = bits.reshape(self.scalars, -1)
        packed = np.packbits(rows, axis=1, bitorder="little")
        return [(int.from_bytes(row.tobytes(), "little") - self._offset) % ORDER for row in packed]

    def unpack(self, scalars: Sequence[int]) -> Int64Array:
        """Unpack a key or a sum of keys.

        Args:
            scalars: as many as a key has, below the order.

        Returns:
            The coefficients, int64 (count,). They may exceed the bound, up to what their bits hold.

        Raises:
            AggregationError: there are too few or too many scalars, or no key gives them.
        """
        if len(scalars) != self.scalars:
            raise AggregationError(f"a packed key of {len(scalars)} scalars should have {self.scalars}")
        raised = [(scalar + self._offset) % ORDER for scalar in scalars]
        if any(number >> (self.bits * self.per_scalar) for number in raised):
            raise AggregationError("a packed key is too large to be a sum of merchants' keys")
        digits = self._digits(raised) - np.int64(1 << (self.bits - 1))
        if digits[self.count :].any():
            raise AggregationError("a packed key has coefficients beyond its end")
        return digits[: self.count]

    def low_digits(self, scalars: Sequence[int]) -> Int64Array:
        """Read any scalars as packed coefficients, without the bits above the highest one.

        Args:
            scalars: as many as a key has.

        Returns:
            Coefficients, int64 (count,).
        """
        mask = (1 << (self.bits * self.per_scalar)) - 1
        digits = self._digits([(scalar + self._offset) & mask for scalar in scalars])
        return (digits - np.int64(1 << (self.bits - 1)))[: self.count]

    def _digits(self, numbers: Sequence[int]) -> Int64Array:
        """Return the unsigned digits of numbers of ``bits * per_scalar`` bits, one row after another."""
        raw = b"".join(number.to_bytes(SCALAR_BYTES, "little") for number in numbers)
        rows = np.frombuffer(raw, dtype=np.uint8).reshape(len(numbers), SCALAR_BYTES)
        bits = np.unpackbits(rows, axis=1, bitorder="little")[:, : self.bits * self.per_scalar]
        weights = np.int64(1) << np.arange(self.bits, dtype=np.int64)
        return bits.reshape(-1, self.bits).astype(np.int64) @ weights
