"""Daemons of merchants in threads of this process, and what they need: certificates, homes, a SuperLink."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Message
from flwr.serverapp import Grid

from fedrec.clients.daemon import Daemon, DaemonOptions
from fedrec.clients.merchant_home import MerchantHome
from fedrec.flower import fleet, set_task_identity
from fedrec.flower.superlink import SuperLinkHost
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.plan import Peer
from fedrec.protocol.tls import Certificates
from fedrec.protocol.transport import Body, unpack
from fedrec.server.certificates import make_server_certificates
from fedrec.server.request_signing import RequestSigner
from tests.support.cohort import Request, signed_request

NAME = "merchant-00"
SERVER = SigningIdentity.generate()
SERVER_KEY = SERVER.public.hex()


def make_certificates(folder: Path) -> Certificates:
    return make_server_certificates(folder, hosts=("127.0.0.1",))


def join_file(home: MerchantHome, *others: Peer, address: str, authority: Path) -> JoinFile:
    return JoinFile(
        address=address,
        authority=authority.read_text("ascii"),
        server_key=SERVER_KEY,
        roster=(Peer(name=NAME, signing_key=home.identity().public.hex()), *others),
    )


def merchant_home(folder: Path, *, address: str, authority: Path) -> MerchantHome:
    """A merchant's folder that has joined the server at an address."""
    home = MerchantHome.create(folder, name=NAME, data=folder / "no-photos", units=10)
    home.approve(join_file(home, address=address, authority=authority))
    return home


@dataclass
class Running:
    """A daemon and the thread that it lives in."""

    daemon: Daemon
    thread: threading.Thread

    def is_alive(self) -> bool:
        return self.thread.is_alive()


@contextmanager
def running(home: MerchantHome) -> Iterator[Running]:
    """Run a merchant's daemon in a thread, and stop it at the end."""
    made: list[Daemon] = []
    ready = threading.Event()

    def live() -> None:
        # A store is for the thread that opened it.
        made.append(Daemon(home, DaemonOptions(device=torch.device("cpu"))))
        ready.set()
        made[0].run()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield Running(made[0], thread)
    finally:
        with pytest.MonkeyPatch.context() as patch:
            # Its last reply has been read.
            patch.setattr(fleet, "LINGER_SECONDS", 0.1)
            made[0].stop()
            thread.join(30)
        assert not thread.is_alive()


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def eventually(condition: Callable[[], object], *, seconds: float = 40.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


@dataclass
class Server:
    """A SuperLink in this process, with one Flower run open."""

    host: SuperLinkHost
    grid: Grid
    signer: RequestSigner

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.host.port}"

    def is_up(self, node: int) -> bool:
        return node in list(self.grid.get_node_ids())

    def ask(
        self,
        node: int,
        kind: str,
        request: Request,
        answer: type[Body],
        *,
        pause: float = 0.0,
        recipient: str = NAME,
    ) -> Body:
        """Send a signed request to a connected merchant; returns its reply, pulled ``pause`` seconds on."""
        # The merchant's thread shares Flower's identity of the process.
        set_task_identity(run_id=self.grid.run.run_id, node_id=1)
        content = signed_request(self.signer, request, recipient=recipient)
        message = self.grid.create_message(content, kind, node, "1", ttl=60)
        pushed = list(self.grid.push_messages([message]))
        time.sleep(pause)
        replies: list[Message] = []

        def arrived() -> bool:
            replies.extend(self.grid.pull_messages(pushed))
            return bool(replies)

        # Flower's own loop asks every 3 s.
        eventually(arrived)
        (reply,) = replies
        return unpack(reply.content, answer, max_blob_bytes=10**7)[0]


@contextmanager
def serving(certificates: Certificates) -> Iterator[Server]:
    host = SuperLinkHost(certificates=certificates, private=certificates, host="127.0.0.1", port=0)
    host.start()
    try:
        with host.open_run() as (grid, _), TemporaryDirectory() as scratch:
            signer = RequestSigner(Path(scratch) / "requests.json", identity=SERVER, names=dict)
            yield Server(host, grid, signer)
    finally:
        host.stop()
