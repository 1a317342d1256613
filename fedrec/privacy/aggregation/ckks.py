"""Implement scheme ``ckks``: conventional CKKS (Cheon et al. 2017) with SEAL, mainly for comparison.

One merchant, the holder, makes a key pair for the training. All merchants encrypt under its public key, two
values per complex slot. Ciphertexts are added. The holder decrypts a sum, rounds it to integers and returns
only the integers: an unrounded CKKS output would reveal the private key (Li and Micciancio 2021). The
parameters are chosen so that rounding gives the exact sum; approximate arithmetic stays inside the holder.

Limit of this scheme, unlike ``kahe``: the holder can decrypt any ciphertext that the server shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import ckks_parameters, packing, ring, wire
from fedrec.privacy.aggregation.ckks_parameters import (
    DEGREE,
    MODULUS_BITS,
    CkksParameters,
    choose_parameters,
)
from fedrec.privacy.aggregation.parameters import PublicParameters
from fedrec.privacy.aggregation.scheme import Encrypted, KeyPair, SumOfCiphertexts
from fedrec.privacy.aggregation.seal import CkksEngine
from fedrec.privacy.aggregation.spec import SchemeSpec
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.trust import TrustModel

NAME = ckks_parameters.NAME
_BLOCKS_AT_ONCE = 16

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]


@lru_cache(maxsize=2)
def _engine(degree: int, modulus: int) -> CkksEngine:
    return CkksEngine(degree=degree, modulus=modulus)


class CkksSum:
    """A running sum of ciphertexts, with coefficients modulo the prime."""

    def __init__(self, parameters: CkksParameters) -> None:
        self._parameters = parameters
        self._count = 0
        self.coefficients: UInt64Array = np.zeros(parameters.coefficients, dtype=np.uint64)

    @property
    def count(self) -> int:
        """How many ciphertexts have been added."""
        return self._count

    def add(self, blob: bytes) -> None:
        """Add one ciphertext.

        A block whose second polynomial is zero is malformed too: its first polynomial is the plaintext.

        Raises:
            AggregationError: the ciphertext is malformed, or the sum already holds a cohort; the sum is
                unchanged.
        """
        p = self._parameters
        if self._count >= p.cohort:
            raise AggregationError(f"the sum already holds a cohort of {p.cohort} ciphertexts")
        added = wire.decode(blob, p)
        if not added.reshape(p.blocks, 2, DEGREE)[:, 1].any(axis=1).all():
            raise AggregationError("a ciphertext is transparent: it encrypts nothing; refuse its sender")
        self.coefficients = ring.add_modulo(self.coefficients, added, p.modulus)
        self._count += 1


class CkksScheme:
    """Scheme ``ckks``; implements :class:`fedrec.privacy.aggregation.scheme.HolderScheme`.

    Raises:
        AggregationError: the parameters are of another scheme.
    """

    name = NAME

    def __init__(self, parameters: PublicParameters) -> None:
        if not isinstance(parameters, CkksParameters):
            raise AggregationError(f"these parameters are of scheme {parameters.name}, not {NAME}")
        self.parameters = parameters

    @property
    def _engine(self) -> CkksEngine:
        return _engine(DEGREE, self.parameters.modulus)

    @property
    def _words(self) -> int:
        """Number of words of an answer: the values, rounded up to whole groups."""
        return packing.coefficient_count(self.parameters.dimension, 1)

    @property
    def answer_bytes(self) -> int:
        """Length of the holder's answer in bytes: the integers of a sum."""
        return wire.framed_bytes(count=self._words, bits=self.parameters.field_bits)

    @property
    def public_key_bytes(self) -> int:
        """Length of a public key in bytes."""
        return wire.framed_bytes(count=2 * DEGREE, bits=MODULUS_BITS)

    def make_keys(self) -> KeyPair:
        """Make a key pair with SEAL's generator, seeded by the operating system."""
        private, public = self._engine.make_keys()
        return KeyPair(
            private=wire.frame(wire.PRIVATE_KEY, private, bits=MODULUS_BITS, parameters=self.parameters),
            public=wire.frame(wire.PUBLIC_KEY, public, bits=MODULUS_BITS, parameters=self.parameters),
        )

    def _read_key(self, kind: bytes, key: bytes, *, count: int) -> UInt64Array:
        p = self.parameters
        return wire.unframe(kind, key, count=count, bits=MODULUS_BITS, parameters=p, modulus=p.modulus)

    def encrypt(
        self,
        values: Int64Array,
        *,
        training_id: str,
        round_number: int,
        rng: Randomness,
        public_key: bytes | None = None,
    ) -> Encrypted:
        """Encrypt values under the holder's public key.

        Values are first reduced modulo 2**field_bits, which doesn't change a sum modulo 2**field_bits. SEAL
        uses its own randomness, so that no seed makes a ciphertext repeatable.

        Args:
            values: (d,) int64, of any size.
            training_id: SHA-256 of the plan, 64 lower-case hexadecimal digits.
            round_number: the round, from 0 to 2**64 - 1.
            rng: randomness; not used.
            public_key: the holder's public key, required.

        Returns:
            The ciphertext, without a key.

        Raises:
            AggregationError: shape, type or key is wrong.
        """
        p = self.parameters
        if values.shape != (p.dimension,) or values.dtype != np.int64:
            raise AggregationError(
                f"a merchant's values must be int64 of shape ({p.dimension},), "
                f"not {values.dtype} of {values.shape}"
            )
        if public_key is None:
            raise AggregationError(f"scheme {NAME} encrypts under a public key; none was given")
        key = self._read_key(wire.PUBLIC_KEY, public_key, count=2 * DEGREE)
        if not key[DEGREE:].any():
            raise AggregationError("the public key's second polynomial is zero: it would encrypt nothing")
        shift = np.int64(64 - p.field_bits)
        parts = np.zeros(p.blocks * DEGREE, dtype=np.float64)
        parts[: p.dimension] = (values << shift) >> shift
        out = np.empty((p.blocks, 2 * DEGREE), dtype=np.uint64)
        for first in range(0, p.blocks, _BLOCKS_AT_ONCE):
            chosen = slice(first, first + _BLOCKS_AT_ONCE)
            slots = parts.reshape(p.blocks, DEGREE)[chosen].view(np.complex128)
            out[chosen] = self._engine.encrypt(slots, scale=p.scale, public_key=key)
        return Encrypted(ciphertext=wire.encode(out.reshape(-1), p), key=None)

    def new_sum(self) -> CkksSum:
        """Start an empty sum."""
        return CkksSum(self.parameters)

    def _check_sum(self, total: SumOfCiphertexts, contributors: int) -> CkksSum:
        if not isinstance(total, CkksSum) or total.coefficients.size != self.parameters.coefficients:
            raise AggregationError("the sum is of another scheme or of other parameters")
        if contributors < 1 or total.count != contributors:
            raise AggregationError(f"the sum holds {total.count} ciphertexts, not the {contributors} stated")
        return total

    def answer(self, total: SumOfCiphertexts, *, private_key: bytes, contributors: int) -> bytes:
        """Decrypt and round a sum. Two sums of equal values give the same bytes.

        Args:
            total: the sum.
            private_key: the holder's private key, encoded.
            contributors: number of ciphertexts that must be in the sum.

        Returns:
            The integers of the sum modulo 2**field_bits, encoded; nothing else that decryption shows.

        Raises:
            AggregationError: the key is malformed, the sum has another number of ciphertexts, or a part is
                further from its integer than :meth:`CkksParameters.slot_error`.
        """
        p = self.parameters
        key = self._read_key(wire.PRIVATE_KEY, private_key, count=DEGREE)
        blocks = self._check_sum(total, contributors).coefficients.reshape(p.blocks, 2 * DEGREE)
        parts = np.empty(p.blocks * DEGREE, dtype=np.int64)
        bound = p.slot_error()
        for first in range(0, p.blocks, _BLOCKS_AT_ONCE):
            chosen = blocks[first : first + _BLOCKS_AT_ONCE]
            found = self._engine.decrypt(chosen, scale=p.scale, private_key=key).view(np.float64)
            rounded = np.rint(found)
            if not bool((np.abs(found - rounded) <= bound).all()):
                raise AggregationError(
                    "the sum doesn't decrypt under this key: a ciphertext is of another training, "
                    "or was changed on its way"
                )
            parts[first * DEGREE : first * DEGREE + found.size] = rounded.reshape(-1).astype(np.int64)
        words = np.zeros(self._words, dtype=np.uint64)
        words[: p.dimension] = parts[: p.dimension].view(np.uint64) & np.uint64((1 << p.field_bits) - 1)
        return wire.frame(wire.SUM, words, bits=p.field_bits, parameters=p)

    def open(
        self,
        total: SumOfCiphertexts,
        *,
        answers: Mapping[int, bytes],
        threshold: int,
        contributors: int,
        training_id: str,
        round_number: int,
    ) -> Int64Array:
        """Open a sum with the holder's answer.

        Args:
            total: the sum.
            answers: the holder's answer, by its member number; exactly one.
            threshold: must be 1.
            contributors: number of ciphertexts that must be in the sum.
            training_id: not used.
            round_number: not used.

        Returns:
            The sum, (d,) int64 modulo 2**field_bits, centred.

        Raises:
            AggregationError: the sum has another number of ciphertexts, there is not exactly one answer, or
                it is malformed.
        """
        p = self.parameters
        self._check_sum(total, contributors)
        if len(answers) != 1 or threshold != 1:
            raise AggregationError(f"scheme {NAME} opens by one answer, not {len(answers)}")
        (blob,) = answers.values()
        words = wire.unframe(wire.SUM, blob, count=self._words, bits=p.field_bits, parameters=p, modulus=None)
        shift = np.int64(64 - p.field_bits)
        return (words[: p.dimension].view(np.int64) << shift) >> shift


SPEC = SchemeSpec(
    name=NAME,
    trust=TrustModel(opened_by="holder", reads_single_updates="key_holder", epsilon_of="share"),
    trust_limit=(
        "One merchant holds the key; if it, or any other merchant, sides with the server, the two together "
        "can open every merchant's own update."
    ),
    create=CkksScheme,
    choose_parameters=choose_parameters,
)
