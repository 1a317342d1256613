"""Choose parameters of scheme ``ckks`` and bound its error, so that rounding a decrypted sum is exact."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.parameters import (
    FAILURE_BITS,
    MAX_COHORT,
    MAX_DIMENSION,
    MAX_FIELD_BITS,
    ROUNDS,
    canonical_digest,
    ring_modulus,
)
from fedrec.privacy.aggregation.seal import security_limit_bits

NAME = "ckks"
DEGREE = 4096
MODULUS_BITS = 60
"""The widest prime that SEAL supports; at degree 4096 the limit for 128-bit security is 109 bits."""

LARGEST_SLOT_ERROR = 0.25
_SEAL_NOISE_PROXY = 10.5
"""Sub-Gaussian variance proxy of SEAL's errors, centred binomials CBD(21): 42 fair bits, each of range 1."""

_DOUBLE_ROUNDING = 2.0**-53


@dataclass(frozen=True)
class CkksParameters:
    """The public parameters of scheme ``ckks``.

    Attributes:
        name: the scheme's name.
        dimension: values per merchant.
        cohort: most merchants in one sum.
        field_bits: sums are exact modulo 2**field_bits.

    Raises:
        AggregationError: they are out of range or insecure, or no scale makes the sums exact.
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
        """N: a ciphertext block is two polynomials of N coefficients and encrypts N values."""
        return DEGREE

    @property
    def modulus_bits(self) -> int:
        """Bits of the prime modulus."""
        return MODULUS_BITS

    @property
    def modulus(self) -> int:
        """The largest prime of ``modulus_bits`` bits for which the ring has a number-theoretic transform."""
        found = ring_modulus(degree=DEGREE, modulus_bits=MODULUS_BITS, plaintext_bits=1)
        if found is None:
            raise AggregationError(f"there is no prime of {MODULUS_BITS} bits for ring degree {DEGREE}")
        return found

    @property
    def blocks(self) -> int:
        """Number of ciphertext blocks, of N values each."""
        return math.ceil(self.dimension / DEGREE)

    @property
    def coefficients(self) -> int:
        """Number of coefficients of one ciphertext."""
        return self.blocks * 2 * DEGREE

    @property
    def coefficient_bits(self) -> int:
        """Bits that one coefficient takes on the wire."""
        return MODULUS_BITS

    @property
    def largest_sum(self) -> int:
        """Bound on a slot's real or imaginary part: the sum of ``cohort`` residues of ``field_bits`` bits."""
        return self.cohort << (self.field_bits - 1)

    @property
    def scale(self) -> float:
        """The factor of the values: the largest power of two at which no sum wraps around the modulus.

        A coefficient of a plaintext is at most its largest slot, sqrt(2) * ``largest_sum`` * scale, and its
        noise is far below 2**40.
        """
        room = (self.modulus // 2 - 2**40) / (math.sqrt(2) * self.largest_sum)
        return 2.0 ** math.floor(math.log2(room))

    def slot_error(self) -> float:
        """Bound the distance of a decrypted real or imaginary part from its integer.

        The bound holds in all slots of ``ROUNDS`` rounds together, except with probability
        2**-``FAILURE_BITS``. It is the sum of three terms:

        - Noise. Decryption leaves e1 * s + e0 - e * u for each of n merchants, where s and e belong to the
            key,
          u is ternary, and e0, e1 are fresh errors. A slot is a sum of N coefficients times complex numbers
          of modulus 1; the slot of a product is the product of the slots. Given the key, its parts are
          sub-Gaussian with proxy n N / 2 (rho + rho s2 + e2), where rho is the proxy of an error, 1 that of a
          ternary coefficient, and s2, e2 are the squared moduli of the key's slots. These are bounded in the
          same way, with proxies N / 2 and rho N / 2.
        - Rounding of plaintext coefficients: 1/2 each, at most n N / 2 in a slot.
        - Double-precision transforms of encoder and decoder. The relative error in the 2-norm is at most
          8 log2(N) units (Higham 2002, theorem 24.2), twice that with the scaling, and sqrt(N) times that for
          the largest of N slots, for both transforms.

        Returns:
            The bound, in units of one integer.
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
    """Choose the narrowest field that holds the sums, as ``kahe`` does.

    Args:
        dimension: integers per merchant.
        cohort: most merchants in one sum.
        max_abs_sum: bound on the absolute value of every coordinate of a sum.

    Returns:
        The parameters.

    Raises:
        AggregationError: the arguments are out of range, or no scale makes the sums exact.
    """
    return CkksParameters(
        name=NAME, dimension=dimension, cohort=cohort, field_bits=max_abs_sum.bit_length() + 1
    )
