"""Build Flower messages and run identities in a process that Flower did not start."""

from __future__ import annotations

import uuid

from flwr.app import DEFAULT_TTL, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

__all__ = [
    "APP_FAILED",
    "DEFAULT_TTL",
    "NODE_GONE",
    "Run",
    "error_reply",
    "message_from_bytes",
    "message_to_bytes",
    "new_message",
    "set_task_identity",
]

NODE_GONE = 5
APP_FAILED = 8


def set_task_identity(*, run_id: int, node_id: int) -> None:
    """Tell Flower which run and node this process acts for; messages need it outside Flower's processes.

    Args:
        run_id: Flower's number of the run.
        node_id: Flower's number of the node.
    """
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id
    TaskIdentity.task_id = 1


def new_message(
    content: RecordDict, *, message_type: str, node_id: int, group_id: str, ttl: float
) -> Message:
    """Build a message with an id, ready for a ClientApp without a SuperLink.

    Args:
        content: the content of the message.
        message_type: Flower's message type, such as ``train``.
        node_id: number of the recipient.
        group_id: group of the message, such as the round.
        ttl: time to live in seconds.

    Returns:
        The message.
    """
    message = Message(content, dst_node_id=node_id, message_type=message_type, ttl=ttl, group_id=group_id)
    message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    return message


def error_reply(message: Message, *, code: int, reason: str) -> Message:
    """Build the reply that Flower delivers if a node can't answer a message.

    Args:
        message: the request.
        code: Flower's error code.
        reason: text of the error.

    Returns:
        The reply, without content.
    """
    return Message(error=Error(code=code, reason=reason), reply_to=message)


def message_to_bytes(message: Message) -> bytes:
    """Encode a message in Flower's protobuf format, at most 2 GiB."""
    encoded: bytes = message_to_proto(message).SerializeToString()
    return encoded


def message_from_bytes(data: bytes) -> Message:
    """Decode the result of :func:`message_to_bytes`; ``ValueError`` for any other bytes."""
    proto = MessageProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ValueError("this is not a Flower message") from None
    return message_from_proto(proto)
