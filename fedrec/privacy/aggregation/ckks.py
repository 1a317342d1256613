"""Conventional CKKS (Cheon et al. 2017) by SEAL, for comparison and for those who want it: scheme ``ckks``.

One merchant makes a key pair for the training; all encrypt under its public half, two values to a complex
slot; ciphertexts add; the holder decrypts a sum, rounds it to integers and hands out the integers alone. A
CKKS output unrounded would give the private key away (Li and Micciancio 2021). Parameters are chosen so that
rounding gives the exact sum: approximate arithmetic stays inside the holder.

The holder can decrypt any ciphertext that the server shows it: this scheme's limit, and not ``kahe``'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import packing, ring, wire
from fedrec.privacy.aggregation.parameters import (
    FAILURE_BITS,
    MAX_COHORT,
    MAX_DIMENSION,
    MAX_FIELD_BITS,
    ROUNDS,
    PublicParameters,
    canonical_digest,
    ring_modulus,
)
from fedrec.privacy.aggregation.scheme import Encrypted, KeyPair, Opened, SumOfCiphertexts
from fedrec.privacy.aggregation.seal import CkksEngine, security_limit_bits
from fedrec.privacy.aggregation.spec import SchemeSpec
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.trust import TrustModel

NAME = "ckks"
DEGREE = 4096
MODULUS_BITS = 60
"""The widest prime of SEAL; at degree 4096 the 128-bit limit is 109 bits."""

LARGEST_SLOT_ERROR = 0.25
_SEAL_NOISE_PROXY = 10.5
"""Sub-Gaussian variance proxy of SEAL's errors, CBD(21): 42 fair bits, each of range 1."""

_DOUBLE_ROUNDING = 2.0**-53
_BLOCKS_AT_ONCE = 16

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]


