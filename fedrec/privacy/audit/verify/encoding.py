"""Encode and parse canonical JSON and times, verify signatures, and compare numbers."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EXACT = 1e-9
"""Relative tolerance of numbers other than epsilons: float rounding."""


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of a value, to which hashes and signatures apply."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def signed(public: bytes, message: bytes, signature: str, *, context: bytes) -> bool:
    """Return whether an Ed25519 signature (RFC 8032) is valid.

    Args:
        public: the public key, 32 bytes.
        message: the signed bytes.
        signature: 128 hexadecimal digits.
        context: purpose of the signature; it is signed with the message.

    Returns:
        False also if the key or the signature has another form.
    """
    whole = b"fedrec/sign/1" + b"".join(struct.pack("<Q", len(part)) + part for part in (context, message))
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature), whole)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def parsed_by_hash(texts: Sequence[str], *, what: str) -> dict[str, Any]:
    """Return JSON values by the SHA-256 of their texts.

    Args:
        texts: the texts.
        what: what each is, for the message of an error.

    Returns:
        The values.

    Raises:
        ValueError: a text is not JSON; the message says which.
    """
    found = {}
    for number, text in enumerate(texts, 1):
        try:
            found[hashlib.sha256(text.encode()).hexdigest()] = parsed(text)
        except ValueError as error:
            raise ValueError(f"{what} {number} is not JSON: {error}") from None
    return found


def parsed(text: str | bytes) -> Any:
    """Parse JSON without duplicate keys, NaN or infinities; raise ``ValueError`` for anything else."""
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_key_twice)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def utc(text: str) -> datetime:
    """Parse a time of a ledger or bundle.

    Args:
        text: ISO 8601, UTC, in whole seconds.

    Returns:
        The time.

    Raises:
        ValueError: the text has another form.
    """
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() != timedelta(0) or moment.isoformat(timespec="seconds") != text:
        raise ValueError("a time is not UTC in seconds")
    return moment


def close(value: float, other: float, *, within: float = EXACT) -> bool:
    """Return whether two numbers are equal up to rounding.

    Args:
        value: a number.
        other: the other number.
        within: relative tolerance.

    Returns:
        Whether they are equal.
    """
    return math.isclose(value, other, rel_tol=within, abs_tol=1e-300)
