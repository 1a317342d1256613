"""What can run a simulation's merchants on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from flwr.clientapp import ClientApp

from fedrec.flower import require_ray
from fedrec.simulations.injected_faults import Dropouts
from fedrec.simulations.local_grid import LocalGrid
from fedrec.simulations.ray_engine import RayGrid
from fedrec.simulations.virtual_grid import VirtualGrid
from fedrec.simulations.worker_process import start_forking


class MakeGrid(Protocol):
    """Starts the processes of an engine."""

    def __call__(
        self, make_app: Callable[[], ClientApp], *, merchants: int, workers: int, dropouts: Dropouts | None
    ) -> VirtualGrid:
        """Return the grid whose nodes are the merchants.

        Args:
            make_app: makes the ClientApp that answers for all of them.
            merchants: number of nodes.
            workers: number of processes at most.
            dropouts: dropouts to inject, if any.
        """
        ...


@dataclass(frozen=True)
class Engine:
    """An engine.

    Attributes:
        make_grid: starts it.
        check: raises ``MissingExtraError`` if what it needs isn't installed.
        warm_up: starts what can be started while the data is read.
        keeps_merchants: whether a merchant stays in one process, so that it may keep its files open.
    """

    make_grid: MakeGrid
    check: Callable[[], object]
    warm_up: Callable[[], object]
    keeps_merchants: bool


def _nothing() -> None:
    """Do nothing."""


ENGINES: Mapping[str, Engine] = {
    "local": Engine(make_grid=LocalGrid, check=_nothing, warm_up=start_forking, keeps_merchants=True),
    "ray": Engine(make_grid=RayGrid, check=require_ray, warm_up=_nothing, keeps_merchants=False),
}
"""Every engine by the name that options give it."""
