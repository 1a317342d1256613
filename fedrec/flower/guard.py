"""ASGI in front of Flower's app: what the public listener lets through, and who may use the private one.

Flower authenticates neither Control nor Runtime, reads a request whole before it asks who sent it, and takes
what a merchant pushes for whatever that says of itself: for an instruction to another merchant, too.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError

from fedrec._internal.text import one_line
from fedrec.flower.admission import Admitted, Caller, caller_of
from fedrec.flower.door import Door
from fedrec.flower.objects import check_tree

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

FLEET, HEALTH, PUSH, OBJECT = "/v1/fleet/", "/health", "/v1/fleet/push-messages", "/v1/fleet/push-object"
MAX_REQUEST_BYTES = 32 * 2**20
"""Of an object: the largest is a body with its small blobs; arrays travel in pieces of 5 MiB."""
MAX_PUSH_BYTES = 128 * 2**10
"""Of a message's head and the tree of its objects: 70 bytes each, two for every 5 MiB."""
MAX_OTHER_BYTES = 16 * 2**10
"""Of all other requests: a key and a few numbers."""
MAX_HELD_BYTES = 2**29
"""Of all requests together that are being read or answered, and of those of one key."""
MAX_HELD_BYTES_PER_KEY = 2**26
MAX_REQUESTS_PER_KEY = 64
"""Under way at once; a merchant has a heartbeat, and as many pushes at once as Flower makes."""
BODY_SECONDS = 120.0
"""How long a request may wait for room and its body take to arrive."""
_SUPERLINK = 1
"""Flower's number of its own node."""
_ROOM_PAUSE = 0.02

SECRET_HEADER = "x-fedrec-secret"  # noqa: S105 (the header's name)


