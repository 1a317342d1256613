"""Bytes to values: one encoding, one meaning, signatures and times."""

from __future__ import annotations

import json
import math
import struct
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EXACT = 1e-9
"""How far other figures may lie from what they follow from: the rounding of floats."""


def canonical(value: Any) -> bytes:
    """The one encoding that hashes and signatures are over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def signed(public: bytes, message: bytes, signature: str, *, context: bytes) -> bool:
    """Whether an Ed25519 signature of 128 hexadecimal digits holds for a message in a context."""
    whole = b"fedrec/sign/1" + b"".join(struct.pack("<Q", len(part)) + part for part in (context, message))
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature), whole)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def parsed(text: str | bytes) -> Any:
    """Read JSON that says one thing only: no key twice, no NaN; ``ValueError`` for anything else."""
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_key_twice)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def utc(text: str) -> datetime:
    """A time as it is written in ledgers and bundles; ``ValueError`` for any other form."""
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() != timedelta(0) or moment.isoformat(timespec="seconds") != text:
        raise ValueError("a time is not UTC in seconds")
    return moment


def close(value: float, other: float, *, within: float = EXACT) -> bool:
    """Whether two figures are the same but for the rounding of floats."""
    return math.isclose(value, other, rel_tol=within, abs_tol=1e-300)
