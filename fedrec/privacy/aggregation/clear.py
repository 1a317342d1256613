"""Scheme ``none``: the same packed integers as ``kahe``, in clear, for comparison and for debugging.

Packing, modulus and overflow are those of ``kahe`` for the same training, so that both open to bit-identical
sums, also where a sum leaves its field.
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
from fedrec.privacy.aggregation.scheme import Encrypted, Opened, SumOfCiphertexts
from fedrec.privacy.aggregation.spec import SchemeSpec
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.trust import TrustModel

NAME = "none"

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]


def choose_parameters(*, dimension: int, cohort: int, max_abs_sum: int) -> SchemeParameters:
    """Choose the packing that ``kahe`` would choose, without its ring."""
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
        """Add one vector; raises ``AggregationError``, changing nothing, if malformed or one too many."""
        if self._count >= self._parameters.cohort:
            raise AggregationError(f"the sum already holds a cohort of {self._parameters.cohort} vectors")
        self.coefficients = (self.coefficients + wire.decode(blob, self._parameters)) & self._mask
        self._count += 1


class ClearScheme:
    """Scheme ``none``; see the module and :class:`fedrec.privacy.aggregation.scheme.Scheme`.

    Raises ``AggregationError`` for parameters of another scheme.
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
        """Nobody is asked: 0."""
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
        """Pack (d,) int64; there is no key and nothing is read from ``rng``."""
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
    ) -> Opened:
        """Unpack a sum; raises ``AggregationError`` if it isn't of this scheme, or of other counts."""
        p = self.parameters
        if not isinstance(total, ClearSum) or total.coefficients.size != p.coefficients:
            raise AggregationError("the sum is of another scheme or of other parameters")
        if contributors < 1 or total.count != contributors:
            raise AggregationError(f"the sum holds {total.count} vectors, not the {contributors} stated")
        if answers:
            raise AggregationError(f"scheme {NAME} opens without answers, but some were given")
        values = packing.unpack(
            total.coefficients.view(np.int64),
            dimension=p.dimension,
            fields=p.values_per_coefficient,
            field_bits=p.field_bits,
        )
        return Opened(values=values, wrong={})


SPEC = SchemeSpec(
    name=NAME,
    trust=TrustModel(opened_by="nobody", reads_single_updates="server", epsilon_of="share"),
    trust_limit="The server sees every merchant's own noisy update.",
    create=ClearScheme,
    choose_parameters=choose_parameters,
)