class Guard:
    """Fleet passes for admitted keys, health for all; every refusal is reported, Flower's own too.

    ``admitted`` gives the node number of a key, ``on_refusal`` is told address and path. A request to Fleet
    is answered, nothing of its body read, with 401 where its headers don't show an admitted key and a time
    that it signed; 411 where it doesn't say its size; 413 where that is more than such a request can have;
    429 where the key has too many under way, or opens too many connections. It then waits until there is room
    for it, of its key's and of all; 408 or 503 is the answer where the body or the room doesn't come. A
    message that is pushed must be a reply, from the caller's own node; any other is told 403. Everything else
    is, too.
    """

    def __init__(
        self,
        app: Asgi,
        *,
        admitted: Admitted,
        on_refusal: Callable[[str, str], None],
        door: Door | None = None,
    ) -> None:
        self._app = app
        self._admitted = admitted
        self._on_refusal = on_refusal
        self._door = door or Door()
        self._requests: Counter[bytes] = Counter()
        self._held: Counter[bytes] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        # Decoded, it may hold line ends: whoever reports it writes it into a log.
        path = one_line(scope.get("path", ""))
        if path == HEALTH:
            await self._app(scope, _replay([]), self._watched(scope, send, path))
        elif path.startswith(FLEET):
            await self._fleet(scope, receive, send, path)
        else:
            await self._refuse(scope, send, 403, path)

    async def _fleet(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        headers = scope.get("headers", ())
        caller = caller_of(headers, admitted=self._admitted)
        if caller is None:
            await self._refuse(scope, send, 401, f"{path} ({_TURNED_AWAY[401]})")
            return
        host, port = scope.get("client") or ("unknown", 0)
        client = (str(host), int(port))
        status, length = _length(headers, most=_MOST.get(path, MAX_OTHER_BYTES))
        if not self._door.recognise(client, caller.key) or self._requests[caller.key] >= MAX_REQUESTS_PER_KEY:
            status = 429
        if status is not None:
            await self._refuse(scope, send, status, f"{path} ({_TOLD[status]})")
            return
        self._door.begin(client)
        self._requests[caller.key] += 1
        try:
            await self._admitted_request(scope, receive, send, path, caller=caller, length=length)
        finally:
            self._door.end(client)
            _less(self._requests, caller.key, 1)

    async def _admitted_request(
        self, scope: Scope, receive: Receive, send: Send, path: str, *, caller: Caller, length: int
    ) -> None:
        held = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while not self._has_room(caller.key, length):
                    await asyncio.sleep(_ROOM_PAUSE)
                held = length
                self._held[caller.key] += held
                parts, status = await _read(receive, length)
        except TimeoutError:
            parts, status = [], 408 if held else 503
        try:
            if status is None and path == PUSH and not _is_own_reply(b"".join(parts), node=caller.node):
                status = 403
            if status is not None:
                await self._refuse(scope, send, status, f"{path} ({_TOLD[status]})")
                return
            await self._app(scope, _replay(parts, receive), self._watched(scope, send, path))
        finally:
            _less(self._held, caller.key, held)

    def _has_room(self, key: bytes, length: int) -> bool:
        """Say whether a body of this length may be read; strangers hold nothing, all room is merchants'."""
        total = self._held.total()
        return total + length <= MAX_HELD_BYTES and self._held[key] + length <= MAX_HELD_BYTES_PER_KEY

    def _watched(self, scope: Scope, send: Send, path: str) -> Send:
        """Return a ``send`` that reports it when Flower itself turns the request away."""

        async def watched(event: MutableMapping[str, Any]) -> None:
            if event["type"] == "http.response.start" and event["status"] in _TURNED_AWAY:
                self._report(scope, f"{path} ({_TURNED_AWAY[event['status']]})")
            await send(event)

        return watched

    async def _refuse(self, scope: Scope, send: Send, status: int, what: str) -> None:
        self._report(scope, what)
        await _answer(send, status)

    def _report(self, scope: Scope, what: str) -> None:
        client = scope.get("client") or ("unknown", 0)
        self._on_refusal(str(client[0]), what)


_MOST = {OBJECT: MAX_REQUEST_BYTES, PUSH: MAX_PUSH_BYTES}
_TURNED_AWAY = dict.fromkeys((401, 403), "a key that is not admitted, or a clock that is off") | {
    412: "a key that is not admitted, or one whose last connection is still held"
}
_TOLD = {
    403: "a message that is no reply from the caller's node",
    408: "its body did not come",
    411: "it does not say its size",
    413: "too large",
    429: "too many requests or connections of one key",
    503: "too much is being read",
}


def _length(headers: Any, *, most: int) -> tuple[int | None, int]:
    """Return the size that a request says its body has, and the status to refuse it with or None."""
    found = [value for name, value in headers if name == b"content-length"]
    if len(found) != 1:
        return 411, 0
    if not found[0].isdigit() or len(found[0]) > 12 or int(found[0]) > most:
        return 413, 0
    return None, int(found[0])


async def _read(receive: Receive, length: int) -> tuple[list[bytes], int | None]:
    """Return a body in the parts in which it came, and the status to refuse it with or None."""
    parts: list[bytes] = []
    left = length
    more = True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            return [], 408
        part = bytes(event.get("body", b""))
        left -= len(part)
        if left < 0:
            return [], 413
        parts.append(part)
        more = bool(event.get("more_body", False))
    return parts, None


def _is_own_reply(body: bytes, *, node: int) -> bool:
    """Say whether what is pushed is one reply from this node to the server.

    That the message that it answers was addressed to this node is held against it by Flower, which compares
    the two; without the name of such a message, Flower would take it for an instruction to ``dst_node_id``.
    """
    try:
        pushed = PushMessagesRequest()
        pushed.ParseFromString(body)
    except DecodeError:
        return False
    if len(pushed.messages_list) != 1 or len(pushed.message_object_trees) != 1:
        return False
    try:
        check_tree(pushed.message_object_trees[0])
    except ValueError:
        return False
    said = pushed.messages_list[0].metadata
    return bool(
        said.reply_to_message_id
        and said.src_node_id == pushed.node.node_id == node
        and said.dst_node_id == _SUPERLINK
    )


def _less(counted: Counter[bytes], key: bytes, by: int) -> None:
    counted[key] -= by
    if not counted[key]:
        del counted[key]


class OnlyWithSecret:
    """Lets requests with this process's secret through: other users of the machine reach loopback, too."""

    def __init__(self, app: Asgi, *, secret: str) -> None:
        self._app = app
        self._secret = secret.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            given = dict(scope.get("headers", ())).get(SECRET_HEADER.encode("ascii"), b"")
            if not hmac.compare_digest(given, self._secret):
                await _answer(send, 403)
                return
        elif scope["type"] != "lifespan":
            return
        await self._app(scope, receive, send)


async def _answer(send: Send, status: int) -> None:
    """Answer, and end the connection: the rest of a body that isn't read would be another request."""
    headers = [(b"connection", b"close"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _replay(parts: list[bytes], receive: Receive | None = None) -> Receive:
    """Return a ``receive`` that gives a body that was read, part by part, then what comes after it."""
    left = list(reversed(parts)) or [b""]

    async def replay() -> MutableMapping[str, Any]:
        if left:
            part = left.pop()
            return {"type": "http.request", "body": part, "more_body": bool(left)}
        if receive is None:
            return {"type": "http.disconnect"}
        return await receive()

    return replay
