"""What a merchant that waits costs the server: requests and bytes a second, and processor time.

Daemons as ``fedrec client start`` runs them, over TLS on loopback, with nothing to do: counted by the public
listener's guard.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_HOME", tempfile.mkdtemp(prefix="fedrec-flower-"))

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from measure import Options, finish

from fedrec.clients.merchant_home import MerchantHome
from fedrec.flower.asgi import Receive, Scope, Send
from fedrec.flower.guard import Guard
from fedrec.flower.superlink import SuperLinkHost
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.plan import Peer
from fedrec.server.certificates import make_server_certificates

logging.getLogger("flwr").setLevel(logging.ERROR)
SETTLE_SECONDS = 10.0
"""After the connections: the daemons prepare themselves."""


class Counted:
    """Counts every request that the public listener's guard gets, and the bytes of its body."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.bytes = 0
        passes, counts = Guard.__call__, self

        # The method's own self is the guard.
        async def counted(self: Guard, scope: Scope, receive: Receive, send: Send) -> None:
            counts.requests[str(scope.get("path"))] += scope["type"] == "http"

            async def measured() -> Any:
                event = await receive()
                counts.bytes += len(event.get("body", b""))
                return event

            await passes(self, scope, measured, send)

        Guard.__call__ = counted  # type: ignore[method-assign]


def join(folder: Path, name: str, *, address: str, authority: Path) -> MerchantHome:
    """Make a merchant's folder that has joined the server at ``address``."""
    home = MerchantHome.create(folder, name=name, data=folder / "photos", units=10)
    peers = (Peer(name=name, signing_key=home.identity().public.hex()),)
    text = authority.read_text("ascii")
    home.approve(JoinFile(address=address, authority=text, server_key="0" * 64, roster=peers))
    return home


def measure(folder: Path, *, merchants: int, seconds: float) -> dict[str, Any]:
    """Let so many daemons wait, and count for ``seconds``."""
    counted = Counted()
    certificates = make_server_certificates(folder, hosts=("127.0.0.1",))
    host = SuperLinkHost(certificates=certificates, private=certificates, host="127.0.0.1", port=0)
    host.start()
    processes = []
    try:
        for number in range(merchants):
            home = join(
                folder / f"home-{number}",
                f"merchant-{number:02}",
                address=f"127.0.0.1:{host.port}",
                authority=certificates.authority,
            )
            key = home.node_key().public_key()
            host.admit(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
            command = [sys.executable, "-m", "fedrec.cli", "client", "start", "--device", "cpu"]
            with (folder / f"{number}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen([*command, "--home", str(home.folder)], stdout=log, stderr=log)
                )
        while counted.requests["/v1/fleet/activate-node"] < merchants:
            time.sleep(0.2)
        time.sleep(SETTLE_SECONDS)
        before, body, cpu = counted.requests.copy(), counted.bytes, time.process_time()
        time.sleep(seconds)
        found, body, cpu = counted.requests - before, counted.bytes - body, time.process_time() - cpu
    finally:
        for process in processes:
            process.terminate()
            process.wait(60)
        host.stop()
    each = merchants * seconds
    return {
        "merchants": merchants,
        "seconds": seconds,
        "requests_a_second_each": found.total() / each,
        "body_bytes_a_second_each": body / each,
        "server_cpu_seconds_a_request": cpu / max(1, found.total()),
        "requests": dict(found),
    }


def main() -> None:
    """Measure it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="15 seconds instead of five minutes")
    parser.add_argument("--merchants", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedrec-") as folder:
        row = measure(Path(folder), merchants=options.merchants, seconds=15.0 if options.quick else 300.0)
    finish("idle", Options(quick=options.quick, json=options.json), rows=[row], ratios={})


if __name__ == "__main__":
    main()
