"""Filter requests in front of Flower's ASGI app, on the public and on the private listener.

Flower authenticates neither Control nor Runtime. It reads a whole request before it authenticates the sender.
It accepts any message that a merchant pushes, even an instruction to another merchant.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError

from fedrec._internal.text import one_line
from fedrec.flower.admission import Admitted, Caller, caller_of
from fedrec.flower.asgi import Asgi, Receive, Scope, Send, send_answer
from fedrec.flower.connection_limits import ConnectionLimits
from fedrec.flower.downloads import MOST_PER_KEY, Downloads, send_download
from fedrec.flower.framing import MOST_FRAMED_BYTES, PUSH, parts_of
from fedrec.flower.messages import CALLER
from fedrec.flower.node_activation import ACTIVATE, DEACTIVATE, FleetCaller
from fedrec.flower.objects import check_tree
from fedrec.protocol.bundle_offer import MODELS

FLEET, HEALTH = "/v1/fleet/", "/health"
OBJECT = "/v1/fleet/push-object"
MAX_REQUEST_BYTES = 32 * 2**20
"""Most bytes of an object; the largest is a body with its small blobs. Arrays come in pieces of 5 MiB."""
MAX_PUSH_BYTES = MOST_FRAMED_BYTES
"""Most bytes of a message's head with its small objects."""
MAX_OTHER_BYTES = 16 * 2**10
"""Most bytes of any other request: a key and a few numbers."""
MAX_HELD_BYTES = 2**29
"""Most bytes of all requests that are being read or answered."""
MAX_HELD_BYTES_PER_KEY = 2**26
"""Most of these of one key."""
MAX_REQUESTS_PER_KEY = 64
"""Most concurrent requests of one key: a heartbeat, and the parallel pushes of Flower."""
BODY_SECONDS = 120.0
"""Time limit for a request to wait for memory and to send its body."""
_SUPERLINK = 1
"""Flower's number of its own node."""
_ROOM_PAUSE = 0.02

SECRET_HEADER = "x-fedrec-secret"  # noqa: S105 (the header's name)


@dataclass(frozen=True)
class FleetRequest:
    """An authenticated request to Fleet.

    Attributes:
        key: the key that it shows.
        leaves: whether its sender disconnects with it.
        round_trip: seconds that a packet to the sender and back takes, None where that isn't known.
    """

    key: bytes
    leaves: bool
    round_trip: float | None


