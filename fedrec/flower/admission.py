"""Who sends a request to Fleet: told from its headers alone, before anything of its body is read."""

from __future__ import annotations

import binascii
import datetime
from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

Headers = Iterable[tuple[bytes, bytes]]
Admitted = Callable[[bytes], int | None]
"""The node number of a public key (PEM as Flower writes it) that is admitted; None for another."""

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
    """Return who signed the time in a request's headers; None for a stranger, or a time that is off.

    It is the check that Flower makes once it has the body. A key that isn't admitted costs a look-up, no
    signature's check.
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


@lru_cache(maxsize=2048)
def _public_key(key: bytes) -> ec.EllipticCurvePublicKey:
    return bytes_to_public_key(key)
