"""The part of a Flower Grid that both simulation engines share: virtual nodes, with injected dropouts."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from fedrec.errors import TrainingError
from fedrec.flower import APP_FAILED, DEFAULT_TTL, NODE_GONE, Run, error_reply, new_message, set_task_identity
from fedrec.simulations.injected_faults import Dropouts, Phase

RUN_ID = 1
FIRST_NODE = 1000
MOST_DEATHS = 5
"""A run ends after this many dead workers: each costs its merchant a round, and seconds to restart."""
_PHASES: dict[str, Phase] = {"train": "train", "query.unmask": "unmask"}


class WorkerDiedError(RuntimeError):
    """The process that was answering a message has died."""


class EngineFailedError(TrainingError):
    """The engine can't continue."""


class VirtualGrid(Grid):
    """A Grid of virtual nodes with ids 1000, 1001, ...; an engine answers the messages.

    Args:
        merchants: number of nodes.
        dropouts: dropouts to inject, if any.

    Attributes:
        worker_deaths: number of processes that died while answering, if the engine can tell.
    """

    def __init__(self, *, merchants: int, dropouts: Dropouts | None) -> None:
        self._merchants = merchants
        self._dropouts = dropouts
        self._pending: dict[str, tuple[Message, Future[Message] | None]] = {}
        self._run: Run | None = None
        self.worker_deaths = 0
        set_task_identity(run_id=RUN_ID, node_id=FIRST_NODE)

    @abstractmethod
    def submit(self, message: Message, index: int) -> Future[Message]:
        """Have a merchant answer a message.

        Args:
            message: the request.
            index: index of the merchant.

        Returns:
            The future reply.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop the engine; messages under way are not waited for."""

    def set_run(self, run: Run) -> None:
        """Set the run that this grid operates in."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that this grid operates in."""
        if self._run is None:
            raise RuntimeError("no run was set on this grid")
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node.

        Args:
            content: the message's records.
            message_type: Flower's message type.
            dst_node_id: the node.
            group_id: Flower's group id.
            ttl: in seconds, how long the message lives; None for the default.

        Returns:
            The message.
        """
        return new_message(
            content, message_type=message_type, node_id=dst_node_id, group_id=group_id, ttl=ttl or DEFAULT_TTL
        )

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all virtual nodes."""
        return [FIRST_NODE + index for index in range(self._merchants)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Give messages to the engine, except those that drop out; return the ids of all."""
        ids: list[str] = []
        for message in messages:
            index = message.metadata.dst_node_id - FIRST_NODE
            future = None if self._drops(message, index) else self.submit(message, index)
            self._pending[message.metadata.message_id] = (message, future)
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield the replies to these messages that have arrived; each is released when the next is asked for.

        Raises:
            EngineFailedError: so many workers died that the machine, not chance, is the cause.
        """
        if self.worker_deaths >= MOST_DEATHS:
            raise EngineFailedError(
                f"{self.worker_deaths} worker processes died: the machine may be out of memory; give fewer "
                "--workers, a smaller --model or a lower --sample-rate"
            )
        for message_id in list(message_ids):
            message, future = self._pending.get(message_id, (None, None))
            if message is None or (future is not None and not future.done()):
                continue
            del self._pending[message_id]
            yield self._reply(message, future)
            del message, future

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages, and wait for their replies.

        Args:
            messages: the requests.
            timeout: in seconds, how long to wait at most; None for Flower's default lifetime of messages.

        Returns:
            The replies that arrived in time.
        """
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        deadline = time.monotonic() + (timeout if timeout is not None else DEFAULT_TTL)
        while waiting and time.monotonic() < deadline:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            time.sleep(0.001)
        return replies

    def _drops(self, message: Message, index: int) -> bool:
        phase = _PHASES.get(message.metadata.message_type)
        if self._dropouts is None or phase is None:
            return False
        return self._dropouts.drops(merchant=index, round_number=int(message.metadata.group_id), phase=phase)

    @staticmethod
    def _reply(message: Message, future: Future[Message] | None) -> Message:
        if future is None:
            return error_reply(message, code=NODE_GONE, reason="injected dropout")
        error: Any = future.exception()
        if isinstance(error, WorkerDiedError):
            return error_reply(message, code=NODE_GONE, reason=str(error))
        if error is not None:
            return error_reply(message, code=APP_FAILED, reason=f"{type(error).__name__}: {error}")
        return future.result()


def node_context(index: int) -> Context:
    """Return a new context for the virtual node with this index."""
    return Context(
        run_id=RUN_ID,
        node_id=FIRST_NODE + index,
        node_config={"partition-id": index},
        state=RecordDict(),
        run_config={},
    )
