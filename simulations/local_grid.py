"""A Flower Grid on this machine: merchants live in worker processes, messages go by pipes.

TenSEAL holds Python's global lock while it encrypts, so workers are processes. A merchant always
lives in the same worker and each worker computes with one torch thread, so that the result doesn't
depend on how many workers there are.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedrec.flower import APP_FAILED, DEFAULT_TTL, NODE_GONE, Run, error_reply, new_message, set_task_identity
from fedrec.simulations.faults import Dropouts, Phase

AppFactory = Callable[[], ClientApp]
RUN_ID = 1
_FIRST_NODE = 1000
_PHASES: dict[str, Phase] = {"train": "train", "query.unmask": "unmask"}


class _Worker:
    """The worker process's side: one ClientApp, and a context per node."""

    app: ClientApp
    contexts: dict[int, Context]

    @classmethod
    def start(cls, make_app: AppFactory) -> None:
        """Prepare this process; Ctrl-C is the parent's to handle."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(1)
        set_task_identity(run_id=RUN_ID, node_id=_FIRST_NODE)
        cls.app = make_app()
        cls.contexts = {}

    @classmethod
    def handle(cls, message: Message, index: int) -> Message:
        """Answer one message as the merchant with this index."""
        node_id = message.metadata.dst_node_id
        set_task_identity(run_id=RUN_ID, node_id=node_id)
        if node_id not in cls.contexts:
            cls.contexts[node_id] = Context(
                run_id=RUN_ID,
                node_id=node_id,
                node_config={"partition-id": index},
                state=RecordDict(),
                run_config={},
            )
        return cls.app(message, cls.contexts[node_id])


class LocalGrid(Grid):
    """Runs ``merchants`` virtual nodes in ``workers`` processes; node ids are 1000, 1001, ..."""

    def __init__(
        self, make_app: AppFactory, *, merchants: int, workers: int, dropouts: Dropouts | None = None
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._merchants = merchants
        self._dropouts = dropouts
        self._pools = [
            ProcessPoolExecutor(1, mp_context=spawn, initializer=_Worker.start, initargs=(make_app,))
            for _ in range(min(workers, merchants))
        ]
        self._pending: dict[str, tuple[Message, Future[Message] | None]] = {}
        self._run: Run | None = None
        set_task_identity(run_id=RUN_ID, node_id=_FIRST_NODE)

    def close(self) -> None:
        """Stop the worker processes; what they are computing is not waited for."""
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()

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
        """Build a message to a node."""
        return new_message(
            content, message_type=message_type, node_id=dst_node_id, group_id=group_id, ttl=ttl or DEFAULT_TTL
        )

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all virtual nodes."""
        return [_FIRST_NODE + index for index in range(self._merchants)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages to the workers of their nodes and return the messages' ids."""
        ids: list[str] = []
        for message in messages:
            index = message.metadata.dst_node_id - _FIRST_NODE
            future = None
            if not self._drops(message, index):
                future = self._pools[index % len(self._pools)].submit(_Worker.handle, message, index)
            self._pending[message.metadata.message_id] = (message, future)
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come to these messages."""
        replies: list[Message] = []
        for message_id in list(message_ids):
            message, future = self._pending.get(message_id, (None, None))
            if message is None or (future is not None and not future.done()):
                continue
            del self._pending[message_id]
            replies.append(self._reply(message, future))
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and wait for their replies, at most ``timeout`` seconds."""
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
        if error is not None:
            return error_reply(message, code=APP_FAILED, reason=f"{type(error).__name__}: {error}")
        return future.result()
