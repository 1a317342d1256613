"""Authenticate a request to Fleet by its headers alone, before its body is read."""

from __future__ import annotations

import binascii
import datetime
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    public_key_to_bytes,
    sign_message,
    verify_signature,
)

Headers = Iterable[tuple[bytes, bytes]]
Admitted = Callable[[bytes], int | None]
"""Returns the node number of an admitted public key (PEM as Flower writes it), None for any other key."""

_WANTED = {
    name.lower().encode("ascii")
    for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)
}
_LONGEST_HEADER = 2048


@dataclass(frozen=True)
class Caller:
    """An admitted key, and its node number."""

    key: bytes
    node: int


def caller_of(headers: Headers, *, admitted: Admitted) -> Caller | None:
    """Identify the caller that signed the timestamp in a request's headers.

    Flower makes the same check once it has the body. A key that is not admitted costs a look-up, but no
    verification of a signature.

    Args:
        headers: names, in lower case, and values of the request's headers.
        admitted: looks up the node number of an admitted key.

    Returns:
        The caller; None if its key is not admitted, the signature is wrong or the timestamp is too far off.
    """
    found = {name: value for name, value in headers if name in _WANTED and len(value) <= _LONGEST_HEADER}
    try:
        key = b64decode(found[FLEET_HTTP_PUBLIC_KEY_HEADER.encode("ascii")], validate=True)
        node = admitted(key)
        if node is None:
            return None
        signature = b64decode(found[FLEET_HTTP_SIGNATURE_HEADER.encode("ascii")], validate=True)
        timestamp = found[TIMESTAMP_HEADER.encode("ascii")].decode("ascii")
        age = (now() - datetime.datetime.fromisoformat(timestamp)).total_seconds()
        if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
            return None
        if not verify_signature(_public_key(key), timestamp.encode("ascii"), signature):
            return None
    except (KeyError, ValueError, TypeError, OverflowError, binascii.Error):
        return None
    return Caller(key=key, node=node)


def signed_headers(key: ec.EllipticCurvePrivateKey, *, at: datetime.datetime) -> dict[str, str]:
    """Return the headers that :func:`caller_of` accepts: the public key and a signed timestamp.

    Args:
        key: the caller's key.
        at: the server's time.

    Returns:
        The headers.
    """
    timestamp = at.isoformat()
    signature = sign_message(key, timestamp.encode("ascii"))
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode("ascii"),
        TIMESTAMP_HEADER: timestamp,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature).decode("ascii"),
    }


@lru_cache(maxsize=2048)
def _public_key(key: bytes) -> ec.EllipticCurvePublicKey:
    return bytes_to_public_key(key)
