"""Choose the cheapest ring parameters that are secure, and exact except with probability 2**-40."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Protocol

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.key_packing import KeyPacking
from fedrec.privacy.aggregation.packing import coefficient_count, packed_bytes
from fedrec.privacy.aggregation.ring import NOISE_STD
from fedrec.privacy.aggregation.scalar_sharing import SCALAR_BYTES
from fedrec.privacy.aggregation.seal import security_limit_bits

MAX_DIMENSION = 1 << 28
MAX_COHORT = 4096
MAX_FIELD_BITS = 48
RING_DEGREES = (2048, 4096)
MAX_MODULUS_BITS = 60
"""SEAL's limit for one prime."""

FAILURE_BITS = 41
ROUNDS = 1000
"""All coefficients of this many rounds are correct together, except with probability 2**-FAILURE_BITS.

This is half of a run's failure probability of 2**-40; the other half is for sums that overflow their field
(calibration.py).
"""

_NOMINAL_MEMBERS = 10
"""Committee size whose key shares count in the choice of the ring degree."""

_NOMINAL_DIMENSION = 1 << 24
_NOMINAL_VALUE = 1 << 16
"""The model size and the largest value of one merchant for which the ring degree of a cohort is chosen.

The degree determines the work of a committee member, so it must not grow with the model, nor with the field
width that a larger model's noise needs.
"""


class PublicParameters(Protocol):
    """The parameters that every scheme has: sizes of values, sums and ciphertexts, and a digest."""

    @property
    def name(self) -> str:
        """The scheme's name."""
        ...

    @property
    def dimension(self) -> int:
        """Number of values per merchant."""
        ...

    @property
    def cohort(self) -> int:
        """Most ciphertexts in one sum."""
        ...

    @property
    def field_bits(self) -> int:
        """Bits of a field: sums are exact modulo two to this power."""
        ...

    @property
    def ring_degree(self) -> int:
        """Degree of the ring; 0 if there is none."""
        ...

    @property
    def modulus_bits(self) -> int:
        """Bits of the ring's modulus; 0 if there is none."""
        ...

    @property
    def modulus(self) -> int | None:
        """The ring's prime modulus; None if there is no ring."""
        ...

    @property
    def coefficients(self) -> int:
        """Coefficients of one ciphertext, in whole groups of 256."""
        ...

    @property
    def coefficient_bits(self) -> int:
        """Bits that one coefficient takes on the wire."""
        ...

    def digest(self) -> bytes:
        """Return the SHA-256 of the canonical parameters, which every ciphertext carries; 32 bytes."""
        ...


