"""Requests to Fleet as a merchant's client makes them, to be held against the guard without a network."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import MutableMapping
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.date import now

from fedrec.flower.framing import framed
from tests.support.daemons import public_pem

KEY = ec.generate_private_key(ec.SECP384R1())
NODE = 7
CLIENT = ("198.51.100.7", 4)
Headers = tuple[tuple[bytes, bytes], ...]


def admitted(key: bytes) -> int | None:
    """One key is."""
    return NODE if key == public_pem(KEY) else None


def signed_headers(key: ec.EllipticCurvePrivateKey = KEY, *, at: datetime | None = None) -> Headers:
    """What a SuperNode shows: its key, the time, and its signature of that (as Flower's interceptor does)."""
    said = (at or now()).isoformat().encode("ascii")
    return (
        (b"flwr-public-key", b64encode(public_pem(key))),
        (b"flwr-timestamp", said),
        (b"flwr-signature", b64encode(key.sign(said, ec.ECDSA(hashes.SHA256())))),
    )


def pushed(**changes: Any) -> bytes:
    """A push of one reply from node 7; keyword arguments replace its metadata."""
    said: dict[str, Any] = {"src_node_id": NODE, "dst_node_id": 1, "reply_to_message_id": "a" * 64}
    given = changes.pop("tree", ObjectTree(object_id="b" * 64))
    head = Message(metadata=Metadata(**(said | changes)))
    request = PushMessagesRequest(node=Node(node_id=NODE), messages_list=[head], message_object_trees=[given])
    return framed(request.SerializeToString(), ())


class Call:
    """One request to an ASGI app, and what came of it."""

    def __init__(
        self, *, body: tuple[bytes, ...] = (), headers: Headers | None = None, length: bytes | None = None
    ) -> None:
        self.parts = list(body)
        own = signed_headers() if headers is None else headers
        size = b"%d" % sum(map(len, body)) if length is None else length
        self.headers = (*own, (b"content-length", size)) if size else own
        self.taken = 0
        self.status = 0

    async def receive(self) -> MutableMapping[str, Any]:
        self.taken += 1
        if not self.parts and self.taken > 1:
            await asyncio.sleep(3600)
        part = self.parts.pop(0) if self.parts else b""
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, event: MutableMapping[str, Any]) -> None:
        self.status = event.get("status", self.status)

    def scope(self, path: str, client: tuple[str, int] = CLIENT) -> dict[str, Any]:
        return {"type": "http", "path": path, "headers": self.headers, "client": client}

    def to(self, app: Any, path: str = "/v1/fleet/pull-messages") -> int:
        asyncio.run(app(self.scope(path), self.receive, self.send))
        return self.status