class Guard:
    """Pass Fleet requests of admitted keys and all health requests; report every refusal, also Flower's own.

    Requests for a model are answered here, to admitted keys alone. A request to Fleet or for a model is
    refused before its body is read with status

    - 401 if its headers contain no admitted key and no timestamp signed by it;
    - 411 if it has no Content-Length;
    - 413 if its size exceeds the limit for its path;
    - 429 if its key has too many concurrent requests or opens too many connections.

    It then waits until the limits on memory, of its key and of all, leave room for it. The status is 503 if
    there is no room in time, 408 if the body doesn't arrive in time. It is 403 for a pushed message that is
    not a reply from the caller's own node, and for any other path; 404 for a model that the key may not have.

    Args:
        app: Flower's app.
        admitted: looks up the node number of an admitted key.
        on_refusal: called with the address and the path of every refused request.
        connections: counts the connections; by default a new one.
        downloads: answers requests for models; by default there are none.
        on_seen: called with every request to Fleet that is let through.
    """

    def __init__(
        self,
        app: Asgi,
        *,
        admitted: Admitted,
        on_refusal: Callable[[str, str], None],
        connections: ConnectionLimits | None = None,
        downloads: Downloads = lambda key, path: None,
        on_seen: Callable[[FleetRequest], None] = lambda request: None,
    ) -> None:
        self._app = app
        self._admitted = admitted
        self._on_refusal = on_refusal
        self._connections = connections or ConnectionLimits()
        self._downloads = downloads
        self._on_seen = on_seen
        self._requests: Counter[bytes] = Counter()
        self._downloading: Counter[bytes] = Counter()
        self._held: Counter[bytes] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        # The decoded path may contain line ends; reports write it to a log.
        path = one_line(scope.get("path", ""))
        if path == HEALTH:
            await self._app(scope, _replay([]), self._watched(scope, send, path))
        elif path.startswith((FLEET, MODELS)):
            await self._fleet(scope, receive, send, path)
        else:
            await self._refuse(scope, send, 403, path)

    async def _fleet(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        headers = scope.get("headers", ())
        caller = caller_of(headers, admitted=self._admitted)
        if caller is None:
            await self._refuse(scope, send, 401, f"{path} ({_TURNED_AWAY[401]})")
            return
        client = _client(scope)
        status, length = _length(headers, most=_MOST.get(path, MAX_OTHER_BYTES))
        if (
            not self._connections.recognise(client, caller.key)
            or self._requests[caller.key] >= MAX_REQUESTS_PER_KEY
        ):
            status = 429
        if status is not None:
            await self._refuse(scope, send, status, f"{path} ({_TOLD[status]})")
            return
        if path.startswith(FLEET):
            trip = self._connections.round_trip(client)
            self._on_seen(FleetRequest(key=caller.key, leaves=path == DEACTIVATE, round_trip=trip))
        self._connections.begin(client)
        self._requests[caller.key] += 1
        try:
            await self._admitted_request(scope, receive, send, path, caller=caller, length=length)
        finally:
            self._connections.end(client)
            _less(self._requests, caller.key, 1)

    async def _admitted_request(
        self, scope: Scope, receive: Receive, send: Send, path: str, *, caller: Caller, length: int
    ) -> None:
        held = 0
        try:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    while not self._has_room(caller.key, length):
                        await asyncio.sleep(_ROOM_PAUSE)
                    held = length
                    self._held[caller.key] += held
                    parts, status = await _read(receive, length)
            except TimeoutError:
                parts, status = [], 408 if held else 503
            if status is None and path == PUSH and not _is_own_reply(b"".join(parts), node=caller.node):
                status = 403
            if status is not None:
                await self._refuse(scope, send, status, f"{path} ({_TOLD[status]})")
                return
            if path.startswith(MODELS):
                await self._download(scope, send, path, key=caller.key)
                return
            alone = path == ACTIVATE and self._connections.is_alone(_client(scope))
            scope = {**scope, CALLER: FleetCaller(key=caller.key, node=caller.node, is_alone=alone)}
            await self._app(scope, _replay(parts, receive), self._watched(scope, send, path))
        finally:
            _less(self._held, caller.key, held)

    async def _download(self, scope: Scope, send: Send, path: str, *, key: bytes) -> None:
        if self._downloading[key] >= MOST_PER_KEY:
            await self._refuse(scope, send, 429, f"{path} ({_TOLD[429]})")
            return
        self._downloading[key] += 1
        try:
            found = await asyncio.to_thread(self._downloads, key, path)
            if found is None:
                await self._refuse(scope, send, 404, f"{path} ({_TOLD[404]})")
            else:
                await send_download(send, found)
        finally:
            _less(self._downloading, key, 1)

    def _has_room(self, key: bytes, length: int) -> bool:
        """Test whether there is memory for a body of this length; unauthenticated clients use none of it."""
        total = self._held.total()
        return total + length <= MAX_HELD_BYTES and self._held[key] + length <= MAX_HELD_BYTES_PER_KEY

    def _watched(self, scope: Scope, send: Send, path: str) -> Send:
        """Return a ``send`` that also reports refusals by Flower itself."""

        async def watched(event: MutableMapping[str, Any]) -> None:
            if event["type"] == "http.response.start" and event["status"] in _TURNED_AWAY:
                self._report(scope, f"{path} ({_TURNED_AWAY[event['status']]})")
            await send(event)

        return watched

    async def _refuse(self, scope: Scope, send: Send, status: int, what: str) -> None:
        self._report(scope, what)
        await _close(send, status)

    def _report(self, scope: Scope, what: str) -> None:
        self._on_refusal(_client(scope)[0], what)


_MOST = {OBJECT: MAX_REQUEST_BYTES, PUSH: MAX_PUSH_BYTES}
_TURNED_AWAY = dict.fromkeys((401, 403), "a key that is not admitted, or a clock that is off") | {
    412: "a key that is not admitted, or one whose last connection is still held"
}
_TOLD = {
    403: "a message that is not a reply from the caller's node",
    404: "no model that this key may have",
    408: "its body did not arrive",
    411: "it has no Content-Length",
    413: "too large",
    429: "too many requests or connections of one key",
    503: "too many bytes are being read",
}


def _client(scope: Scope) -> tuple[str, int]:
    host, port = scope.get("client") or ("unknown", 0)
    return str(host), int(port)


def _length(headers: Any, *, most: int) -> tuple[int | None, int]:
    """Return the status of a refusal (None to accept), and the stated size of a request's body."""
    found = [value for name, value in headers if name == b"content-length"]
    if len(found) != 1:
        return 411, 0
    if not found[0].isdigit() or len(found[0]) > 12 or int(found[0]) > most:
        return 413, 0
    return None, int(found[0])


async def _read(receive: Receive, length: int) -> tuple[list[bytes], int | None]:
    """Read a body; return its parts as they arrived, and the status of a refusal (None to accept)."""
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
    """Test whether a pushed message is one reply from this node to the server.

    Flower itself checks that the message that it replies to was addressed to this node. Without the id of
    such a message, Flower would deliver it as an instruction to ``dst_node_id``.

    Returns:
        Whether the message may be forwarded.
    """
    try:
        pushed = PushMessagesRequest()
        pushed.ParseFromString(parts_of(body)[0])
    except (DecodeError, ValueError):
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
    """Forward only requests with this process's secret: other users of the machine can reach loopback too."""

    def __init__(self, app: Asgi, *, secret: str) -> None:
        self._app = app
        self._secret = secret.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request or refuse it."""
        if scope["type"] == "http":
            given = dict(scope.get("headers", ())).get(SECRET_HEADER.encode("ascii"), b"")
            if not hmac.compare_digest(given, self._secret):
                await _close(send, 403)
                return
        elif scope["type"] != "lifespan":
            return
        await self._app(scope, receive, send)


async def _close(send: Send, status: int) -> None:
    """Answer and close the connection: the unread rest of a body would be parsed as another request."""
    await send_answer(send, status, headers=[(b"connection", b"close")])


def _replay(parts: list[bytes], receive: Receive | None = None) -> Receive:
    """Return a ``receive`` that replays a body part by part, then continues with ``receive``."""
    left = list(reversed(parts)) or [b""]

    async def replay() -> MutableMapping[str, Any]:
        if left:
            part = left.pop()
            return {"type": "http.request", "body": part, "more_body": bool(left)}
        if receive is None:
            return {"type": "http.disconnect"}
        return await receive()

    return replay
