"""Encode and decode ciphertexts, keys and sums: a header with the parameters' digest, then packed words."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.packing import from_bytes, packed_bytes, to_bytes
from fedrec.privacy.aggregation.parameters import PublicParameters

_VERSION = 1
# magic, version, reserved (0), coefficients, SHA-256 of the parameters; 48 bytes keep the words aligned
_HEADER = struct.Struct("<4sHHQ32s")

CIPHERTEXT = b"FRCT"
PUBLIC_KEY = b"FRPK"
PRIVATE_KEY = b"FRSK"
SUM = b"FRSM"
_NAMES = {CIPHERTEXT: "ciphertext", PUBLIC_KEY: "public key", PRIVATE_KEY: "private key", SUM: "sum"}

UInt64Array = NDArray[np.uint64]


def framed_bytes(*, count: int, bits: int) -> int:
    """Compute the length of an encoding.

    Args:
        count: number of words, a multiple of ``packing.GROUP``.
        bits: bits per word.

    Returns:
        The exact length in bytes, with the header.
    """
    return _HEADER.size + packed_bytes(count, bits)


def ciphertext_bytes(parameters: PublicParameters) -> int:
    """Return the exact length in bytes of every ciphertext under these parameters."""
    return framed_bytes(count=parameters.coefficients, bits=parameters.coefficient_bits)


def frame(kind: bytes, words: UInt64Array, *, bits: int, parameters: PublicParameters) -> bytes:
    """Encode words.

    Args:
        kind: magic bytes of the kind of content.
        words: (count,) uint64 below 2**bits; count is a multiple of ``packing.GROUP``.
        bits: bits per word.
        parameters: the parameters that the encoding is bound to.

    Returns:
        The header and the packed words.
    """
    return _HEADER.pack(kind, _VERSION, 0, words.size, parameters.digest()) + to_bytes(words, bits)


def unframe(
    kind: bytes, blob: bytes, *, count: int, bits: int, parameters: PublicParameters, modulus: int | None
) -> UInt64Array:
    """Decode the result of :func:`frame`.

    The length is checked first, so that the parameters bound the memory.

    Args:
        kind: magic bytes of the kind of content.
        blob: the bytes, from an untrusted party.
        count: number of words.
        bits: bits per word.
        parameters: the parameters that the encoding must be bound to.
        modulus: bound on the words; None for no bound.

    Returns:
        (count,) uint64.

    Raises:
        AggregationError: the length, the version, the parameters' digest or a word is wrong.
    """
    name, expected = _NAMES[kind], framed_bytes(count=count, bits=bits)
    if len(blob) != expected:
        raise AggregationError(f"a {name} of {len(blob)} bytes should have {expected}; refuse its sender")
    magic, version, reserved, stated, digest = _HEADER.unpack_from(blob)
    if (magic, version, reserved) != (kind, _VERSION, 0):
        raise AggregationError(
            f"a {name} has a wrong header; the sender runs another version or sent invalid data"
        )
    if stated != count or digest != parameters.digest():
        raise AggregationError(f"a {name} was made under other parameters than this training's")
    words = from_bytes(memoryview(blob)[_HEADER.size :], count=count, bits=bits)
    if modulus is not None and bool((words >= np.uint64(modulus)).any()):
        raise AggregationError(f"a {name} holds a coefficient outside its ring; refuse its sender")
    return words


def encode(coefficients: UInt64Array, parameters: PublicParameters) -> bytes:
    """Encode a ciphertext.

    Args:
        coefficients: uint64 below 2**coefficient_bits.
        parameters: the training's parameters.

    Returns:
        The bytes.
    """
    return frame(CIPHERTEXT, coefficients, bits=parameters.coefficient_bits, parameters=parameters)


def decode(blob: bytes, parameters: PublicParameters) -> UInt64Array:
    """Decode a ciphertext.

    In a ring an honest ciphertext is uniform; an all-zero one comes from a merchant that encrypted nothing.

    Args:
        blob: the bytes, from an untrusted party.
        parameters: the training's parameters.

    Returns:
        (coefficients,) uint64, below the modulus if there is a ring.

    Raises:
        AggregationError: :func:`unframe` refuses it, or there is a ring and all coefficients are zero.
    """
    coefficients = unframe(
        CIPHERTEXT,
        blob,
        count=parameters.coefficients,
        bits=parameters.coefficient_bits,
        parameters=parameters,
        modulus=parameters.modulus,
    )
    if parameters.modulus is not None and not coefficients.any():
        raise AggregationError("a ciphertext is zero throughout; refuse its sender")
    return coefficients
