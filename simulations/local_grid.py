"""A Flower Grid on this machine: merchants live in worker processes, messages go by pipes.

TenSEAL holds Python's global lock while it encrypts, so workers are processes. A merchant always
lives in the same worker and each worker computes with one torch thread, so that the result doesn't
depend on how many workers there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.flower import set_task_identity
from fedrec.simulations.faults import Dropouts
from fedrec.simulations.virtual_grid import FIRST_NODE, RUN_ID, VirtualGrid, node_context

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


class LocalGrid(VirtualGrid):
    """Runs ``merchants`` virtual nodes in ``workers`` processes; node ids are 1000, 1001, ..."""

    def __init__(
        self, make_app: AppFactory, *, merchants: int, workers: int, dropouts: Dropouts | None = None
    ) -> None:
        super().__init__(merchants=merchants, dropouts=dropouts)
        spawn = multiprocessing.get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(1, mp_context=spawn, initializer=_Worker.start, initargs=(make_app,))
            for _ in range(min(workers, merchants))
        ]

    def submit(self, message: Message, index: int) -> Future[Message]:
        """Hand a message to the worker of its merchant."""
        return self._pools[index % len(self._pools)].submit(_Worker.handle, message, index)

    def close(self) -> None:
        """Stop the worker processes: what waits is dropped, what they are at may take ten seconds to end.

        A worker is let finish its message, so that a ledger is not left in the middle of a write.
        """
        processes = [process for pool in self._pools for process in (pool._processes or {}).values()]
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.join(_PATIENCE_SECONDS)
            if process.is_alive():
                process.terminate()
                process.join()
