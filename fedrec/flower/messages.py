"""Answer merchants' requests for messages and their replies, in front of Flower's app.

Flower takes a request for each object of a message, and a merchant has to ask again and again whether there
is a message. Here the small objects come with the head, and a merchant's request waits for a message.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.date import now
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError

from fedrec.flower.asgi import BYTES, Asgi, Receive, Scope, Send, send_answer
from fedrec.flower.framing import MOST_HELD_SECONDS, PULL, PUSH, framed, small_ones, unframed
from fedrec.flower.heartbeat_pace import HELD_PART
from fedrec.flower.node_activation import ACTIVATE, DEACTIVATE, HEARTBEAT, FleetCaller, NodeActivation
from fedrec.flower.pending_messages import PendingMessages

CALLER: Final = "fedrec.caller"
"""Where a request's scope holds the caller, whose key was checked."""

_log = logging.getLogger(__name__)


class Messages:
    """Answers what merchants ask for messages and send as replies; everything else goes on to Flower's app.

    A request for messages has the milliseconds that it may wait as its body. The answer is empty where there
    is no message. A request with a reply, and an answer with a message, are bodies of
    :mod:`fedrec.flower.framing`; the objects that aren't in them go one by one, as Flower has it.

    Args:
        app: Flower's app.
        state: Flower's state.
        pending: knows for whom there are messages.
        activation: answers merchants that connect, disconnect or give a sign of life.
    """

    def __init__(
        self, app: Asgi, state: InMemoryLinkState, pending: PendingMessages, activation: NodeActivation
    ) -> None:
        self._app, self._state, self._pending = app, state, pending
        self._activation = activation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that a guard let through, or pass it on."""
        path, caller = scope.get("path"), scope.get(CALLER)
        if scope["type"] != "http" or not isinstance(caller, FleetCaller):
            await self._app(scope, receive, send)
        elif path == PULL:
            await self._pull(caller.node, receive, send)
        elif path == PUSH:
            await send_answer(send, *await asyncio.to_thread(self._push, await _body(receive)))
        elif path in (ACTIVATE, DEACTIVATE, HEARTBEAT):
            answer = self._activation.answer(path, await _body(receive), caller)
            await send_answer(send, answer.status, answer.body, headers=answer.headers)
        else:
            await self._app(scope, receive, send)

    async def _pull(self, node: int, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if not body.isdigit() or len(body) > 5:
            await send_answer(send, 400)
            return
        if self._pending.has_left(node):
            # It is taken for disconnected, and has to connect before it gets anything.
            await send_answer(send, 410)
            return
        most = min(MOST_HELD_SECONDS, HELD_PART * self._activation.sign_of_life(node))
        waiting = asyncio.ensure_future(self._pending.hold(node, min(most, int(body) / 1000)))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            # A message that is taken for a connection that is gone would be lost.
            if not gone.done():
                found = await asyncio.to_thread(self._next, node) if self._pending.has_any(node) else b""
                await send_answer(send, 200, found, headers=(*BYTES, *self._activation.tell(node)))
        finally:
            waiting.cancel()
            gone.cancel()

    def _next(self, node: int) -> bytes:
        """Return the next message for a node, empty if there is none."""
        while (message_id := self._pending.next(node)) is not None:
            found = self._take(message_id, node=node)
            if found:
                return found
        return b""

    def _take(self, message_id: str, *, node: int) -> bytes:
        """Return a message, which counts as delivered from now on; empty if it has expired or is gone."""
        state, store = self._state, self._state.object_store
        with state.lock:
            message = state.message_ins_store.get(message_id)
            if message is None or message.metadata.dst_node_id != node or message.metadata.delivered_at:
                return b""
            if message.metadata.created_at + message.metadata.ttl <= now().timestamp():
                return b""
            message.metadata.delivered_at = now().isoformat()
        try:
            tree = store.get_object_tree(message_id)
        except NoObjectInStoreError:
            return b""
        ids = [part.object_id for part in iterate_object_tree(tree)]
        contents = small_ones(ids, lambda key: store.get(key) or b"")
        head = PullMessagesResponse(messages_list=[message_to_proto(message)], message_object_trees=[tree])
        if len(contents) == len(ids):
            # The merchant confirms only what it has to fetch piece by piece.
            store.delete(message_id)
        return framed(head.SerializeToString(), contents.values())

    def _push(self, body: bytes) -> tuple[int, bytes]:
        """Store a reply and the objects that came with it; return the status and the body of the answer."""
        try:
            head, contents = unframed(body)
            request = PushMessagesRequest()
            request.ParseFromString(head)
            answer = fleet_handlers.push_messages(request, self._state)
            said = request.messages_list[0].metadata
            missing = []
            for key in answer.objects_to_push:
                if key not in contents:
                    missing.append(key)
                    continue
                piece = PushObjectRequest(
                    node=request.node,
                    object_id=key,
                    object_content=contents.pop(key),
                    run_id=said.run_id,
                    session_id=answer.session_id,
                )
                fleet_handlers.push_object(piece, self._state)
            del answer.objects_to_push[:]
            answer.objects_to_push.extend(missing)
        except FlowerError as error:
            # A reply that comes after the run has ended, for one.
            _log.debug("a reply was refused: %s", error)
            return 409, b""
        except (DecodeError, ValueError, KeyError, IndexError, NoObjectInStoreError) as error:
            _log.debug("a reply can't be read: %s", error)
            return 400, b""
        self._pending.reply(said.reply_to_message_id)
        return 200, answer.SerializeToString()


async def _body(receive: Receive) -> bytes:
    """Read a body whose size the guard has checked."""
    parts: list[bytes] = []
    while True:
        event = await receive()
        parts.append(bytes(event.get("body", b"")))
        if not event.get("more_body", False):
            return b"".join(parts)
