"""A Flower Grid on this machine: merchants run in worker processes, and messages go through socket pairs.

TenSEAL holds Python's global interpreter lock while it encrypts, so workers are processes. A merchant always
runs in the same worker, and each worker computes with one torch thread, so that the result doesn't depend on
the number of workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from flwr.app import Message
from flwr.clientapp import ClientApp

from fedrec.simulations.injected_faults import Dropouts
from fedrec.simulations.virtual_grid import VirtualGrid, WorkerDiedError
from fedrec.simulations.worker_process import WorkerProcess, pickle_app

AppFactory = Callable[[], ClientApp]

_PATIENCE_SECONDS = 10.0


class _Lane:
    """One worker process, and the thread that gives it one message at a time.

    A process that dies is replaced. The message that it was answering fails; those behind it go to the next
    process.
    """

    def __init__(self, app: bytes, *, on_death: Callable[[], None]) -> None:
        self._app = app
        self._on_death = on_death
        self._lock = threading.Lock()
        self._closing = False
        self._worker = WorkerProcess(app)
        self._thread = ThreadPoolExecutor(1)

    def ready(self) -> None:
        """Wait until the process can answer; raise ``EngineFailedError`` if it can't."""
        self._worker.ready()

    def submit(self, message: Message, index: int) -> Future[Message]:
        return self._thread.submit(self._handle, message, index)

    def end(self) -> WorkerProcess:
        """Drop waiting messages; return the process, which ends after its current message."""
        with self._lock:
            self._closing = True
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._worker.stop()
        return self._worker

    def _handle(self, message: Message, index: int) -> Message:
        try:
            return self._worker.ask(message, index)
        except WorkerDiedError:
            with self._lock:
                if not self._closing:
                    self._on_death()
                    self._worker.wait(_PATIENCE_SECONDS)
                    self._worker = WorkerProcess(self._app)
                    self._worker.ready()
            raise


class LocalGrid(VirtualGrid):
    """Run virtual nodes, with ids 1000, 1001, ..., in worker processes.

    If a worker dies (out of memory, killed), the merchant that it was answering for drops out of the round,
    as if its machine had gone down; its home survives that. ``pull_messages`` raises ``EngineFailedError``
    once this has happened too often.

    Args:
        make_app: makes the ClientApp of a worker.
        merchants: number of nodes.
        workers: number of processes at most.
        dropouts: dropouts to inject, if any.

    Raises:
        EngineFailedError: the processes can't be started.
        ConfigError: ``make_app`` holds something that can't be sent to another process.
    """

    def __init__(
        self, make_app: AppFactory, *, merchants: int, workers: int, dropouts: Dropouts | None = None
    ) -> None:
        super().__init__(merchants=merchants, dropouts=dropouts)
        app = pickle_app(make_app)
        self._lanes: list[_Lane] = []
        try:
            # Start all before waiting for any: each may take seconds.
            for _ in range(min(workers, merchants)):
                self._lanes.append(_Lane(app, on_death=self._count_death))
            for lane in self._lanes:
                lane.ready()
        except BaseException:
            self.close()
            raise

    def submit(self, message: Message, index: int) -> Future[Message]:
        """Give a message to the worker of its merchant.

        Args:
            message: the request.
            index: index of the merchant.

        Returns:
            The future reply.
        """
        return self._lanes[index % len(self._lanes)].submit(message, index)

    def close(self) -> None:
        """Stop the worker processes: drop waiting messages, and wait up to ten seconds for the current ones.

        A worker may finish its message, so that no write of a ledger is cut off.
        """
        workers = [lane.end() for lane in self._lanes]
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for worker in workers:
            worker.wait(max(0.0, deadline - time.monotonic()))

    def _count_death(self) -> None:
        self.worker_deaths += 1
