"""Many merchants in one process, for measurements on one machine: each with its own home, keys and ledger.

python benchmarks/host.py HOME [HOME ...] answers the server for all of them in turn until SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["FLWR_HOME"] = tempfile.mkdtemp(prefix="fedrec-host-")

import torch

from fedrec.clients.daemon import Daemon, DaemonOptions
from fedrec.clients.merchant_home import MerchantHome
from fedrec.errors import ConnectionLostError, NotAdmittedError
from fedrec.flower.fleet import FleetLink

PAUSE_SECONDS = 0.05
RETRY_SECONDS = 2.0


@dataclass
class Guest:
    """One merchant, and its connection while it has one."""

    daemon: Daemon
    link: FleetLink | None = None
    retry_at: float = 0.0

    def answer(self) -> bool:
        """Answer the next message, if there is one; connect first, now and again, where need be."""
        try:
            if self.link is None:
                if time.monotonic() < self.retry_at:
                    return False
                self.link = self.daemon.connection().__enter__()
            return self.daemon.answer_next(self.link)
        except (ConnectionLostError, NotAdmittedError) as error:
            print(error, file=sys.stderr)
            self.leave()
            self.retry_at = time.monotonic() + RETRY_SECONDS
            return False

    def leave(self) -> None:
        """Give the connection up."""
        link, self.link = self.link, None
        if link is not None:
            link.__exit__(None, None, None)


def main() -> None:
    """Answer whoever was asked, in turn: Flower's identity is the process's own."""
    torch.set_num_threads(1)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    options = DaemonOptions(device=torch.device("cpu"))
    guests = [Guest(Daemon(MerchantHome.open(Path(folder)), options)) for folder in sys.argv[1:]]
    while not stop.is_set():
        if not sum(guest.answer() for guest in guests):
            time.sleep(PAUSE_SECONDS)
    for guest in guests:
        guest.leave()


if __name__ == "__main__":
    main()
