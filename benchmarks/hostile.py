"""What hostile peers cost the others: peak memory and time of a server and a merchant while they refuse.

    python benchmarks/hostile.py [--quick] [--json FILE]

Everything runs on loopback, and nothing is larger than what a peer may send. ``memory`` is the growth of a
process's resident memory at its peak, in MiB, and ``times_size`` that growth over the size of what was sent.
Rows of hostile plans, and, unless ``--quick``, of saboteurs and a silent merchant come from the files beside
this one.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import socket
import ssl
import statistics
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_HOME", tempfile.mkdtemp(prefix="fedrec-flower-"))

import hostile_plans
import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, RecordDict
from flwr.supercore.date import now
from hostile_rounds import rounds_rows
from measure import Options, finish, parse, peak_bytes, resident_bytes

from fedrec.clients.request_gate import RequestGate
from fedrec.errors import FedrecError
from fedrec.flower.objects import inflate
from fedrec.flower.superlink import SuperLinkHost
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.messages import JoinRequest, TrainReply, TrainRequest, UnmaskRequest
from fedrec.protocol.schema import Strict
from fedrec.protocol.transport import pack, unpack
from fedrec.server.certificates import make_server_certificates
from fedrec.server.request_signing import RequestSigner

logging.getLogger("flwr").setLevel(logging.CRITICAL)
MIB = 2**20
BARE = 2**19
"""What a schema reads by itself, for comparison: it takes hundreds of times as much."""
HASH = "ab" * 32
ROUND = b'{"training_id":"' + HASH.encode() + b'","round_number":1,"survivors":['
UPLOAD = b'{"merchant":"m0","signed":{"commitment":{"key_commitments":['
PLANNED = b'{"plan":{"classes":['
PATTERNS: dict[str, Callable[[bytes, int], bytes]] = {
    "empty arrays": lambda start, size: start + b"[]," * (size // 3),
    "empty objects": lambda start, size: start + b"{}," * (size // 3),
    "numbers": lambda start, size: start + b"1," * (size // 2),
    "texts": lambda start, size: start + b'"",' * (size // 3),
    "unknown keys": lambda start, size: b"{" + b",".join(b'"k%d":1' % n for n in range(size // 11)) + b"}",
    "one key": lambda start, size: b"{" + b'"plan":1,' * (size // 9) + b"}",
    "deep": lambda start, size: b"[" * size,
    "one text": lambda start, size: start + b'"' + b"a" * size,
}


def _measured(work: Callable[[], object], answer: Any) -> None:
    """Run in a process of its own: the growth of its resident memory at the peak, and its CPU seconds."""
    Path("/proc/self/clear_refs").write_text("5")
    before, started = resident_bytes(), time.process_time()
    try:
        work()
        said = "taken"
    except (FedrecError, ValueError, TypeError, KeyError) as error:
        said = str(error)[:100]
    answer.send((peak_bytes() - before, time.process_time() - started, said))


def alone(work: Callable[[], object]) -> tuple[int, float, str]:
    """Do something in a fork, so that what came before doesn't show."""
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_measured, args=(work, far))
    process.start()
    found: tuple[int, float, str] = near.recv()
    process.join()
    return found


def bodies(size: int) -> list[dict[str, Any]]:
    """Malformed JSON, as a merchant's reply to the server and as a server's request to a merchant."""
    rows = []
    kinds: tuple[tuple[str, type[Strict], bytes], ...] = (
        ("server", TrainReply, UPLOAD),
        ("merchant", JoinRequest, PLANNED),
        ("merchant", UnmaskRequest, ROUND),
    )
    for who, kind, start in kinds:
        for name, make in PATTERNS.items():
            raw = make(start, size)
            content = RecordDict({"body": ConfigRecord({"json": raw})})
            grown, seconds, said = alone(lambda: unpack(content, kind, max_blob_bytes=0))  # noqa: B023
            rows.append(_row(f"body: {kind.__name__}, {name}", who, len(raw), grown, seconds, said))
    for name, make in PATTERNS.items():
        raw = make(PLANNED, BARE)
        grown, seconds, _ = alone(lambda: str(JoinRequest.model_validate_json(raw)))  # noqa: B023
        rows.append(
            _row(f"body: JoinRequest, {name}, by the schema alone", "-", len(raw), grown, seconds, "")
        )
    return rows