def canonical_digest(values: Mapping[str, str | int]) -> bytes:
    """Return the SHA-256 that identifies a scheme's parameters; 32 bytes."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(b"fedrec/aggregation/parameters/1" + text.encode()).digest()


def noise_bound(*, coefficients: int, cohort: int) -> int:
    """Bound the summed error of all coefficients over ``ROUNDS`` rounds.

    A discrete Gaussian with parameter s has E exp(tX) <= exp(s**2 t**2 / 2), because a sum of exp(-(y - c)**2
    / 2 s**2) over the integers y is largest at c = 0. By Chernoff's bound the sum E over n merchants has
    P(|E| >= x) <= 2 exp(-x**2 / (2 n s**2)). A union bound over coefficients and rounds gives the result.

    Args:
        coefficients: noisy coefficients per merchant and round.
        cohort: merchants in the sum.

    Returns:
        The bound on the absolute value, which holds except with probability 2**-``FAILURE_BITS``.
    """
    tail = math.log(2) * (FAILURE_BITS + 1) + math.log(coefficients * ROUNDS)
    return math.ceil(NOISE_STD * math.sqrt(2 * cohort * tail)) + 1


def is_prime(number: int) -> bool:
    """Test primality below 2**64 by Miller-Rabin with the first twelve primes as bases, exact there."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 2 or any(number % p == 0 for p in bases):
        return number in bases
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        x = pow(base, odd, number)
        if x in (1, number - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % number
            if x == number - 1:
                break
        else:
            return False
    return True


@lru_cache(maxsize=1024)
def ring_modulus(*, degree: int, modulus_bits: int, plaintext_bits: int) -> int | None:
    """Find the largest prime q with q = 1 modulo 2 * degree and modulo 2**plaintext_bits.

    The first condition makes the ring's number-theoretic transform exist. The second means q = step *
    2**plaintext_bits + 1, so that a sum that wraps around the plaintext modulus is off by one unit of noise
    and not by thousands.

    Args:
        degree: degree of the ring, a power of two.
        modulus_bits: bits of q.
        plaintext_bits: bits of the plaintext modulus.

    Returns:
        The prime, or None if there is none.
    """
    unit = max(2 * degree, 1 << plaintext_bits)  # both are powers of two
    low = 1 << (modulus_bits - 1)
    candidate = ((1 << modulus_bits) - 2) // unit * unit + 1
    while candidate > low:
        if is_prime(candidate):
            return candidate
        candidate -= unit
    return None


@dataclass(frozen=True)
class SchemeParameters:
    """The public parameters of one training's aggregation; a ciphertext contains their digest.

    Attributes:
        name: the scheme's name.
        dimension: values per merchant.
        cohort: most merchants in one sum.
        field_bits: bits of a value's field, in two's complement, wide enough for the sum over the cohort.
        values_per_coefficient: values packed into one coefficient.
        ring_degree: degree of the ring; 0 for a scheme without a ring.
        modulus_bits: bits of the ring's modulus; 0 for a scheme without a ring.

    Raises:
        AggregationError: the parameters are out of range, insecure or not exact.
    """

    name: str
    dimension: int
    cohort: int
    field_bits: int
    values_per_coefficient: int
    ring_degree: int
    modulus_bits: int

    def __post_init__(self) -> None:
        limits = {
            "dimension": (1, MAX_DIMENSION),
            "cohort": (1, MAX_COHORT),
            "field_bits": (2, MAX_FIELD_BITS),
            "values_per_coefficient": (1, 31),
            "ring_degree": (0, max(RING_DEGREES)),
            "modulus_bits": (0, MAX_MODULUS_BITS),
        }
        if type(self.name) is not str or not 1 <= len(self.name) <= 32:
            raise AggregationError("aggregation parameters need a scheme name of 1 to 32 characters")
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if type(value) is not int or not low <= value <= high:
                raise AggregationError(
                    f"aggregation parameter {field} must be an integer from {low} to {high}"
                )
        if self.plaintext_bits > MAX_MODULUS_BITS:
            raise AggregationError(
                f"{self.values_per_coefficient} fields of {self.field_bits} bits pass {MAX_MODULUS_BITS} bits"
            )
        if (self.ring_degree == 0) != (self.modulus_bits == 0):
            raise AggregationError("ring_degree and modulus_bits must both be given, or both be 0")
        if self.ring_degree:
            self._check_ring()

    def _check_ring(self) -> None:
        if self.ring_degree not in RING_DEGREES:
            raise AggregationError(f"ring_degree must be one of {RING_DEGREES}")
        if self.modulus_bits > security_limit_bits(self.ring_degree):
            raise AggregationError(
                f"a modulus of {self.modulus_bits} bits isn't secure at ring degree {self.ring_degree}"
            )
        if self.modulus_bits <= self.plaintext_bits or self.modulus is None:
            raise AggregationError(
                f"no modulus of {self.modulus_bits} bits fits {self.plaintext_bits}-bit sums"
            )
        if self.step < 2 * (self.noise_bound + self.cohort) + 2:
            raise AggregationError(
                f"a modulus of {self.modulus_bits} bits leaves too little room for the noise of"
                f" {self.cohort} merchants beside {self.plaintext_bits}-bit sums"
            )

    @property
    def plaintext_bits(self) -> int:
        """Bits of the packed values of one coefficient; sums are modulo two to this power."""
        return self.field_bits * self.values_per_coefficient

    @property
    def coefficients(self) -> int:
        """Coefficients of one ciphertext, in whole groups of 256."""
        return coefficient_count(self.dimension, self.values_per_coefficient)

    @property
    def modulus(self) -> int | None:
        """The ring's prime modulus q; None if there is no ring or no such prime."""
        if not self.modulus_bits:
            return None
        return ring_modulus(
            degree=self.ring_degree, modulus_bits=self.modulus_bits, plaintext_bits=self.plaintext_bits
        )

    @property
    def step(self) -> int:
        """The factor of the plaintext: (q - 1) / 2**plaintext_bits; 1 without a ring."""
        return 1 if self.modulus is None else self.modulus >> self.plaintext_bits

    @property
    def noise_bound(self) -> int:
        """Bound on every coefficient of a summed error or key, see :func:`noise_bound`."""
        return noise_bound(coefficients=self.noisy_coefficients, cohort=self.cohort)

    @property
    def key_packing(self) -> KeyPacking:
        """How keys are packed into scalars for their shares.

        The bound is for as many coefficients as a large model has: a key's exceed it with probability 2**-53.
        """
        bound = noise_bound(coefficients=_NOMINAL_DIMENSION, cohort=self.cohort)
        return KeyPacking(count=self.ring_degree, bound=bound)

    @property
    def noisy_coefficients(self) -> int:
        """Gaussian coefficients that a merchant draws per round: a ciphertext's errors and a key."""
        return self.coefficients + self.ring_degree

    @property
    def coefficient_bits(self) -> int:
        """Bits that one coefficient takes on the wire."""
        return self.modulus_bits or self.plaintext_bits

    @property
    def body_bytes(self) -> int:
        """Bytes of a ciphertext's coefficients."""
        return packed_bytes(self.coefficients, self.coefficient_bits)

    def digest(self) -> bytes:
        """Return the SHA-256 of the canonical parameters, which every ciphertext carries; 32 bytes."""
        return canonical_digest(asdict(self))


def choose_ring(*, name: str, dimension: int, cohort: int, max_abs_sum: int) -> SchemeParameters:
    """Choose the parameters with the smallest ciphertext, in the ring degree of this cohort.

    Every packing is tried with the narrowest modulus that is exact, see :func:`noise_bound`, and 128-bit
    secure. The degree is the first of :func:`_degrees` in which a packing fits.

    Args:
        name: the scheme's name.
        dimension: integers per merchant.
        cohort: most merchants in one sum.
        max_abs_sum: bound on the absolute value of every coordinate of a sum.

    Returns:
        The parameters.

    Raises:
        AggregationError: the arguments are out of range, or no ring fits.
    """
    for what, value, high in (
        ("dimension", dimension, MAX_DIMENSION),
        ("cohort", cohort, MAX_COHORT),
        ("max_abs_sum", max_abs_sum, (1 << (MAX_FIELD_BITS - 1)) - 1),
    ):
        if not 1 <= value <= high:
            raise AggregationError(f"{what} must be from 1 to {high}, not {value}: no ring fits")
    field_bits = max_abs_sum.bit_length() + 1
    nominal = (cohort * _NOMINAL_VALUE).bit_length() + 1
    for degree in _degrees(cohort=cohort, field_bits=max(field_bits, nominal)):
        found = _cheapest(name=name, dimension=dimension, cohort=cohort, field_bits=field_bits, degree=degree)
        if found is not None:
            return found
    raise AggregationError(
        f"no secure ring holds sums of {field_bits} bits over {cohort} merchants; "
        "lower the scale, the noise or the cohort"
    )


@lru_cache(maxsize=256)
def _degrees(*, cohort: int, field_bits: int) -> tuple[int, ...]:
    """Order the ring degrees by the bytes of a ciphertext and its key shares for ten members, cheapest first.

    The costs are those of a model with ``_NOMINAL_DIMENSION`` parameters, independent of the training's
    model.

    Returns:
        All ring degrees.
    """
    costs: dict[int, float] = dict.fromkeys(RING_DEGREES, math.inf)
    for degree in RING_DEGREES:
        found = _cheapest(
            name="nominal", dimension=_NOMINAL_DIMENSION, cohort=cohort, field_bits=field_bits, degree=degree
        )
        if found is not None:
            costs[degree] = found.body_bytes + _NOMINAL_MEMBERS * SCALAR_BYTES * found.key_packing.scalars
    return tuple(sorted(costs, key=lambda degree: costs[degree]))


def _cheapest(
    *, name: str, dimension: int, cohort: int, field_bits: int, degree: int
) -> SchemeParameters | None:
    """Return the packing and modulus with the smallest ciphertext in one ring degree; None if none fits."""
    widest = min(MAX_MODULUS_BITS, security_limit_bits(degree))
    best: SchemeParameters | None = None
    for per_coefficient in range(1, widest // field_bits + 1):
        found = _narrowest(
            name=name,
            dimension=dimension,
            cohort=cohort,
            field_bits=field_bits,
            per_coefficient=per_coefficient,
            degree=degree,
            widest=widest,
        )
        if found is not None and (best is None or found.body_bytes < best.body_bytes):
            best = found
    return best


def _narrowest(
    *,
    name: str,
    dimension: int,
    cohort: int,
    field_bits: int,
    per_coefficient: int,
    degree: int,
    widest: int,
) -> SchemeParameters | None:
    """Return the parameters with the narrowest modulus that fits; None if there is none."""
    plaintext_bits = field_bits * per_coefficient
    for modulus_bits in range(plaintext_bits + 1, widest + 1):
        try:
            return SchemeParameters(
                name=name,
                dimension=dimension,
                cohort=cohort,
                field_bits=field_bits,
                values_per_coefficient=per_coefficient,
                ring_degree=degree,
                modulus_bits=modulus_bits,
            )
        except AggregationError:
            continue
    return None
