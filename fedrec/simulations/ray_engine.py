"""The ``ray`` engine: merchants run in the actors of Flower's own Ray backend.

Any actor may get any merchant, so a merchant is made for one message at a time, and its files are closed
before the reply leaves. Actors compute with one torch thread, as the workers of the local engine do: with a
seed, both engines give the same model bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.flower import RayActors
from fedrec.simulations.injected_faults import Dropouts
from fedrec.simulations.virtual_grid import VirtualGrid, node_context


@dataclass(frozen=True)
class _OneThreadApp:
    """Make an actor's ClientApp, anew for each message."""

    make_app: Callable[[], ClientApp]

    def __call__(self) -> ClientApp:
        torch.set_num_threads(1)
        return self.make_app()


class RayGrid(VirtualGrid):
    """Run virtual nodes in Ray actors on this machine.

    Args:
        make_app: makes a ClientApp that must hold no lock after a message.
        merchants: number of nodes.
        workers: number of actors at most.
        dropouts: dropouts to inject, if any.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self,
        make_app: Callable[[], ClientApp],
        *,
        merchants: int,
        workers: int,
        dropouts: Dropouts | None = None,
    ) -> None:
        super().__init__(merchants=merchants, dropouts=dropouts)
        self._actors = RayActors(_OneThreadApp(make_app), workers=min(workers, merchants))
        # An actor must be idle when it gets a message; one thread per actor ensures that.
        self._threads = ThreadPoolExecutor(self._actors.workers)
        self._contexts: dict[int, Context] = {}

    def submit(self, message: Message, index: int) -> Future[Message]:
        """Queue a message for the next idle actor.

        Args:
            message: the request.
            index: index of the merchant.

        Returns:
            The future reply.
        """
        return self._threads.submit(self._handle, message, index)

    def close(self) -> None:
        """Stop the actors and Ray; messages under way are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._actors.kill()
        self._threads.shutdown(wait=True)
        self._actors.close()

    def _handle(self, message: Message, index: int) -> Message:
        context = self._contexts.get(index) or node_context(index)
        reply, self._contexts[index] = self._actors.handle(message, context)
        return reply
