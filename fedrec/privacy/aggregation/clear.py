"""Implement scheme ``none``: the packed integers of ``kahe`` without encryption, to compare and debug.

Packing, modulus and overflow are the same as with ``kahe`` for the same training, so that both schemes open
to bit-identical sums, also if a sum overflows its field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import packing, wire
from fedrec.privacy.aggregation.parameters import PublicParameters, SchemeParameters, choose_ring
from fedrec.privacy.aggregation.ring import is_training_id
from fedrec.privacy.aggregation.scheme import Encrypted, SumOfCiphertexts
from fedrec.privacy.aggregation.spec import SchemeSpec
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.trust import TrustModel

NAME = "none"

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]


def choose_parameters(*, dimension: int, cohort: int, max_abs_sum: int) -> SchemeParameters:
    """Choose the packing that ``kahe`` would choose, without its ring.

    Args:
        dimension: integers per merchant.
        cohort: most merchants in one sum.
        max_abs_sum: bound on the absolute value of every coordinate of a sum.

    Returns:
        The parameters, with ring degree and modulus 0.

    Raises:
        AggregationError: the arguments are out of range, or no ring of ``kahe`` fits.
    """
    like = choose_ring(name=NAME, dimension=dimension, cohort=cohort, max_abs_sum=max_abs_sum)
    return replace(like, ring_degree=0, modulus_bits=0)


class ClearSum:
    """A running sum of packed integers, modulo 2**plaintext_bits."""

    def __init__(self, parameters: SchemeParameters) -> None:
        self._parameters = parameters
        self._count = 0
        self._mask = np.uint64((1 << parameters.plaintext_bits) - 1)
        self.coefficients: UInt64Array = np.zeros(parameters.coefficients, dtype=np.uint64)

    @property
    def count(self) -> int:
        """How many vectors have been added."""
        return self._count

    def add(self, blob: bytes) -> None:
        """Add one vector.

        Raises:
            AggregationError: the vector is malformed, or the sum already holds a cohort; the sum is
                unchanged.
        """
        if self._count >= self._parameters.cohort:
            raise AggregationError(f"the sum already holds a cohort of {self._parameters.cohort} vectors")
        self.coefficients = (self.coefficients + wire.decode(blob, self._parameters)) & self._mask
        self._count += 1


class ClearScheme:
    """Scheme ``none``; implements :class:`fedrec.privacy.aggregation.scheme.Scheme`.

    Raises:
        AggregationError: the parameters are of another scheme.
    """

    name = NAME

    def __init__(self, parameters: PublicParameters) -> None:
        if not isinstance(parameters, SchemeParameters) or parameters.name != NAME or parameters.ring_degree:
            raise AggregationError(
                f"these parameters are of scheme {parameters.name} with a ring, not {NAME}"
            )
        self.parameters = parameters

    @property
    def answer_bytes(self) -> int:
        """0: opening needs no answers."""
        return 0

    def encrypt(
        self,
        values: Int64Array,
        *,
        training_id: str,
        round_number: int,
        rng: Randomness,
        public_key: bytes | None = None,
    ) -> Encrypted:
        """Pack values, without encryption.

        Args:
            values: (d,) int64, of any size.
            training_id: SHA-256 of the plan, 64 lower-case hexadecimal digits.
            round_number: the round, from 0 to 2**64 - 1.
            rng: randomness; not used.
            public_key: must be None.

        Returns:
            The packed values as ciphertext, without a key.

        Raises:
            AggregationError: shape, type, training or round is wrong, or there is a key.
        """
        if public_key is not None:
            raise AggregationError(f"scheme {NAME} has no keys, but one was given")
        p = self.parameters
        if values.shape != (p.dimension,) or values.dtype != np.int64:
            raise AggregationError(
                f"a merchant's values must be int64 of shape ({p.dimension},), "
                f"not {values.dtype} of {values.shape}"
            )
        if not is_training_id(training_id) or not 0 <= round_number < 2**64:
            raise AggregationError(
                "encryption needs the training's SHA-256 in hex and a round from 0 to 2**64-1"
            )
        packed = packing.pack(values, fields=p.values_per_coefficient, field_bits=p.field_bits)
        coefficients = packed.view(np.uint64) & np.uint64((1 << p.plaintext_bits) - 1)
        return Encrypted(ciphertext=wire.encode(coefficients, p), key=None)

    def new_sum(self) -> ClearSum:
        """Start an empty sum."""
        return ClearSum(self.parameters)

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
        """Unpack a sum.

        Args:
            total: the sum.
            answers: must be empty.
            threshold: not used.
            contributors: number of ciphertexts that must be in the sum.
            training_id: not used.
            round_number: not used.

        Returns:
            The sum, (d,) int64 modulo 2**field_bits, centred.

        Raises:
            AggregationError: the sum is of another scheme or has another number of vectors, or there are
                answers.
        """
        p = self.parameters
        if not isinstance(total, ClearSum) or total.coefficients.size != p.coefficients:
            raise AggregationError("the sum is of another scheme or of other parameters")
        if contributors < 1 or total.count != contributors:
            raise AggregationError(f"the sum holds {total.count} vectors, not the {contributors} stated")
        if answers:
            raise AggregationError(f"scheme {NAME} opens without answers, but some were given")
        return packing.unpack(
            total.coefficients.view(np.int64),
            dimension=p.dimension,
            fields=p.values_per_coefficient,
            field_bits=p.field_bits,
        )


SPEC = SchemeSpec(
    name=NAME,
    trust=TrustModel(opened_by="nobody", reads_single_updates="server", epsilon_of="share"),
    trust_limit="The server sees every merchant's own noisy update.",
    create=ClearScheme,
    choose_parameters=choose_parameters,
)
