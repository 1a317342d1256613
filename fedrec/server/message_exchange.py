"""Send requests to merchants over a Flower Grid, and collect the replies that come in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedrec._internal import number_format
from fedrec._internal.text import listed, one_line
from fedrec.errors import ProtocolError
from fedrec.flower import NODE_GONE
from fedrec.protocol.schema import MAX_REASON, Strict
from fedrec.protocol.transport import content_bytes, unpack
from fedrec.server.reply_board import ReplyBoard, in_words

_log = logging.getLogger(__name__)

Reply = TypeVar("Reply", bound=Strict)
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.2
_PAUSE_PART = 0.05
"""The pause between polls grows with the time waited, since each takes time that the replies need too."""


@dataclass(frozen=True)
class Answer(Generic[Reply]):
    """One node's well-formed reply."""

    node_id: int
    body: Reply
    blobs: dict[str, bytes]


@dataclass(frozen=True)
class Answers(Generic[Reply]):
    """The result of one exchange.

    Attributes:
        replies: the well-formed replies.
        failed: for each node that failed, the reason.
        late: those nodes of ``failed`` that sent nothing in time.
        bytes_down: bytes of the requests.
        bytes_up: bytes of all replies.
    """

    replies: tuple[Answer[Reply], ...]
    failed: dict[int, str]
    late: frozenset[int]
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True, kw_only=True)
class ExchangeSettings(Generic[Reply]):
    """What the requests of one exchange have in common.

    Attributes:
        message_type: Flower's message type.
        reply_type: schema of a reply's body.
        max_blob_bytes: largest blob that a reply may hold.
        timeout: in seconds, how long the grid keeps the requests.
        group_id: Flower's group id.
        board: is told of replies, and names the merchants in log lines.
    """

    message_type: str
    reply_type: type[Reply]
    max_blob_bytes: int
    timeout: float
    group_id: str
    board: ReplyBoard = field(default_factory=ReplyBoard)


class Exchange(Generic[Reply]):
    """One request per node, sent on construction; :meth:`pull` returns the replies as they arrive.

    Args:
        grid: the Flower Grid.
        requests: the request for each node.
        settings: what the requests have in common.

    Attributes:
        failed: reasons, by node: an error, or a malformed reply.
        bytes_down: bytes of the requests.
        bytes_up: bytes of the replies so far.
    """

    def __init__(
        self,
        grid: Grid,
        requests: Mapping[int, RecordDict],
        settings: ExchangeSettings[Reply],
    ) -> None:
        self._grid, self._settings = grid, settings
        self.bytes_down = sum(content_bytes(content) for content in requests.values())
        self.bytes_up = 0
        self.failed: dict[int, str] = {}
        messages = [
            grid.create_message(
                content, settings.message_type, node_id, settings.group_id, ttl=settings.timeout
            )
            for node_id, content in requests.items()
        ]
        self._node_of = dict(zip(grid.push_messages(messages), requests, strict=True))
        self._asked = time.monotonic()

    @property
    def waiting(self) -> frozenset[int]:
        """The nodes that haven't answered yet."""
        # The status is read from another thread while replies come: a copy is made in one step.
        return frozenset(self._node_of.copy().values())

    def give_up(self, nodes: Collection[int]) -> None:
        """Wait no longer for the replies of some nodes; they are never read."""
        self._node_of = {key: node for key, node in self._node_of.items() if node not in nodes}

    def pull(self, *, forget: bool = False) -> Iterator[Answer[Reply] | None]:
        """Yield what has arrived by now: a well-formed reply, or None for one that failed.

        With ``forget``, the arrays of a message are cleared once the next one is asked for.
        """
        for message in self._grid.pull_messages(list(self._node_of)):
            # Replies are matched by request, since the node id of an error reply is not the node's.
            node_id = self._node_of.pop(message.metadata.reply_to_message_id, None)
            if node_id is not None:
                self._settings.board.came(node_id, seconds=time.monotonic() - self._asked)
                yield self._read(message, node_id)
                if forget and message.has_content():
                    # Flower's records form cycles: large arrays would wait for the garbage collector.
                    for record in message.content.array_records.values():
                        record.clear()
            del message

    def _read(self, message: Message, node_id: int) -> Answer[Reply] | None:
        if message.has_error():
            if message.error.code == NODE_GONE:
                self.failed[node_id] = "no longer connected"
                return None
            told = one_line(message.error.reason or "", most=MAX_REASON)
            self.failed[node_id] = told or f"error {message.error.code}"
            return None
        self.bytes_up += content_bytes(message.content)
        try:
            body, blobs = unpack(
                message.content, self._settings.reply_type, max_blob_bytes=self._settings.max_blob_bytes
            )
        except ProtocolError as error:
            self.failed[node_id] = one_line(error, most=MAX_REASON)
            return None
        return Answer(node_id=node_id, body=body, blobs=blobs)


def ask(
    grid: Grid,
    requests: Mapping[int, RecordDict],
    settings: ExchangeSettings[Reply],
    *,
    take: Callable[[Answer[Reply]], None] | None = None,
    end: Callable[[float], float | None] = lambda seconds: None,
) -> Answers[Reply]:
    """Send one request per node, and wait for the replies.

    A node that fails, is late or sends a malformed reply is listed in ``failed``. This never raises for it,
    so that one merchant can't stop a round.

    Args:
        grid: the Flower Grid.
        requests: the request for each node; not kept once they are sent.
        settings: what the requests have in common; ``timeout`` is also how long to wait at most.
        take: called with each reply as it arrives, in any order. Replies are then not kept, so that memory
            holds only those in transit.
        end: called with the seconds that have passed, each time that all arrived replies were taken. Returns
            the second at which to stop waiting, or None for ``timeout``. Replies that come later are never
            read.

    Returns:
        The replies in the order of ``requests`` (none with ``take``), the failures, and the bytes sent.
    """
    order = {node_id: position for position, node_id in enumerate(requests)}
    exchange = Exchange(grid, requests, settings)
    del requests
    replies: list[Answer[Reply]] = []
    started = time.monotonic()
    waited, last = 0.0, settings.timeout
    with settings.board.waiting(settings.message_type, settings.group_id, lambda: exchange.waiting):
        while exchange.waiting and waited < last:
            received = False
            for answer in exchange.pull(forget=take is not None):
                received = True
                if answer is not None:
                    (replies.append if take is None else take)(answer)
                del answer
            waited = time.monotonic() - started
            ends = end(waited)
            last = settings.timeout if ends is None else min(settings.timeout, ends)
            if exchange.waiting and not received and waited < last:
                pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, _PAUSE_PART * waited))
                time.sleep(min(pause, last - waited))
                waited = time.monotonic() - started
    late = exchange.waiting
    failed = exchange.failed | dict.fromkeys(late, f"no reply within {number_format.duration(waited)}")
    _log_failures(failed, settings)
    replies.sort(key=lambda answer: order[answer.node_id])
    return Answers(
        replies=tuple(replies),
        failed=failed,
        late=late,
        bytes_down=exchange.bytes_down,
        bytes_up=exchange.bytes_up,
    )


def _log_failures(failed: Mapping[int, str], settings: ExchangeSettings[Reply]) -> None:
    """Log whose replies are missing, in one line for each reason."""
    names: dict[str, list[str]] = {}
    for name, reason in zip(settings.board.named(failed), failed.values(), strict=True):
        names.setdefault(reason, []).append(name)
    what = in_words(settings.message_type, settings.group_id)
    for reason, missing in names.items():
        _log.info("%s: none from %s (%s)", what, listed(sorted(missing)), reason)
