"""A server that answers with anything: a merchant loses the connection, never its life, and runs no code."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse, PushMessagesResponse
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import Metadata, ObjectTree, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from fedrec.clients import daemon_loop
from fedrec.errors import ConnectionLostError, NotAdmittedError
from fedrec.flower import error_reply, fleet, new_message, set_task_identity, superlink
from fedrec.flower.clock import ask_clock, clock_fault
from fedrec.flower.fleet import FleetLink
from fedrec.flower.framing import MOST_OBJECTS, MOST_TOGETHER, framed
from fedrec.flower.guard import Guard
from fedrec.protocol.messages import CloseRequest, JoinReply, JoinRequest, UnmaskRequest
from fedrec.protocol.shape import shape_of
from fedrec.protocol.tls import Certificates
from fedrec.server import certificates as server_certificates
from tests.support.daemons import eventually, merchant_home, public_pem, running, serving

ACTIVATE, PULL, PUSH = "activate-node", "pull-messages", "push-messages"
HEARTBEAT, OBJECT = "send-node-heartbeat", "pull-object"
GARBAGE = b"\xff\xfe<html>\x00 not protobuf"


@dataclass(frozen=True)
class Told:
    """An answer, byte for byte."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class HostileServer:
    """Answers each path of Fleet as it is told to; ``asked`` lists the paths in order."""

    def __init__(self, certificates: Certificates) -> None:
        self.answers: dict[str, Told] = {ACTIVATE: Told(ActivateNodeResponse(node_id=7).SerializeToString())}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                path = self.path.removeprefix("/v1/fleet/")
                outer.asked.append(path)
                told = outer.answers.get(path, Told())
                self.send_response_only(told.status)
                for name, value in ({"Date": format_datetime(datetime.now(UTC))} | told.headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(told.body)))
                self.end_headers()
                self.wfile.write(told.body)

            do_GET = do_POST  # noqa: N815

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.certificate, certificates.key)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        # The pause is how long a stop may take.
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, path: str, *, times: int, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while self.asked.count(path) < times:
            assert time.monotonic() < deadline, self.asked
            time.sleep(0.05)


@pytest.fixture
def server(certificates: Certificates) -> Iterator[HostileServer]:
    made = HostileServer(certificates)
    yield made
    made.stop()


def link_to(server: HostileServer, certificates: Certificates) -> FleetLink:
    key = ec.generate_private_key(ec.SECP384R1())
    return FleetLink(address=server.address, ca=certificates.authority, key=key)


def wire(message: Any) -> bytes:
    """A protobuf message's encoding."""
    encoded: bytes = message.SerializeToString()
    return encoded


def offer(*with_objects: bytes, objects: int = 1) -> bytes:
    """A message on offer, as it comes from the server: its head, the tree of its objects, some of them."""
    metadata: dict[str, Any] = {
        "run_id": 1,
        "message_id": "a" * 64,
        "src_node_id": 1,
        "dst_node_id": 7,
        "ttl": 60.0,
    }
    metadata |= {"message_type": "query.join", "created_at": time.time(), "src_task_id": 1}
    head = MessageProto(metadata=Metadata(**metadata), content=RecordDictProto())
    children = [ObjectTree(object_id=f"{number:064x}") for number in range(1, objects)]
    tree = ObjectTree(object_id="a" * 64, children=children)
    return framed(wire(PullMessagesResponse(messages_list=[head], message_object_trees=[tree])), with_objects)


def only_head() -> bytes:
    head = MessageProto(metadata=Metadata(run_id=1))
    return framed(wire(PullMessagesResponse(messages_list=[head])), ())


def found(content: bytes) -> bytes:
    return wire(PullObjectResponse(object_found=True, object_available=True, object_content=content))


DEEP = b'{"detail": ' + b"[" * 60_000
LONG = b'{"code": ' + b"9" * 5_000 + b', "detail": ""}'
CHUNKED = {"Transfer-Encoding": "chunked"}
ELSEWHERE = {"Location": "http://127.0.0.1:9/elsewhere"}


