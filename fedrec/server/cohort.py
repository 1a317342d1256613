"""Ask merchants over a Flower Grid and gather what comes back in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedrec._internal.text import one_line
from fedrec.errors import ProtocolError
from fedrec.protocol.schema import MAX_REASON, Strict
from fedrec.protocol.transport import content_bytes, unpack

_log = logging.getLogger(__name__)

Reply = TypeVar("Reply", bound=Strict)
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.2
_PAUSE_PART = 0.05
"""Asking a SuperLink for replies is a request to it: the pause between two grows with the wait so far."""


@dataclass(frozen=True)
class Answer(Generic[Reply]):
    """One node's well-formed reply."""

    node_id: int
    body: Reply
    blobs: dict[str, bytes]


@dataclass(frozen=True)
class Answers(Generic[Reply]):
    """What an exchange brought: replies, the nodes that failed with the reason, and bytes both ways."""

    replies: tuple[Answer[Reply], ...]
    failed: dict[int, str]
    bytes_down: int
    bytes_up: int


def ask(
    grid: Grid,
    requests: Mapping[int, RecordDict],
    *,
    message_type: str,
    reply_type: type[Reply],
    max_blob_bytes: int,
    timeout: float,
    group_id: str,
    take: Callable[[Answer[Reply]], None] | None = None,
) -> Answers[Reply]:
    """Send one request per node and wait for the replies, at most ``timeout`` seconds.

    A node that fails, is late, answers twice or sends a malformed reply is in ``failed``; it never
    raises, so that one merchant can't stop a round. With ``take`` every reply is handed over as it comes, in
    any order, and none is kept: memory is that of the replies on their way. The requests are not kept either,
    once they are sent.
    """
    order = {node_id: position for position, node_id in enumerate(requests)}
    bytes_down = sum(content_bytes(content) for content in requests.values())
    messages = [
        grid.create_message(content, message_type, node_id, group_id, ttl=timeout)
        for node_id, content in requests.items()
    ]
    del requests
    node_of = dict(zip(grid.push_messages(messages), order, strict=True))
    del messages
    waiting = set(node_of)
    replies: list[Answer[Reply]] = []
    failed: dict[int, str] = {}
    bytes_up = 0
    started = time.monotonic()
    deadline = started + timeout
    while waiting and time.monotonic() < deadline:
        received = False
        for message in grid.pull_messages(list(waiting)):
            received = True
            # The reply is matched by the request it answers: the node id of an error reply is not the node's.
            request_id = message.metadata.reply_to_message_id
            if request_id not in waiting:
                continue
            waiting.discard(request_id)
            node_id = node_of[request_id]
            if message.has_error():
                told = one_line(message.error.reason or "", most=MAX_REASON)
                failed[node_id] = told or f"error {message.error.code}"
                continue
            bytes_up += content_bytes(message.content)
            try:
                body, blobs = unpack(message.content, reply_type, max_blob_bytes=max_blob_bytes)
            except ProtocolError as error:
                failed[node_id] = one_line(error, most=MAX_REASON)
                continue
            answer = Answer(node_id=node_id, body=body, blobs=blobs)
            if take is None:
                replies.append(answer)
            else:
                take(answer)
                # Flower's records hold each other: the large bytes would wait for the garbage collector.
                for record in message.content.array_records.values():
                    record.clear()
            del message, blobs, answer
        if waiting and not received:
            waited = time.monotonic() - started
            time.sleep(min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, _PAUSE_PART * waited)))
    for request_id in waiting:
        failed[node_of[request_id]] = f"no reply within {timeout:.0f} s"
    for node_id, reason in failed.items():
        _log.info("%s of %s: node %d failed (%s)", message_type, group_id, node_id, reason)
    replies.sort(key=lambda answer: order[answer.node_id])
    return Answers(
        replies=tuple(replies),
        failed=failed,
        bytes_down=bytes_down,
        bytes_up=bytes_up,
    )