def objects(size: int) -> list[dict[str, Any]]:
    """What Flower's own reading of a message's objects would make something large of."""
    made = {
        "record of numbers": ConfigRecord({"x": [1] * (size // 2)}).deflate(),
        "record of empty bytes": ConfigRecord({"x": [b""] * (size // 4)}).deflate(),
        "record of many names": ConfigRecord({str(n): b"" for n in range(size // 20)}).deflate(),
    }
    rows = []
    for name, raw in made.items():
        grown, seconds, said = alone(lambda: inflate(raw, {}))  # noqa: B023
        rows.append(_row(f"object: {name}", "server and merchant", len(raw), grown, seconds, said))
        grown, seconds, said = alone(lambda: ConfigRecord.inflate(raw, {}))  # noqa: B023
        rows.append(_row(f"object: {name}, by Flower's own reading", "-", len(raw), grown, seconds, said))
    return rows


def _row(what: str, who: str, size: int, grown: int, seconds: float, said: str) -> dict[str, Any]:
    return {
        "what": what,
        "who": who,
        "mib_sent": size / MIB,
        "mib_memory": grown / MIB,
        "times_size": grown / size,
        "seconds": seconds,
        "answer": said,
    }


def signing(model_bytes: int, count: int) -> dict[str, Any]:
    """The CPU time of signing a request and of checking it, with the blobs' hashes and without."""
    with tempfile.TemporaryDirectory() as folder:
        identity = SigningIdentity.generate()
        signer = RequestSigner(Path(folder) / "requests.json", identity=identity, names=dict)
        gate = RequestGate(Path(folder) / "requests.bin", merchant="m0", server_key=identity.public.hex())
        body = TrainRequest(training_id=HASH, round_number=1, model_hash=HASH, sealing_keys=())
        content = pack(body, {"model": secrets.token_bytes(model_bytes)})
        signed_in, checked_in = [], []
        for _ in range(count):
            started = time.process_time()
            signed = signer.sign(content, kind="train", training_id=HASH, round_number=1, recipient="m0")
            between = time.process_time()
            gate.check(signed, kind="train")
            signed_in.append(between - started)
            checked_in.append(time.process_time() - between)
    sign, check = 1e3 * statistics.median(signed_in), 1e3 * statistics.median(checked_in)
    return {
        "what": f"signed request, {model_bytes} bytes of model",
        "ms_sign": sign,
        "ms_check": check,
        "ms_in_all": sign + check,
    }


class Merchant:
    """An admitted key, and requests that show it."""

    def __init__(self, host: SuperLinkHost, context: ssl.SSLContext) -> None:
        self._key = ec.generate_private_key(ec.SECP384R1())
        self._pem = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        host.admit(self._pem)
        self._url = f"https://127.0.0.1:{host.port}/v1/fleet/pull-messages"
        self._context = context

    def seconds(self) -> float:
        """How long a request takes to be answered, over a connection of its own."""
        said = now().isoformat().encode()
        headers = {
            "flwr-public-key": b64encode(self._pem).decode(),
            "flwr-timestamp": said.decode(),
            "flwr-signature": b64encode(self._key.sign(said, ec.ECDSA(hashes.SHA256()))).decode(),
            "content-type": "application/protobuf",
        }
        started = time.monotonic()
        with httpx.Client(verify=self._context, timeout=30) as client:
            client.post(self._url, content=b"0", headers=headers)
        return time.monotonic() - started


def strangers(count: int, requests: int) -> list[dict[str, Any]]:
    """Connections that hold a request's body, its headers or a handshake open, beside honest merchants."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made = make_server_certificates(Path(folder), hosts=("127.0.0.1",))
        host = SuperLinkHost(certificates=made, private=made, host="127.0.0.1", port=0)
        host.start()
        context = ssl.create_default_context(cafile=str(made.authority))
        merchant = Merchant(host, context)
        idle = max(merchant.seconds() for _ in range(requests))
        try:
            for name in ("bodies", "headers", "handshakes"):
                Path("/proc/self/clear_refs").write_text("5")
                before, started = resident_bytes(), time.process_time()
                held = [_held(name, host.port, context) for _ in range(count)]
                slowest = max(merchant.seconds() for _ in range(requests))
                rows.append(
                    {
                        "what": f"{count} strangers that hold open {name}",
                        "who": "server",
                        "mib_memory": (peak_bytes() - before) / MIB,
                        "seconds": time.process_time() - started,
                        "slowest_honest_request": slowest,
                        "without_strangers": idle,
                    }
                )
                for one in held:
                    one.close()
        finally:
            host.stop()
    return rows


def _held(what: str, port: int, context: ssl.SSLContext) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", port))
    if what == "handshakes":
        return raw
    raw.settimeout(5)
    try:
        made = context.wrap_socket(raw, server_hostname="127.0.0.1")
        head = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\n"
        made.sendall(
            head + (b"content-length: 31457280\r\n\r\n" + b"x" * 2**16 if what == "bodies" else b"a: b")
        )
    except OSError:
        return raw
    return made


def warm() -> None:
    """Import and build what a first use does, so that it shows in no row."""
    for kind in (TrainReply, JoinRequest, UnmaskRequest):
        with suppress(FedrecError):
            unpack(RecordDict({"body": ConfigRecord({"json": b"{}"})}), kind, max_blob_bytes=0)
        with suppress(ValueError):
            kind.model_validate_json(b"{}")


def main(options: Options) -> None:
    """Run every attack, and write what it cost."""
    warm()
    rows = bodies(5 * MIB) + objects(2 * MIB)
    rows += [signing(size, 50 if options.quick else 500) for size in (0, 4 * 10**6)]
    rows += strangers(60 if options.quick else 200, 5 if options.quick else 20)
    rows += hostile_plans.rows()
    if not options.quick:
        rows += map(dict, rounds_rows(quick=False))
    finish("hostile", options, rows=rows, ratios={})


if __name__ == "__main__":
    main(parse(__doc__ or ""))
