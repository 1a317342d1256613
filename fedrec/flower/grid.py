"""Adapt Flower's grid to the server: use the SuperLink in this process, and little memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

from flwr.app import Message
from flwr.app.error import Error
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import InflatableObject
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid
from google.protobuf.message import DecodeError

from fedrec.flower.objects import check_tree, inflate
from fedrec.flower.pending_messages import PendingMessages
from fedrec.flower.runtime import InProcessRuntime

_MALFORMED = (DecodeError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
"""What Flower raises when it reads forged objects."""
_STALLED_SECONDS = 60.0
"""An incomplete reply without a new object for so long is discarded: its merchant was stopped midway. So is
one that nobody has asked for in that time."""


@dataclass
class _Arriving:
    """An incomplete reply: its objects so far, and when the latest one came and it was last asked for."""

    head: ProtoMessage
    tree: ObjectTree
    made: dict[str, InflatableObject] = field(default_factory=dict)
    grown: float = field(default_factory=lambda: time.monotonic())
    asked: float = field(default_factory=lambda: time.monotonic())


class PrivateGrid(HttpGrid):
    """Yield replies one by one, and fetch each from the SuperLink only on demand.

    Flower's own grid fetches all replies at once, keeps every piece of an array beside the array, and waits a
    second before it asks again for a missing piece, while complete replies wait behind it.

    Args:
        runtime: the SuperLink's state, in this process.
        pending: is told of every message that is sent.
    """

    def __init__(self, runtime: InProcessRuntime, pending: PendingMessages) -> None:
        # The base class wants the token of a connection that it never makes.
        super().__init__(token="none")  # noqa: S106 (in this process nobody asks for one)
        self._client = cast(RuntimeHttpClient, runtime)
        self._pending = pending
        self._arriving: dict[str, _Arriving] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return the id of each, empty for one that can't be sent."""
        sent = list(messages)
        ids = list(super().push_messages(sent))
        for message, message_id in zip(sent, ids, strict=True):
            if message_id:
                self._pending.sent(message.metadata.dst_node_id, message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Yield the complete replies to these messages; an incomplete reply doesn't delay the others.

        Several exchanges may be under way: each asks for its own replies only, and those of the others stay.
        """
        wanted = set(message_ids)
        # The SuperLink returns a reply once; a second request would report it as lost.
        unseen = wanted - self._arriving.keys()
        if unseen:
            found = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=unseen))
            for head, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                self._arriving[head.metadata.reply_to_message_id] = _Arriving(head, tree)
        for key in list(self._arriving):
            arriving, moment = self._arriving.pop(key), time.monotonic()
            if key not in wanted:
                # A reply that nobody asks for any more is late, and is dropped.
                if moment - arriving.asked <= _STALLED_SECONDS:
                    self._arriving[key] = arriving
                continue
            arriving.asked = moment
            message = self._whole(arriving)
            if message is None:
                self._arriving[key] = arriving
            else:
                yield message

    def _whole(self, arriving: _Arriving) -> Message | None:
        """Return the complete reply, an error reply for an invalid one, or None while parts are missing."""
        head = arriving.head
        try:
            check_tree(arriving.tree)
            message = self._inflate(arriving.tree, arriving, run_id=head.metadata.run_id)
        except ObjectUnavailableError as error:
            stalled = time.monotonic() - arriving.grown > _STALLED_SECONDS
            return self._lost(head, error) if stalled else None
        except (ObjectPullError, *_MALFORMED) as error:
            # A merchant may send anything: it loses its own reply, the others are not affected.
            return self._lost(head, error)
        if not isinstance(message, Message):
            return self._lost(head, "the object is not a message")
        self._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self.node, run_id=head.metadata.run_id, message_object_id=head.metadata.message_id
            )
        )
        message.metadata.__dict__["_message_id"] = head.metadata.message_id
        return message

    def _inflate(self, tree: ObjectTree, arriving: _Arriving, *, run_id: int) -> InflatableObject:
        """Pull an object after its children; children are kept until their parent is complete."""
        key, made = tree.object_id, arriving.made
        if key in made:
            return made[key]
        children = {child.object_id: self._inflate(child, arriving, run_id=run_id) for child in tree.children}
        content = make_pull_object_fn_protobuf(self._runtime_client.PullObject, self.node, run_id)(key)
        made[key] = inflate(content, children)
        arriving.grown = time.monotonic()
        for child in children:
            made.pop(child, None)
        return made[key]

    def _lost(self, head: ProtoMessage, why: object) -> Message:
        """Build the error reply for a reply whose objects did not arrive."""
        return make_message(
            metadata=Metadata(
                run_id=head.metadata.run_id,
                message_id="",
                src_node_id=self.node.node_id,
                dst_node_id=self.node.node_id,
                message_type=SYSTEM_MESSAGE_TYPE,
                group_id="",
                ttl=0,
                reply_to_message_id=head.metadata.reply_to_message_id,
                created_at=now().timestamp(),
            ),
            error=Error(
                code=ErrorCode.MESSAGE_UNAVAILABLE, reason=f"the reply is incomplete or invalid: {why}"
            ),
        )
