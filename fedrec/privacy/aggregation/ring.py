"""Compute in the ring of scheme ``kahe``: public polynomials from a hash, Gaussian noise, masks a_j * k."""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache, partial

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from fedrec._internal.shared_results import SHARED
from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.seal import RingEngine
from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.randomness import Randomness

NOISE_STD = 7.0
"""Standard deviation of the discrete Gaussians of keys and errors.

At this width, when the sum of two honest merchants' keys and errors is opened, each of them stays as hard to
find as in ring learning with errors of half the width, 3.5: Kim, Lee, Seo and Song 2023 (ePrint 2023/623),
whose smoothing condition holds to 2**-173 per coefficient. docs/secure-aggregation.md gives the argument.
"""

_PUBLIC_DOMAIN = b"fedrec/kahe/public-polynomial/1"
_TRAINING_ID_HEX_DIGITS = 64

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]


def small(count: int, rng: Randomness) -> Int64Array:
    """Draw the coefficients of a key or an error from a discrete Gaussian of width :data:`NOISE_STD`.

    Args:
        count: number of coefficients.
        rng: randomness.

    Returns:
        (count,) int64.
    """
    return discrete_gaussian(count, sigma=NOISE_STD, rng=rng)


def add_modulo(left: UInt64Array, right: UInt64Array, modulus: int) -> UInt64Array:
    """Add residues.

    Args:
        left: uint64 below the modulus.
        right: uint64 below the modulus, of the same shape.
        modulus: of at most 63 bits.

    Returns:
        The sums, uint64 below the modulus, of the same shape.
    """
    total = left + right
    # The subtraction wraps to a huge number exactly if total < modulus.
    reduced: UInt64Array = np.minimum(total, total - np.uint64(modulus))
    return reduced


def lift(values: Int64Array, modulus: int) -> UInt64Array:
    """Map integers to residues.

    Args:
        values: int64 in (-modulus, modulus).
        modulus: of at most 63 bits.

    Returns:
        uint64 in [0, modulus), of the same shape.
    """
    # The arithmetic shift is all ones for a negative value, and zero otherwise.
    return (values + ((values >> np.int64(63)) & np.int64(modulus))).view(np.uint64)


def public_polynomials(
    *, training_id: str, round_number: int, first: int, count: int, degree: int, modulus: int
) -> UInt64Array:
    """Derive the public polynomials a_first .. a_(first+count-1) of a round, in transformed form.

    Every party computes them itself, so that nobody can choose them. The key of a ChaCha20 keystream is the
    SHA-256 of (domain, ring parameters, training, round, block). The keystream is read as little-endian
    64-bit words, truncated to the bit length of the modulus. The first ``degree`` words below the modulus are
    the polynomial, so that it is exactly uniform.

    Args:
        training_id: SHA-256 of the plan, 64 lower-case hexadecimal digits.
        round_number: the round, from 0 to 2**64 - 1.
        first: number of the first block.
        count: number of blocks.
        degree: degree of the ring.
        modulus: the ring's prime modulus.

    Returns:
        (count, degree) uint64 below the modulus.

    Raises:
        AggregationError: ``training_id`` is not a SHA-256 in hexadecimal, or ``round_number`` doesn't fit 64
            bits.
    """
    if not is_training_id(training_id) or not 0 <= round_number < 2**64:
        raise AggregationError(
            "encryption needs the training's SHA-256 in lower-case hex and a round number from 0 to 2**64-1"
        )
    prefix = _PUBLIC_DOMAIN + struct.pack("<IQQ", degree, modulus, round_number) + bytes.fromhex(training_id)
    return SHARED.of(
        ("public polynomials", prefix, first, count),
        lambda: _from_keystreams(prefix, first=first, count=count, degree=degree, modulus=modulus),
        size=lambda polynomials: polynomials.nbytes + 512,
    )


def _from_keystreams(prefix: bytes, *, first: int, count: int, degree: int, modulus: int) -> UInt64Array:
    mask, bound = np.uint64((1 << modulus.bit_length()) - 1), np.uint64(modulus)
    # Nearly always enough words at once; otherwise more are read from the same stream.
    guess = int(degree * (1 << modulus.bit_length()) / modulus * 1.02) + 64
    zeros = bytes(8 * guess)
    out = np.empty((count, degree), dtype=np.uint64)
    for row in range(count):
        key = hashlib.sha256(prefix + struct.pack("<Q", first + row)).digest()
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        filled = 0
        while filled < degree:
            words = np.frombuffer(stream.update(zeros), dtype="<u8") & mask
            accepted = words[words < bound][: degree - filled]
            out[row, filled : filled + accepted.size] = accepted
            filled += accepted.size
    out.flags.writeable = False
    return out


def is_training_id(text: str) -> bool:
    """Test whether a text is a SHA-256 digest in lower-case hexadecimal."""
    return len(text) == _TRAINING_ID_HEX_DIGITS and all(digit in "0123456789abcdef" for digit in text)


@lru_cache(maxsize=4)
def engine(degree: int, modulus: int) -> RingEngine:
    """Return this process's engine for a ring; it is cached, since building one takes a few milliseconds.

    Args:
        degree: degree of the ring.
        modulus: the ring's prime modulus.

    Returns:
        The engine.
    """
    return RingEngine(degree=degree, modulus=modulus)


class Masks:
    """The concatenated products a_0 * k, a_1 * k, ... of a round's public polynomials and one key.

    Args:
        key: (degree,) int64 in (-q, q).
        training_id: SHA-256 of the plan, 64 lower-case hexadecimal digits.
        round_number: the round.
        degree: degree of the ring.
        modulus: the ring's prime modulus q.

    Raises:
        AggregationError: the key is degenerate, or the training or the round malformed.
    """

    def __init__(
        self, key: Int64Array, *, training_id: str, round_number: int, degree: int, modulus: int
    ) -> None:
        self._engine = engine(degree, modulus)
        self._multiplier = None
        if key.any():
            self._multiplier = self._engine.multiplier(self._engine.transform(lift(key, modulus)))
        self._public = partial(
            public_polynomials,
            training_id=training_id,
            round_number=round_number,
            degree=degree,
            modulus=modulus,
        )

    def part(self, start: int, stop: int) -> UInt64Array:
        """Compute a range of the coefficients.

        Args:
            start: first coefficient, a multiple of the degree.
            stop: end of the range, exclusive.

        Returns:
            (stop - start,) uint64 below q.
        """
        degree, batch = self._engine.degree, self._engine.BATCH
        first, last = start // degree, -(-stop // degree)
        out = np.zeros((last - first, degree), dtype=np.uint64)
        if self._multiplier is not None:
            for block in range(first, last, batch):
                public = self._public(first=block, count=min(batch, last - block))
                chosen = slice(block - first, block - first + len(public))
                out[chosen] = self._engine.products(public, self._multiplier)
        return out.reshape(-1)[: stop - start]
