"""Many merchants in one process, for measurements on one machine: each with its own home, keys and ledger.

python benchmarks/host.py HOME [HOME ...] runs a daemon for each of them until SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Self

os.environ["FLWR_HOME"] = tempfile.mkdtemp(prefix="fedrec-host-")

import torch
from flwr.app import Message

from fedrec._internal.shared_results import SHARED
from fedrec.clients.daemon import Daemon, DaemonOptions
from fedrec.clients.merchant_home import MerchantHome
from fedrec.flower.fleet import FleetLink

_ONE_AT_A_TIME = threading.Lock()
_CONNECTING = threading.BoundedSemaphore(4)
_SHARED_BYTES = 2**28


class Link(FleetLink):
    """A connection that is made while few others are: a server lets in only so many of one address."""

    def __enter__(self) -> Self:
        with _CONNECTING:
            return super().__enter__()


class Guest(Daemon):
    """A daemon that computes while no other of this process does; they share torch's state."""

    link_type = Link

    def _begin(self) -> None:
        with _ONE_AT_A_TIME:
            super()._begin()

    def _reply(self, message: Message, *, node_id: int) -> Message:
        with _ONE_AT_A_TIME:
            return super()._reply(message, node_id=node_id)


def run(folder: Path, options: DaemonOptions, guests: list[Guest]) -> None:
    """Run a daemon in this thread, in which its databases are opened too."""
    with _ONE_AT_A_TIME:
        guest = Guest(MerchantHome.open(folder), options)
    guests.append(guest)
    guest.run()


def main() -> None:
    """Run them all, a thread each."""
    torch.set_num_threads(1)
    SHARED.share(_SHARED_BYTES)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    options = DaemonOptions(device=torch.device("cpu"))
    guests: list[Guest] = []
    threads = [
        threading.Thread(target=run, args=(Path(folder), options, guests), daemon=True)
        for folder in sys.argv[1:]
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    for guest in guests:
        guest.stop()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