@pytest.mark.parametrize(
    "told",
    [
        Told(GARBAGE),
        Told(GARBAGE, 500),
        Told(DEEP, 401),
        Told(LONG, 412),
        Told(b"", 307, ELSEWHERE),
        Told(b"\x1f\x8bnot gzip", 200, {"Content-Encoding": "gzip"}),
        Told(b"a" + GARBAGE, 200, CHUNKED),
        Told(GARBAGE, 200, {"Date": "never"}),
        Told(GARBAGE, 401, {"Date": "Mon, 99 Foo 99999 99:99:99 GMT"}),
    ],
    ids=[
        "garbage",
        "error",
        "deep",
        "long number",
        "elsewhere",
        "gzip",
        "chunked",
        "date",
        "refused with a date",
    ],
)
@pytest.mark.parametrize("path", [ACTIVATE, PULL, PUSH, HEARTBEAT])
def test_an_answer_that_cant_be_read_is_a_lost_connection(
    server: HostileServer, certificates: Certificates, path: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "HEARTBEAT_SECONDS", 0.05 if path == HEARTBEAT else 10.0)
    server.answers[path] = told
    with pytest.raises((ConnectionLostError, NotAdmittedError)), link_to(server, certificates) as link:
        assert path != ACTIVATE
        if path == HEARTBEAT:
            server.wait_for(HEARTBEAT, times=1)
            link._heartbeat.join(10)
        if path == PUSH:
            link.send(reply(), seconds=0.0)
        link.receive()
    assert server.asked[0] == ACTIVATE and server.asked.count(path) == 1


def reply() -> Any:
    set_task_identity(run_id=1, node_id=7)
    asked = new_message(RecordDict(), message_type="query.join", node_id=7, group_id="1", ttl=60)
    return error_reply(asked, code=8, reason="no")


@pytest.mark.parametrize(
    ("pull", "content"),
    [
        (only_head(), b""),
        (offer(), PullObjectResponse(object_found=False).SerializeToString()),
        (offer(), found(b"")),
        (offer(), found(b"Message,,5\x00short")),
        (offer(), found(b"Message," + b"a" * 64 + b",0\x00")),
        (offer(), found(b"CustomDataClass,,0\x00")),
        (offer(), found(b"RecordDict,,2\x00{}")),
    ],
    ids=["no tree", "no object", "empty", "short", "its own child", "unknown class", "another class"],
)
def test_a_message_that_cant_be_put_together_is_a_lost_connection(
    server: HostileServer, certificates: Certificates, pull: bytes, content: bytes
) -> None:
    server.answers |= {PULL: Told(pull), OBJECT: Told(content)}
    with pytest.raises(ConnectionLostError), link_to(server, certificates) as link:
        link.receive()
    assert (OBJECT in server.asked) == (pull != only_head())


@pytest.mark.parametrize(
    "body",
    [
        offer(b"RecordDict,,2\x00{}"),
        framed(b"", ()),
        offer()[:-1],
        b"\xff\xff\xff\xff" + offer(),
        offer(*(b"%d" % number for number in range(MOST_OBJECTS + 1))),
        offer(bytes(MOST_TOGETHER + 1)),
        offer(bytes(MOST_TOGETHER), bytes(1)),
    ],
    ids=["another's object", "no head", "cut off", "endless", "many", "large", "large together"],
)
def test_objects_that_come_with_a_message_are_checked_before_any_is_built(
    server: HostileServer, certificates: Certificates, body: bytes
) -> None:
    server.answers[PULL] = Told(body)
    with pytest.raises(ConnectionLostError), link_to(server, certificates) as link:
        link.receive()
    assert OBJECT not in server.asked


def test_a_body_in_chunks_is_not_read_whatever_size_is_stated_beside_them(
    server: HostileServer, certificates: Certificates
) -> None:
    """Chunks go before the stated size: without end they would fill the merchant's memory."""
    link = link_to(server, certificates)
    with link:
        server.answers[PULL] = Told()
        assert link.receive() is None
        server.answers[PULL] = Told(b"1\r\nx\r\n0\r\n\r\n", 200, CHUNKED)
        with pytest.raises(ConnectionLostError, match="chunks"):
            link.receive()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_loop, "_FIRST_RETRY", 0.1)


