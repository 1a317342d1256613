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
from contextlib import ExitStack
from pathlib import Path

os.environ["FLWR_HOME"] = tempfile.mkdtemp(prefix="fedrec-host-")

import torch

from fedrec.clients.daemon import Daemon, DaemonOptions
from fedrec.clients.home import MerchantHome

PAUSE_SECONDS = 0.05


def main() -> None:
    """Connect every merchant, then answer whoever was asked."""
    torch.set_num_threads(1)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    options = DaemonOptions(device=torch.device("cpu"))
    daemons = [Daemon(MerchantHome.open(Path(folder)), options) for folder in sys.argv[1:]]
    with ExitStack() as stack:
        links = [stack.enter_context(daemon.connection()) for daemon in daemons]
        while not stop.is_set():
            # Flower's identity is the process's own, so that its merchants take turns.
            answered = 0
            for daemon, link in zip(daemons, links, strict=True):
                answered += daemon.answer_next(link)
            if not answered:
                time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
