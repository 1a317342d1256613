"""Encode what an Ed25519 signature of this package covers."""

from __future__ import annotations

import struct

_DOMAIN = b"fedrec/sign/1"


def signed_bytes(message: bytes, *, context: bytes) -> bytes:
    """Join domain, context and message, length-prefixed, so that no two pairs encode alike.

    Args:
        message: any bytes.
        context: name of the purpose.

    Returns:
        The bytes to sign.
    """
    return _DOMAIN + struct.pack("<Q", len(context)) + context + struct.pack("<Q", len(message)) + message