@pytest.mark.usefixtures("quick_retries")
def test_objects_are_held_only_up_to_the_limit_of_the_open_training(
    server: HostileServer, certificates: Certificates, tmp_path: Path
) -> None:
    """Each of them is as large as any may be; all together would fill the merchant's memory."""
    server.answers |= {PULL: Told(offer(objects=200)), OBJECT: Told(found(bytes(2**20)))}
    with pytest.raises(ConnectionLostError, match="larger than"), link_to(server, certificates) as link:
        link.receive(most_bytes=lambda: 5 * 2**20)
    assert 6 <= server.asked.count(OBJECT) <= 8
    server.asked.clear()
    home = merchant_home(tmp_path / "home", address=server.address, authority=certificates.authority)
    with running(home):
        # It is lost, and tries again: of a join no more than the largest plan is read.
        server.wait_for(ACTIVATE, times=2)
    # Each attempt for itself: it may have begun further ones before it was stopped.
    attempts = [one.count(OBJECT) for one in " ".join(server.asked).split(ACTIVATE)[1:]]
    largest = max(shape_of(kind).bytes for kind in (JoinRequest, UnmaskRequest)) // 2**20
    assert largest <= attempts[0] <= largest + 5 and max(attempts) <= largest + 5 < 40


def test_a_reply_that_the_server_wont_store_is_a_lost_connection(
    server: HostileServer, certificates: Certificates
) -> None:
    with pytest.raises(ConnectionLostError), link_to(server, certificates) as link:
        sent = reply()
        server.answers[PUSH] = Told(
            PushMessagesResponse(objects_to_push=[sent.object_id]).SerializeToString()
        )
        link.send(sent, seconds=0.0)
    assert "push-object" in server.asked


def test_no_redirect_is_followed(server: HostileServer, certificates: Certificates) -> None:
    other = HostileServer(certificates)
    try:
        server.answers[PULL] = Told(b"", 307, {"Location": f"https://{other.address}/v1/fleet/{PULL}"})
        with pytest.raises(ConnectionLostError, match="status 307"), link_to(server, certificates) as link:
            link.receive()
        assert other.asked == []
    finally:
        other.stop()


@pytest.mark.usefixtures("quick_retries")
def test_a_daemon_survives_every_answer(
    server: HostileServer, certificates: Certificates, tmp_path: Path
) -> None:
    good = server.answers[ACTIVATE]
    server.answers[ACTIVATE] = Told(GARBAGE)
    home = merchant_home(tmp_path / "home", address=server.address, authority=certificates.authority)
    with running(home) as thread:
        server.wait_for(ACTIVATE, times=1)
        server.answers |= {ACTIVATE: good, PULL: Told(GARBAGE)}
        server.wait_for(PULL, times=1)
        server.answers |= {PULL: Told(offer()), OBJECT: Told(found(GARBAGE))}
        server.wait_for(OBJECT, times=1)
        server.answers[PULL] = Told(GARBAGE, 401)
        before = server.asked.count(ACTIVATE)
        server.wait_for(ACTIVATE, times=before + 1)
        assert thread.is_alive()


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """The time by this machine's clock, which stands still: an answer may take any time to come."""
    stands = datetime.now(UTC).replace(microsecond=0)
    monkeypatch.setattr("fedrec.flower.clock.datetime", SimpleNamespace(now=lambda zone: stands))
    return stands


def header(moment: datetime, **off: float) -> dict[str, str]:
    """A server's date, where a clock that shows a moment is so far ahead of it."""
    return {"Date": format_datetime(moment - timedelta(**off))}


@pytest.mark.parametrize(
    ("off", "said"),
    [
        ({"hours": 1}, "3600 s ahead of the server"),
        ({"hours": -1}, "3600 s behind the server"),
        ({"seconds": 910}, "ahead of"),
        ({"seconds": -910}, "behind"),
        ({"seconds": 10}, "isn't enrolled"),
        ({"seconds": 0}, "isn't enrolled"),
        ({"seconds": -200}, "isn't enrolled"),
    ],
)
def test_a_wrong_clock_is_named(
    server: HostileServer, certificates: Certificates, moment: datetime, off: dict[str, float], said: str
) -> None:
    refused = b'{"detail": "Invalid SuperNode authentication"}'
    server.answers[ACTIVATE] = Told(refused, 401, header(moment, **off))
    with pytest.raises(NotAdmittedError, match=said), link_to(server, certificates):
        pass