@dataclass(frozen=True)
class CkksParameters:
    """Public parameters: ``dimension`` values, sums of up to ``cohort`` of them modulo 2**``field_bits``.

    Raises ``AggregationError`` if they are out of range, insecure, or no scale makes their sums exact.
    """

    name: str
    dimension: int
    cohort: int
    field_bits: int

    def __post_init__(self) -> None:
        for what, value, low, high in (
            ("dimension", self.dimension, 1, MAX_DIMENSION),
            ("cohort", self.cohort, 1, MAX_COHORT),
            ("field_bits", self.field_bits, 2, MAX_FIELD_BITS),
        ):
            if type(value) is not int or not low <= value <= high:
                raise AggregationError(
                    f"aggregation parameter {what} must be an integer from {low} to {high}"
                )
        if self.name != NAME:
            raise AggregationError(f"these parameters are of scheme {self.name}, not {NAME}")
        if security_limit_bits(DEGREE) < MODULUS_BITS:
            raise AggregationError(f"a modulus of {MODULUS_BITS} bits isn't secure at ring degree {DEGREE}")
        if self.slot_error() > LARGEST_SLOT_ERROR:
            raise AggregationError(
                f"sums of {self.field_bits} bits over {self.cohort} merchants aren't exact under {NAME}; "
                "lower the scale, the noise or the cohort"
            )

    @property
    def ring_degree(self) -> int:
        """N: a ciphertext block is two polynomials of N coefficients, and holds N values."""
        return DEGREE

    @property
    def modulus_bits(self) -> int:
        """Bits of the prime modulus."""
        return MODULUS_BITS

    @property
    def modulus(self) -> int:
        """The largest prime of that many bits for which the ring's fast transform exists."""
        found = ring_modulus(degree=DEGREE, modulus_bits=MODULUS_BITS, plaintext_bits=1)
        if found is None:
            raise AggregationError(f"there is no prime of {MODULUS_BITS} bits for ring degree {DEGREE}")
        return found

    @property
    def blocks(self) -> int:
        """Ciphertext blocks, each of N values."""
        return math.ceil(self.dimension / DEGREE)

    @property
    def coefficients(self) -> int:
        """Coefficients of one ciphertext."""
        return self.blocks * 2 * DEGREE

    @property
    def coefficient_bits(self) -> int:
        """Bits that one coefficient takes on the wire."""
        return MODULUS_BITS

    @property
    def largest_sum(self) -> int:
        """What a slot's real or imaginary part may come to: ``cohort`` residues of ``field_bits`` bits."""
        return self.cohort << (self.field_bits - 1)

    @property
    def scale(self) -> float:
        """What values are multiplied by: the largest power of two at which no sum wraps around the modulus.

        A coefficient of a plaintext is at most its largest slot, sqrt(2) * ``largest_sum`` * scale, and its
        noise is far less than 2**40.
        """
        room = (self.modulus // 2 - 2**40) / (math.sqrt(2) * self.largest_sum)
        return 2.0 ** math.floor(math.log2(room))

    def slot_error(self) -> float:
        """Bound how far a decrypted part may be from its integer, in every slot of ``ROUNDS`` rounds.

        It holds but for 2**-``FAILURE_BITS``, and adds up:

        - noise. Decryption leaves, for each of n merchants, e1 * s + e0 - e * u, with s and e of the key, u
          ternary and e0, e1 fresh errors. A slot is a sum of N coefficients times complex numbers of modulus
          1, and of a product, the product of slots: its parts are sub-Gaussian, given the key, with proxy
          n N / 2 (rho + rho s2 + e2), rho that of an error, 1 that of a ternary coefficient, s2 and e2 the
          squared moduli of the key's slots. Those are bounded likewise, by proxies N / 2 and rho N / 2.
        - rounding plaintext coefficients, by 1/2 each, n N / 2 in a slot at the very most.
        - the double-precision transforms of encoder and decoder: a relative error in the 2-norm of at most
          8 log2(N) units (Higham 2002, theorem 24.2), twice that with the scaling, and sqrt(N) times that
          for the largest of N slots, for both.
        """
        n, degree = self.cohort, DEGREE
        tail = math.log(2) * (FAILURE_BITS + 2) + math.log(2.0 * self.blocks * degree * ROUNDS)
        s2 = 2 * degree * tail
        e2 = _SEAL_NOISE_PROXY * s2
        proxy = n * degree / 2 * (_SEAL_NOISE_PROXY + _SEAL_NOISE_PROXY * s2 + e2)
        noise = math.sqrt(2 * proxy * tail)
        relative = 16 * math.log2(degree) * _DOUBLE_ROUNDING
        transforms = 2 * math.sqrt(degree) * math.sqrt(2) * self.largest_sum * relative
        return (noise + n * degree / 2) / self.scale + transforms

    def digest(self) -> bytes:
        """Return the SHA-256 of the canonical parameters; 32 bytes."""
        return canonical_digest({**asdict(self), "degree": DEGREE, "modulus": self.modulus})


def choose_parameters(*, dimension: int, cohort: int, max_abs_sum: int) -> CkksParameters:
    """Choose the narrowest field that holds sums of at most ``max_abs_sum``, as ``kahe`` does."""
    return CkksParameters(
        name=NAME, dimension=dimension, cohort=cohort, field_bits=max_abs_sum.bit_length() + 1
    )


@lru_cache(maxsize=2)
def _engine(degree: int, modulus: int) -> CkksEngine:
    return CkksEngine(degree=degree, modulus=modulus)


class CkksSum:
    """A running sum of ciphertexts, coefficients modulo the prime."""

    def __init__(self, parameters: CkksParameters) -> None:
        self._parameters = parameters
        self._count = 0
        self.coefficients: UInt64Array = np.zeros(parameters.coefficients, dtype=np.uint64)

    @property
    def count(self) -> int:
        """How many ciphertexts have been added."""
        return self._count

    def add(self, blob: bytes) -> None:
        """Add one ciphertext; raises ``AggregationError``, changing nothing, if malformed or one too many.

        A block whose second polynomial is zero hides nothing (its first is the plaintext): malformed, too.
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
    """Scheme ``ckks``; see the module and :class:`fedrec.privacy.aggregation.scheme.HolderScheme`.

    Raises ``AggregationError`` for parameters of another scheme.
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
        """The values of an answer, in whole groups."""
        return packing.coefficient_count(self.parameters.dimension, 1)

    @property
    def answer_bytes(self) -> int:
        """The length of the holder's answer: the integers of a sum."""
        return wire.framed_bytes(count=self._words, bits=self.parameters.field_bits)

    @property
    def public_key_bytes(self) -> int:
        """The length of a public key."""
        return wire.framed_bytes(count=2 * DEGREE, bits=MODULUS_BITS)

    def make_keys(self) -> KeyPair:
        """Make a key pair with SEAL's generator, whose seed is the operating system's."""
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
        """Encrypt (d,) int64 under the holder's public key; see the protocol for what it raises.

        Values are reduced modulo 2**field_bits first, which sums can't tell. SEAL's randomness is its own:
        nothing is read from ``rng``, and no seed makes a ciphertext repeatable.
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
        """Decrypt and round a sum; see the protocol. Two sums of equal values give the same bytes."""
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
    ) -> Opened:
        """Read the holder's answer, the one there is; see the protocol for what it raises."""
        p = self.parameters
        self._check_sum(total, contributors)
        if len(answers) != 1 or threshold != 1:
            raise AggregationError(f"scheme {NAME} opens by one answer, not {len(answers)}")
        (blob,) = answers.values()
        words = wire.unframe(wire.SUM, blob, count=self._words, bits=p.field_bits, parameters=p, modulus=None)
        shift = np.int64(64 - p.field_bits)
        values = (words[: p.dimension].view(np.int64) << shift) >> shift
        return Opened(values=values, wrong={})


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
