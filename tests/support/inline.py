"""Stands in for a simulation's worker process where it is of no interest that it is one."""

from __future__ import annotations

import pickle

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.flower import message_from_bytes, message_to_bytes, set_task_identity
from fedrec.simulations.virtual_grid import RUN_ID, node_context


class InlineWorker:
    """Answers in this process; what it opened stays open and locked until this process ends."""

    def __init__(self, app: bytes) -> None:
        torch.set_num_threads(1)
        self._app: ClientApp = pickle.loads(app)()
        self._contexts: dict[int, Context] = {}

    def ready(self) -> None: ...

    def ask(self, message: Message, index: int) -> Message:
        set_task_identity(run_id=RUN_ID, node_id=message.metadata.dst_node_id)
        reply = self._app(message, self._contexts.setdefault(index, node_context(index)))
        return message_from_bytes(message_to_bytes(reply))

    def stop(self) -> None: ...

    def wait(self, seconds: float) -> None: ...