def test_a_server_s_clock_is_asked_for_without_a_key(
    server: HostileServer, certificates: Certificates, moment: datetime
) -> None:
    server.answers["/health"] = Told(headers=header(moment, seconds=1000))
    ahead = ask_clock(server.address, ca=certificates.authority)
    assert ahead == 1000
    assert clock_fault(ahead) is not None and clock_fault(ahead - 200) is clock_fault(None) is None
    # Nothing of the answer but its headers is read, of which these promise more than ever comes.
    server.answers["/health"] = Told(b"ffffffff\r\n", headers=header(moment, seconds=100) | CHUNKED)
    started = time.monotonic()
    assert ask_clock(server.address, ca=certificates.authority) is not None
    assert time.monotonic() - started < 5
    server.answers["/health"] = Told(headers={"Date": "today"})
    assert ask_clock(server.address, ca=certificates.authority) is None


@pytest.mark.parametrize(
    ("host", "years", "said"),
    [
        ("127.0.0.1", 0, None),
        ("other.example", 0, "for another address than the join file's"),
        ("127.0.0.1", -4, "isn't valid at the time of this machine's clock"),
        ("127.0.0.1", 4, "isn't valid at the time of this machine's clock"),
    ],
)
def test_the_fault_of_a_certificate_is_named(
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    years: int,
    said: str | None,
) -> None:
    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(days=365 * years)

    monkeypatch.setattr(server_certificates, "datetime", Then)
    made = Certificates(certificates.authority, tmp_path / "server.pem", tmp_path / "server.key")
    server_certificates.make_server_certificate(
        hosts=("127.0.0.1",),
        authority=certificates.authority,
        authority_key=certificates.authority.with_name("authority.key"),
        certificate=made.certificate,
        key=made.key,
    )
    # Another machine's name, which leads here.
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *rest, **more: resolve("127.0.0.1", *rest, **more)
    )
    server = HostileServer(made)
    server.address = server.address.replace("127.0.0.1", host)
    try:
        if said is None:
            with link_to(server, certificates) as link:
                assert link.node_id == 7
            return
        with pytest.raises(ConnectionLostError, match=said), link_to(server, certificates):
            pass
        assert server.asked == []
    finally:
        server.stop()


CODE = """
from pathlib import Path
from types import SimpleNamespace

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

Path({marker!r}).write_text("this code was run")
client, server = ClientApp(), ServerApp()
"""
PROJECT = """
[project]
name = "attack"
version = "1.0.0"

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "attack:server"
clientapp = "attack:client"
"""


def test_code_that_a_server_offers_is_neither_asked_for_nor_run(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    marker = tmp_path / "marker"
    source = tmp_path / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "attack.py").write_text(CODE.format(marker=str(marker)))
    # Whoever runs what the bundle holds makes the file.
    exec((source / "attack.py").read_text())
    assert marker.exists()
    marker.unlink()
    bundle = build_fab_from_disk(source)
    assert b"attack.py" in bundle
    monkeypatch.setattr(superlink, "_thin_fab", lambda: bundle)
    asked: list[str] = []
    passes = Guard.__call__

    async def counted(self: Guard, scope: Any, receive: Any, send: Any) -> None:
        asked.append(str(scope.get("path")))
        await passes(self, scope, receive, send)

    monkeypatch.setattr(Guard, "__call__", counted)
    with serving(certificates) as started:
        home = merchant_home(tmp_path / "home", address=started.address, authority=certificates.authority)
        node = started.host.admit(public_pem(home.node_key()))
        with running(home) as thread:
            eventually(lambda: started.is_up(node))
            refused = started.ask(node, "query.join", CloseRequest(training_id="ab" * 32), JoinReply).refused
            assert refused is not None and refused.code == "request" and thread.is_alive()
        assert "/v1/fleet/pull-messages" in asked and not any("fab" in path for path in asked)
        # The offer stands: whoever asks for the code gets it.
        stranger = ec.generate_private_key(ec.SECP384R1())
        started.host.admit(public_pem(stranger))
        run = started.grid.run
        with FleetLink(address=started.address, ca=certificates.authority, key=stranger) as link:
            request = GetFabRequest(node=Node(node_id=link.node_id), hash_str=run.fab_hash, run_id=run.run_id)
            assert b"attack.py" in link._client.GetFab(request).fab.content
        assert "/v1/fleet/get-fab" in asked
    assert not marker.exists()
