"""The wire format of every scheme's ciphertexts: a header bound to the parameters, then coefficients."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.packing import from_bytes, to_bytes
from fedrec.privacy.aggregation.parameters import SchemeParameters

_MAGIC = b"FRCT"
_VERSION = 1
# magic, version, reserved (0), coefficients, SHA-256 of the parameters; 48 bytes keep the words aligned
_HEADER = struct.Struct("<4sHHQ32s")

UInt64Array = NDArray[np.uint64]


def ciphertext_bytes(parameters: SchemeParameters) -> int:
    """Return the exact length of every ciphertext under these parameters."""
    return _HEADER.size + parameters.body_bytes


def encode(coefficients: UInt64Array, parameters: SchemeParameters) -> bytes:
    """Write (coefficients,) uint64, each below 2**coefficient_bits."""
    header = _HEADER.pack(_MAGIC, _VERSION, 0, parameters.coefficients, parameters.digest())
    return header + to_bytes(coefficients, parameters.coefficient_bits)


def decode(blob: bytes, parameters: SchemeParameters) -> UInt64Array:
    """Read :func:`encode`'s bytes; (coefficients,) uint64, below the modulus where there is one.

    The length is checked before anything else, so that memory is bounded by the parameters. Raises
    ``AggregationError`` for a wrong length, version, parameter hash or coefficient.
    """
    if len(blob) != ciphertext_bytes(parameters):
        raise AggregationError(
            f"a ciphertext of {len(blob)} bytes should have {ciphertext_bytes(parameters)}; refuse its sender"
        )
    magic, version, reserved, count, digest = _HEADER.unpack_from(blob)
    if (magic, version, reserved) != (_MAGIC, _VERSION, 0):
        raise AggregationError(
            "a ciphertext has a wrong header; the sender runs another version or sent rubbish"
        )
    if count != parameters.coefficients or digest != parameters.digest():
        raise AggregationError("a ciphertext was made under other parameters than this training's")
    body = memoryview(blob)[_HEADER.size :]
    coefficients = from_bytes(body, count=count, bits=parameters.coefficient_bits)
    if parameters.modulus is not None and bool((coefficients >= np.uint64(parameters.modulus)).any()):
        raise AggregationError("a ciphertext holds a coefficient outside its ring; refuse its sender")
    return coefficients
