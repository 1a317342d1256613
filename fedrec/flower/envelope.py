"""Flower's messages and run identities, as a process outside Flower's own needs them."""

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
    """Tell Flower which run and node this process acts for, as a message outside its own processes needs."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id
    TaskIdentity.task_id = 1


def new_message(
    content: RecordDict, *, message_type: str, node_id: int, group_id: str, ttl: float
) -> Message:
    """Build a message with an id of its own, ready to be handed to a ClientApp without a SuperLink."""
    message = Message(content, dst_node_id=node_id, message_type=message_type, ttl=ttl, group_id=group_id)
    message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    return message


def error_reply(message: Message, *, code: int, reason: str) -> Message:
    """Build the reply that Flower delivers when a node can't answer ``message``."""
    return Message(error=Error(code=code, reason=reason), reply_to=message)


def message_to_bytes(message: Message) -> bytes:
    """Return a message as Flower's own encoding, at most 2 GiB."""
    encoded: bytes = message_to_proto(message).SerializeToString()
    return encoded


def message_from_bytes(data: bytes) -> Message:
    """Return the message of :func:`message_to_bytes`; raises ``ValueError`` for anything else."""
    proto = MessageProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ValueError("this is no message") from None
    return message_from_proto(proto)
