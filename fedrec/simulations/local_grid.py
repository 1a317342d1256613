"""A Flower Grid on this machine: merchants live in worker processes, messages go by pipes.

TenSEAL holds Python's global lock while it encrypts, so workers are processes. A merchant always
lives in the same worker and each worker computes with one torch thread, so that the result doesn't
depend on how many workers there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.flower import set_task_identity
from fedrec.simulations.faults import Dropouts
from fedrec.simulations.virtual_grid import FIRST_NODE, RUN_ID, VirtualGrid, WorkerDiedError, node_context

AppFactory = Callable[[], ClientApp]


_PATIENCE_SECONDS = 10.0


class _Worker:
    """The worker process's side: one ClientApp, and a context per node."""

    app: ClientApp
    contexts: dict[int, Context]

    @classmethod
    def start(cls, make_app: AppFactory) -> None:
        """Prepare this process; Ctrl-C is the parent's to handle."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with_parent, name="fedrec-parent", daemon=True).start()
        torch.set_num_threads(1)
        set_task_identity(run_id=RUN_ID, node_id=FIRST_NODE)
        cls.app = make_app()
        cls.contexts = {}

    @classmethod
    def handle(cls, message: Message, index: int) -> Message:
        """Answer one message as the merchant with this index."""
        set_task_identity(run_id=RUN_ID, node_id=message.metadata.dst_node_id)
        return cls.app(message, cls.contexts.setdefault(index, node_context(index)))


def _end_with_parent() -> None:
    """End this process when its parent is gone: it holds both ends of its queue, so no read would fail."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Lane:
    """One worker process and the thread that hands it one message at a time; a process that dies is replaced.

    The message that it was at fails; what waits behind it is for the next process.
    """

    def __init__(self, make_app: AppFactory, *, on_death: Callable[[], None]) -> None:
        self._make_app = make_app
        self._on_death = on_death
        self._lock = threading.Lock()
        self._closing = False
        self._pool = self._start()
        self._thread = ThreadPoolExecutor(1)

    def submit(self, message: Message, index: int) -> Future[Message]:
        return self._thread.submit(self._handle, message, index)

    def end(self) -> Sequence[BaseProcess]:
        """Drop what waits, and return the process, which ends when it has finished its message."""
        with self._lock:
            self._closing = True
            self._thread.shutdown(wait=False, cancel_futures=True)
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
        return processes

    def _handle(self, message: Message, index: int) -> Message:
        try:
            return self._pool.submit(_Worker.handle, message, index).result()
        except BrokenProcessPool:
            with self._lock:
                if not self._closing:
                    self._pool = self._start()
                    self._on_death()
            raise WorkerDiedError("its worker process died") from None

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1, mp_context=_start_method(), initializer=_Worker.start, initargs=(self._make_app,)
        )


def _start_method() -> BaseContext:
    """Return how workers are started: from a server that has imported torch and Flower once, where it can.

    That saves each worker seconds, and shares the memory. Elsewhere than on Linux, forking a process that
    has loaded the system's numerical libraries isn't safe.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedrec.simulations.merchants"])
    return context


class LocalGrid(VirtualGrid):
    """Runs ``merchants`` virtual nodes in ``workers`` processes; node ids are 1000, 1001, ...

    Where a worker dies (out of memory, killed), the merchant that it was answering for drops out of the
    round, as one whose machine went down: homes survive that. ``pull_messages`` raises ``EngineFailedError``
    once that has happened too often.
    """

    def __init__(
        self, make_app: AppFactory, *, merchants: int, workers: int, dropouts: Dropouts | None = None
    ) -> None:
        super().__init__(merchants=merchants, dropouts=dropouts)
        self._lanes = [_Lane(make_app, on_death=self._count_death) for _ in range(min(workers, merchants))]

    def submit(self, message: Message, index: int) -> Future[Message]:
        """Hand a message to the worker of its merchant."""
        return self._lanes[index % len(self._lanes)].submit(message, index)

    def close(self) -> None:
        """Stop the worker processes: what waits is dropped, what they are at may take ten seconds to end.

        A worker is let finish its message, so that a ledger is not left in the middle of a write.
        """
        processes = [process for lane in self._lanes for process in lane.end()]
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.terminate()
                process.join()

    def _count_death(self) -> None:
        self.worker_deaths += 1
