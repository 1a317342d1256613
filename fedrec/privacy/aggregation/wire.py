"""The wire format of ciphertexts, keys and sums: a header bound to the parameters, then packed words."""

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
    """Return the exact length of ``count`` words of ``bits`` bits with their header."""
    return _HEADER.size + packed_bytes(count, bits)


def ciphertext_bytes(parameters: PublicParameters) -> int:
    """Return the exact length of every ciphertext under these parameters."""
    return framed_bytes(count=parameters.coefficients, bits=parameters.coefficient_bits)


def frame(kind: bytes, words: UInt64Array, *, bits: int, parameters: PublicParameters) -> bytes:
    """Write (count,) uint64, each below 2**bits, count in whole groups."""
    return _HEADER.pack(kind, _VERSION, 0, words.size, parameters.digest()) + to_bytes(words, bits)


def unframe(
    kind: bytes, blob: bytes, *, count: int, bits: int, parameters: PublicParameters, modulus: int | None
) -> UInt64Array:
    """Read :func:`frame`'s bytes; (count,) uint64, below the modulus where one is given.

    The length is checked before anything else, so that memory is bounded by the parameters. Raises
    ``AggregationError`` for a wrong length, version, parameter hash or coefficient.
    """
    name, expected = _NAMES[kind], framed_bytes(count=count, bits=bits)
    if len(blob) != expected:
        raise AggregationError(f"a {name} of {len(blob)} bytes should have {expected}; refuse its sender")
    magic, version, reserved, stated, digest = _HEADER.unpack_from(blob)
    if (magic, version, reserved) != (kind, _VERSION, 0):
        raise AggregationError(
            f"a {name} has a wrong header; the sender runs another version or sent rubbish"
        )
    if stated != count or digest != parameters.digest():
        raise AggregationError(f"a {name} was made under other parameters than this training's")
    words = from_bytes(memoryview(blob)[_HEADER.size :], count=count, bits=bits)
    if modulus is not None and bool((words >= np.uint64(modulus)).any()):
        raise AggregationError(f"a {name} holds a coefficient outside its ring; refuse its sender")
    return words


def encode(coefficients: UInt64Array, parameters: PublicParameters) -> bytes:
    """Write a ciphertext: (coefficients,) uint64, each below 2**coefficient_bits."""
    return frame(CIPHERTEXT, coefficients, bits=parameters.coefficient_bits, parameters=parameters)


def decode(blob: bytes, parameters: PublicParameters) -> UInt64Array:
    """Read a ciphertext; see :func:`unframe`. One of a ring that is zero throughout is refused too.

    An honest one is uniform; zero would stand for a merchant that hid nothing, or gave nothing.
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
