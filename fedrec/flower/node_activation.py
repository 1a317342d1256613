"""Answer merchants that connect, disconnect or give a sign of life, from the SuperLink's state.

Flower's app takes several times as long for each of these requests, and checks the signature again.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Final

from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.error import ApiErrorCode
from google.protobuf.message import DecodeError

from fedrec.flower.heartbeat_pace import PACE_HEADER, HeartbeatPace
from fedrec.flower.pending_messages import PendingMessages

ACTIVATE, DEACTIVATE, HEARTBEAT = (
    "/v1/fleet/activate-node",
    "/v1/fleet/deactivate-node",
    "/v1/fleet/send-node-heartbeat",
)
_HELD: Final = {
    "code": int(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED),
    "detail": "the last connection of this key is still held",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FleetCaller:
    """Who sends a request, as the guard found by its signature.

    Attributes:
        key: the admitted key.
        node: its node number.
        is_alone: whether the key has no other open connection.
    """

    key: bytes
    node: int
    is_alone: bool


@dataclass(frozen=True)
class Answer:
    """An answer: its HTTP status, its body, and headers beside its length."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/protobuf"),)


class NodeActivation:
    """Lets merchants in, and keeps which are connected.

    A merchant whose last connection was cut comes in again at once: it has proved its key, and none of its
    earlier connections is open. While one is, another process with the same key is refused: it may be a copy
    of the merchant's folder, whose ledger doesn't know what the other one spends.

    Args:
        state: the SuperLink's state.
        pending: is told who comes and goes.
        pace: decides when merchants give signs of life, and when they may come in.
    """

    def __init__(self, state: InMemoryLinkState, pending: PendingMessages, pace: HeartbeatPace) -> None:
        self._state, self._pending, self._pace = state, pending, pace

    def answer(self, path: str, body: bytes, caller: FleetCaller) -> Answer:
        """Answer a request.

        Args:
            path: one of ``ACTIVATE``, ``DEACTIVATE`` and ``HEARTBEAT``.
            body: its body, from an untrusted party.
            caller: who sends it.

        Returns:
            The answer: 401 for a request in another's name, 412 while the key's last connection is held, 503
            with the time to come again while the server is too busy.
        """
        try:
            if path == ACTIVATE:
                enters = ActivateNodeRequest()
                enters.ParseFromString(body)
                return self._enter(enters, caller)
            if path == DEACTIVATE:
                leaves = DeactivateNodeRequest()
                leaves.ParseFromString(body)
                return self._leave(leaves, caller)
            beats = SendNodeHeartbeatRequest()
            beats.ParseFromString(body)
            return self._beat(beats, caller)
        except DecodeError:
            return Answer(400)

    def sign_of_life(self, node: int) -> float:
        """Record a sign of life by the interval that a node was told last; return that interval."""
        seconds = self._pace.told(node)
        if not self._pending.has_left(node):
            self._state.acknowledge_node_heartbeat(node, seconds)
        return seconds

    def tell(self, node: int) -> tuple[tuple[bytes, bytes], ...]:
        """Return the header that tells a node its interval; it counts as connected for two of them."""
        if self._pending.has_left(node):
            return ()
        seconds = self._pace.tell(node)
        self._state.acknowledge_node_heartbeat(node, seconds)
        return ((PACE_HEADER.encode("ascii"), b"%.1f" % seconds),)

    def _enter(self, request: ActivateNodeRequest, caller: FleetCaller) -> Answer:
        node = caller.node
        if request.public_key != caller.key:
            return Answer(401)
        busy = self._pace.seconds_until_entry()
        if busy:
            return Answer(503, headers=((b"retry-after", b"%d" % busy),))
        if not self._state.activate_node(node, self._pace.told(node)):
            if not caller.is_alone:
                return Answer(412, json.dumps(_HELD).encode("ascii"))
            self._state.deactivate_node(node)
            if not self._state.activate_node(node, self._pace.told(node)):
                return Answer(412, json.dumps(_HELD).encode("ascii"))
            _log.debug("node %d has come in again, without its last connection", node)
        self._pending.enter(node)
        return self._said(ActivateNodeResponse(node_id=node).SerializeToString(), node)

    def _leave(self, request: DeactivateNodeRequest, caller: FleetCaller) -> Answer:
        if request.node_id != caller.node:
            return Answer(401)
        self._pace.forget(caller.node)
        self._state.deactivate_node(caller.node)
        self._pending.leave(caller.node)
        return Answer(200, DeactivateNodeResponse().SerializeToString())

    def _beat(self, request: SendNodeHeartbeatRequest, caller: FleetCaller) -> Answer:
        node = caller.node
        if request.node.node_id != node:
            return Answer(401)
        here = not self._pending.has_left(node)
        return self._said(SendNodeHeartbeatResponse(success=here).SerializeToString(), node)

    def _said(self, body: bytes, node: int) -> Answer:
        return Answer(200, body, (*Answer(200).headers, *self.tell(node)))
