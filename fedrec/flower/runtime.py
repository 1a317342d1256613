"""Reach Flower's Runtime API without a network, for a grid in the SuperLink's own process."""

from __future__ import annotations

import threading
import time
from typing import Final

from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.runtime_pb2 import (
    GetNodesRequest,
    GetNodesResponse,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.superlink.servicer.runtime import runtime_handlers

from fedrec.flower.pending_messages import PendingMessages

_LOOK_SECONDS: Final = 1.0
"""Pause between two searches through all requests, for those that expired or whose merchant is gone."""


class InProcessRuntime:
    """Answers a grid as Flower's client of the Runtime API does, from the SuperLink's state in this process.

    Over HTTP each object of each message is a request, with TLS and Flower's middleware on both sides.

    Args:
        state: the SuperLink's state.
        pending: is told of requests, and knows which of them have been answered.
        run_id: Flower's number of the run.
    """

    def __init__(self, state: InMemoryLinkState, pending: PendingMessages, *, run_id: int) -> None:
        self._state, self._pending, self._task = state, pending, Task(run_id=run_id)
        self._mutex = threading.Lock()
        self._look_at = 0.0

    # The methods have the names of Flower's client.

    def GetNodes(self, request: GetNodesRequest) -> GetNodesResponse:
        """Return the connected nodes."""
        return runtime_handlers.get_nodes(request, self._state, self._task)

    def PushMessages(self, request: PushAppMessagesRequest) -> PushAppMessagesResponse:
        """Store the heads of messages; their objects follow."""
        return runtime_handlers.push_messages(request, self._state, self._task)

    def PushObject(self, request: PushObjectRequest) -> PushObjectResponse:
        """Store an object of a message."""
        return runtime_handlers.push_object(request, self._state, self._task)

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        """Return an object of a reply."""
        return runtime_handlers.pull_object(request, self._state, self._task)

    def ConfirmMessageReceived(
        self, request: ConfirmMessageReceivedRequest
    ) -> ConfirmMessageReceivedResponse:
        """Delete the objects of a reply."""
        return runtime_handlers.confirm_message_received(request, self._state, self._task)

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        """Return the heads of the replies to some messages, each once.

        Flower's own handler looks at every message of the run each time.
        """
        asked = set(request.message_ids)
        ids = self._pending.answered(asked)
        with self._mutex:
            if time.monotonic() >= self._look_at:
                self._look_at, ids = time.monotonic() + _LOOK_SECONDS, asked
        answer = PullAppMessagesResponse()
        if not ids:
            return answer
        state = self._state
        with state.lock:
            try:
                replies = state.get_message_res(ids & state.message_ins_store.keys(), self._task.run_id)
            except KeyError:
                # A request expired just now. The others are found at the next search.
                self._look_at = 0.0
                return answer
            state.delete_messages({reply.metadata.reply_to_message_id for reply in replies})
        for reply in replies:
            try:
                tree = state.object_store.get_object_tree(reply.metadata.message_id)
            except NoObjectInStoreError:
                continue
            answer.messages_list.append(message_to_proto(reply))
            answer.message_object_trees.append(tree)
        return answer

    def close(self) -> None:
        """Do nothing: there is no connection."""
