"""Updates of hundreds of megabytes: how long they take to the server, and what its process holds meanwhile.

Merchants (a process each) answer one train request with random bytes of the size asked for, over TLS on
loopback; the server takes them as the coordinator does. The ratio is what the server's resident set grows by,
over the bytes of the updates in flight.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("FLWR_HOME", tempfile.mkdtemp(prefix="fedrec-flower-"))

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from measure import Options, finish, peak_bytes

from fedrec.flower.fleet import FleetLink
from fedrec.flower.superlink import SuperLinkHost
from fedrec.protocol import TrainReply, TrainRequest
from fedrec.server.certificates import make_server_certificates
from fedrec.server.cohort import ask
from fedrec.server.memory import give_memory_back
from fedrec.wire import pack

MB = 10**6
logging.getLogger("flwr").setLevel(logging.ERROR)


def forget_peak() -> int:
    """Start the peak anew; returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def merchant(address: str, folder: Path, key_file: Path, size: int) -> None:
    """Answer one message with ``size`` bytes, and leave when standard input ends: not before it was taken."""
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RuntimeError("not a node key")
    with FleetLink(address=address, ca=folder / "authority.pem", key=key) as link:
        while (message := link.receive()) is None:
            time.sleep(0.1)
        reply = pack(TrainReply(merchant="m"), {"ciphertext": secrets.token_bytes(size)})
        link.send(Message(reply, reply_to=message), seconds=0.0)
        sys.stdin.read()


def measure(folder: Path, *, merchants: int, size: int) -> dict[str, float]:
    """Take one update of ``size`` bytes from each merchant."""
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
            command = [
                sys.executable,
                __file__,
                "--merchant",
                f"127.0.0.1:{host.port}",
                str(folder),
                str(path),
            ]
            processes.append(
                subprocess.Popen([*command, "--megabytes", str(size // MB)], stdin=subprocess.PIPE)
            )
        with host.open_run() as (grid, _):
            while len(nodes := list(grid.get_node_ids())) < merchants:
                time.sleep(0.2)
            request = pack(
                TrainRequest(training_id="0" * 64, round_number=1, model_hash="0" * 64, sealing_keys=())
            )
            before, started = forget_peak(), time.monotonic()
            answers = ask(
                grid,
                dict.fromkeys(nodes, request),
                message_type="train",
                reply_type=TrainReply,
                max_blob_bytes=size,
                timeout=600,
                group_id="1",
            )
            seconds, peak = time.monotonic() - started, peak_bytes()
        if [len(answer.blobs["ciphertext"]) for answer in answers.replies] != [size] * merchants:
            raise RuntimeError(f"not every update came through: {answers.failed}")
    finally:
        for process in processes:
            process.communicate(timeout=60)
        host.stop()
    return {
        "merchants": merchants,
        "update_bytes": size,
        "seconds": seconds,
        "server_rise_bytes": peak - before,
        "rise_over_updates": (peak - before) / (size * merchants),
    }


def main() -> None:
    """Measure one and three merchants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50 MB instead of 300")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--megabytes", type=int, help="size of an update")
    parser.add_argument("--merchant", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = (options.megabytes or (50 if options.quick else 300)) * MB
    if options.merchant:
        address, folder, key = options.merchant
        merchant(address, Path(folder), Path(key), size)
        return
    rows = []
    for merchants in (1, 3):
        with tempfile.TemporaryDirectory(prefix="fedrec-") as scratch:
            rows.append(measure(Path(scratch), merchants=merchants, size=size))
    ratios = {f"memory_over_updates_{row['merchants']}": row["rise_over_updates"] for row in rows}
    finish("large_update", Options(quick=options.quick, json=options.json), rows=rows, ratios=ratios)


if __name__ == "__main__":
    main()
