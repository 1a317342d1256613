"""What an exchange of messages costs by itself: seconds, and what the server's process holds meanwhile.

Merchants (a process each) answer train requests with random bytes of the size asked for, over TLS on
loopback; the server asks and takes as the coordinator does. Nothing is trained, noised or encrypted. The
ratios are what the server's resident set grows by, over the bytes of the largest updates in flight.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("FLWR_HOME", tempfile.mkdtemp(prefix="fedrec-flower-"))

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.serverapp import Grid
from measure import Options, finish, peak_bytes

from fedrec.flower.fleet import FleetLink
from fedrec.flower.superlink import SuperLinkHost
from fedrec.protocol.messages import TrainReply, TrainRequest
from fedrec.protocol.transport import pack
from fedrec.server.certificates import make_server_certificates
from fedrec.server.memory_release import give_memory_back
from fedrec.server.message_exchange import ExchangeSettings, ask

MB = 10**6
logging.getLogger("flwr").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Exchange:
    """So many merchants are sent ``down`` megabytes and answer with ``up``, several times."""

    merchants: int
    down: int
    up: int
    times: int


def exchanges(*, quick: bool) -> tuple[Exchange, ...]:
    """Return what is measured: the updates of everyday models, then those that fill the memory."""
    times, large = (5, 50) if quick else (20, 300)
    return (
        Exchange(merchants=3, down=0, up=0, times=times),
        Exchange(merchants=3, down=0, up=5, times=times),
        Exchange(merchants=3, down=5, up=5, times=times),
        Exchange(merchants=1, down=0, up=large, times=1),
        Exchange(merchants=3, down=0, up=large, times=1),
    )


def forget_peak() -> int:
    """Start the peak anew; returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def merchant(address: str, folder: Path, key_file: Path, size: int) -> None:
    """Answer every message with ``size`` bytes until stopped."""
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RuntimeError("not a node key")
    with FleetLink(address=address, ca=folder / "authority.pem", key=key) as link:
        while True:
            message = link.receive(wait=1.0)
            if message is None:
                continue
            reply = pack(TrainReply(merchant="m"), {"ciphertext": secrets.token_bytes(size)})
            link.send(Message(reply, reply_to=message), seconds=0.0)


@contextmanager
def connected(folder: Path, *, merchants: int, size: int) -> Iterator[tuple[Grid, list[int]]]:
    """Run a SuperLink here and merchants in processes of their own; yields the grid and their nodes."""
    certificates = make_server_certificates(folder, hosts=("127.0.0.1",))
    host = SuperLinkHost(certificates=certificates, private=certificates, host="127.0.0.1", port=0)
    give_memory_back()
    host.start()
    processes = []
    try:
        for number in range(merchants):
            key = ec.generate_private_key(ec.SECP384R1())
            host.admit(
                key.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
            path = folder / f"node-{number}.key"
            path.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            place = [f"127.0.0.1:{host.port}", str(folder), str(path), str(size)]
            processes.append(subprocess.Popen([sys.executable, __file__, "--merchant", *place]))
        with host.open_run() as (grid, _):
            while len(nodes := list(grid.get_node_ids())) < merchants:
                time.sleep(0.2)
            yield grid, nodes
    finally:
        for process in processes:
            process.terminate()
            process.wait(60)
        host.stop()


def measure(exchange: Exchange) -> dict[str, float]:
    """Ask and take ``exchange.times`` times, after once that doesn't count where there are several."""
    size = exchange.up * MB
    with (
        tempfile.TemporaryDirectory(prefix="fedrec-") as scratch,
        connected(Path(scratch), merchants=exchange.merchants, size=size) as (grid, nodes),
    ):
        seconds = []
        before = forget_peak()
        for round_number in range(exchange.times + (exchange.times > 1)):
            request = pack(
                TrainRequest(
                    training_id="0" * 64, round_number=round_number + 1, model_hash="0" * 64, sealing_keys=()
                ),
                {"model": secrets.token_bytes(exchange.down * MB)},
            )
            started = time.monotonic()
            answers = ask(
                grid,
                dict.fromkeys(nodes, request),
                ExchangeSettings(
                    message_type="train",
                    reply_type=TrainReply,
                    max_blob_bytes=size,
                    timeout=600,
                    group_id=str(round_number),
                ),
            )
            seconds.append(time.monotonic() - started)
            if [len(answer.blobs["ciphertext"]) for answer in answers.replies] != [size] * len(nodes):
                raise RuntimeError(f"not every update came through: {answers.failed}")
        peak = peak_bytes()
    counted = seconds[1:] or seconds
    return {
        "merchants": exchange.merchants,
        "megabytes_down": exchange.down,
        "megabytes_up": exchange.up,
        "seconds_median": statistics.median(counted),
        "seconds_worst": max(counted),
        "server_rise_mb": (peak - before) / MB,
    }


def main() -> None:
    """Measure them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50 MB instead of 300, and fewer times")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--merchant", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.merchant:
        address, folder, key, size = options.merchant
        merchant(address, Path(folder), Path(key), int(size))
        return
    rows = [measure(exchange) for exchange in exchanges(quick=options.quick)]
    largest = max(row["megabytes_up"] for row in rows)
    ratios = {
        f"memory_over_updates_{row['merchants']}": row["server_rise_mb"] / (largest * row["merchants"])
        for row in rows
        if row["megabytes_up"] == largest
    }
    finish("transport", Options(quick=options.quick, json=options.json), rows=rows, ratios=ratios)


if __name__ == "__main__":
    main()
