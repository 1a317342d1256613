"""A Flower Grid on this machine: merchants live in worker processes, messages go by pipes.

TenSEAL holds Python's global lock while it encrypts, so workers are processes. A merchant always
lives in the same worker and each worker computes with one torch thread, so that the result doesn't
depend on how many workers there are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from flwr.app import Message
from flwr.clientapp import ClientApp

from fedrec.simulations.faults import Dropouts
from fedrec.simulations.virtual_grid import VirtualGrid, WorkerDiedError
from fedrec.simulations.worker_process import WorkerProcess, packed

AppFactory = Callable[[], ClientApp]

_PATIENCE_SECONDS = 10.0


class _Lane:
    """One worker process and the thread that hands it one message at a time; a process that dies is replaced.

    The message that it was at fails; what waits behind it is for the next process.
    """

    def __init__(self, app: bytes, *, on_death: Callable[[], None]) -> None:
        self._app = app
        self._on_death = on_death
        self._lock = threading.Lock()
        self._closing = False
        self._worker = WorkerProcess(app)
        self._thread = ThreadPoolExecutor(1)

    def ready(self) -> None:
        """Wait until its process can answer; ``EngineFailedError`` where it can't."""
        self._worker.ready()

    def submit(self, message: Message, index: int) -> Future[Message]:
        return self._thread.submit(self._handle, message, index)

    def end(self) -> WorkerProcess:
        """Drop what waits, and return the process, which ends when it has finished its message."""
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
    """Runs ``merchants`` virtual nodes in ``workers`` processes; node ids are 1000, 1001, ...

    Where a worker dies (out of memory, killed), the merchant that it was answering for drops out of the
    round, as one whose machine went down: homes survive that. ``pull_messages`` raises ``EngineFailedError``
    once that has happened too often.

    Making one raises ``EngineFailedError`` when the processes can't be started, and ``ConfigError`` when
    what ``make_app`` holds can't be sent to them.
    """

    def __init__(
        self, make_app: AppFactory, *, merchants: int, workers: int, dropouts: Dropouts | None = None
    ) -> None:
        super().__init__(merchants=merchants, dropouts=dropouts)
        app = packed(make_app)
        self._lanes: list[_Lane] = []
        try:
            # All at once: each may take seconds to start.
            for _ in range(min(workers, merchants)):
                self._lanes.append(_Lane(app, on_death=self._count_death))
            for lane in self._lanes:
                lane.ready()
        except BaseException:
            self.close()
            raise

    def submit(self, message: Message, index: int) -> Future[Message]:
        """Hand a message to the worker of its merchant."""
        return self._lanes[index % len(self._lanes)].submit(message, index)

    def close(self) -> None:
        """Stop the worker processes: what waits is dropped, what they are at may take ten seconds to end.

        A worker is let finish its message, so that a ledger is not left in the middle of a write.
        """
        workers = [lane.end() for lane in self._lanes]
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for worker in workers:
            worker.wait(max(0.0, deadline - time.monotonic()))

    def _count_death(self) -> None:
        self.worker_deaths += 1
