"""The guard before Flower: who is heard, how much of each, and what a merchant may push."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.date import now

from fedrec.flower import connection_limits as limits
from fedrec.flower import guard
from fedrec.flower.connection_limits import ConnectionLimits
from fedrec.flower.framing import PULL, PUSH, framed, unframed
from fedrec.flower.guard import MAX_OTHER_BYTES, MAX_PUSH_BYTES, MAX_REQUEST_BYTES, OBJECT, Guard
from fedrec.flower.listener import Listener
from fedrec.flower.token_buckets import TokenBuckets
from fedrec.protocol.tls import Certificates
from tests.support.callers import CLIENT, KEY, NODE, Call, Headers, admitted, pushed, signed_headers
from tests.support.daemons import public_pem

HEARTBEAT = "/v1/fleet/send-node-heartbeat"
MIB = 2**20


class Behind:
    """The app behind the guard: keeps what reached it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


def guarded(app: Any, told: list[str] | None = None, connections: ConnectionLimits | None = None) -> Guard:
    kept = [] if told is None else told
    return Guard(
        app, admitted=admitted, on_refusal=lambda address, path: kept.append(path), connections=connections
    )


def others_key() -> Headers:
    """A key that is admitted, and another's signature."""
    stranger = ec.generate_private_key(ec.SECP384R1())
    return (signed_headers()[0], *signed_headers(stranger)[1:])


@pytest.mark.parametrize(
    "headers",
    [
        (),
        signed_headers()[1:],
        signed_headers()[:1],
        signed_headers(ec.generate_private_key(ec.SECP384R1())),
        others_key(),
        signed_headers(at=now() - timedelta(seconds=400)),
        signed_headers(at=now() + timedelta(days=1)),
        signed_headers(at=now().replace(tzinfo=None)),
        (signed_headers()[0], (b"flwr-timestamp", b"never"), signed_headers()[2]),
        (signed_headers()[0], (b"flwr-timestamp", b"\xff"), signed_headers()[2]),
        ((b"flwr-public-key", b"%%%"), *signed_headers()[1:]),
        ((b"flwr-public-key", b"A" * 10**5), *signed_headers()[1:]),
    ],
    ids=[
        "nothing", "no key", "no time", "stranger", "stolen key", "old", "early", "no zone", "no date",
        "no text", "no base64", "long",
    ],
)  # fmt: skip
def test_no_body_is_read_without_an_admitted_key(headers: Headers) -> None:
    behind, told = Behind(), list[str]()
    call = Call(body=(b"x" * 1000,), headers=headers)
    assert call.to(guarded(behind, told), OBJECT) == 401
    assert call.taken == 0 and behind.bodies == [] and "a key that is not admitted" in told[0]


def test_each_request_has_its_own_largest_size() -> None:
    for path, most in ((PULL, MAX_OTHER_BYTES), (PUSH, MAX_PUSH_BYTES), (OBJECT, MAX_REQUEST_BYTES)):
        behind = Behind()
        for length in (b"%d" % (most + 1), b"-5", b"many", b"9" * 5000):
            call = Call(length=length)
            assert (call.to(guarded(behind), path), call.taken) == (413, 0)
        call = Call(length=b"")
        assert (call.to(guarded(behind), path), call.taken) == (411, 0)
        assert behind.bodies == []
    behind = Behind()
    assert Call(body=(b"a" * MIB, b"b" * MIB)).to(guarded(behind), OBJECT) == 200
    assert behind.bodies == [b"a" * MIB + b"b" * MIB]
    # More than was said, where a server would let it through.
    endless = Call(body=(b"x" * 1000,) * 100, length=b"1500")
    assert (endless.to(guarded(behind), OBJECT), endless.taken) == (413, 2)


async def broken() -> Any:
    raise ConnectionError


def test_all_requests_together_are_limited_in_memory_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    app = guarded(Behind())
    for limit in ("MAX_HELD_BYTES", "MAX_HELD_BYTES_PER_KEY"):
        with monkeypatch.context() as patch:
            patch.setattr(guard, limit, 1000)
            assert Call(body=(b"x" * 1000,)).to(app, OBJECT) == 200
            patch.setattr(guard, "BODY_SECONDS", 0.1)
            assert Call(body=(b"x" * 1001,)).to(app, OBJECT) == 503
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.1)
    dripped = Call(length=b"100")
    dripped.taken = 1  # nothing comes
    assert dripped.to(app, OBJECT) == 408
    with pytest.raises(ConnectionError):
        asyncio.run(app(Call(length=b"100").scope(OBJECT), broken, dripped.send))
    assert (app._held.total(), app._requests.total()) == (0, 0)


def test_a_waiting_request_proceeds_when_memory_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_HELD_BYTES_PER_KEY", 1000)
    running, most = 0, 0

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})

    app = guarded(slow)

    async def together() -> list[int]:
        calls = [Call(body=(b"x" * 600,)) for _ in range(4)]
        await asyncio.gather(*(app(call.scope(OBJECT), call.receive, call.send) for call in calls))
        return [call.status for call in calls]

    assert asyncio.run(together()) == [200] * 4
    assert most == 1


def test_concurrent_requests_of_a_key_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_REQUESTS_PER_KEY", 3)

    let_go = asyncio.Event()

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await let_go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    app = guarded(hangs)

    async def together() -> list[int]:
        calls = [Call() for _ in range(5)]
        asked = [asyncio.ensure_future(app(call.scope(PULL), call.receive, call.send)) for call in calls]
        while sum(one.done() for one in asked) < 2:
            await asyncio.sleep(0.01)
        let_go.set()
        await asyncio.gather(*asked)
        return [call.status for call in calls]

    assert asyncio.run(together()) == [200] * 3 + [429] * 2


def doubling(depth: int) -> ObjectTree:
    """Each level names the next one twice: followed by what the store keeps of it, it has 2^depth nodes."""
    made = ObjectTree(object_id=f"{depth:064x}")
    if depth:
        made.children.extend([doubling(depth - 1), ObjectTree(object_id=f"{depth - 1:064x}")])
    return made


def chain(length: int) -> ObjectTree:
    made = ObjectTree(object_id=f"{length:064x}")
    if length > 1:
        made.children.append(chain(length - 1))
    return made


@pytest.mark.parametrize(
    "body",
    [
        pushed(reply_to_message_id=""),
        pushed(reply_to_message_id="", src_node_id=1, dst_node_id=9),
        pushed(src_node_id=9),
        pushed(src_node_id=1),
        pushed(dst_node_id=9),
        framed(2 * unframed(pushed())[0], ()),
        pushed()[:-1],
        b"",
        framed(b"\xff" * 1000, ()),
        framed(b"\x1a\x00" * 50_000, ()),
        pushed(tree=ObjectTree(object_id="short")),
        pushed(tree=doubling(4)),
        pushed(tree=chain(6)),
    ],
    ids=[
        "no reply", "an instruction", "another's", "the server's", "to another", "two", "cut", "nothing",
        "garbage", "countless trees", "no object", "a tree that doubles", "a deep tree",
    ],
)  # fmt: skip
def test_a_pushed_message_must_be_a_reply_of_the_callers_own_node(body: bytes) -> None:
    behind = Behind()
    assert Call(body=(body,)).to(guarded(behind), PUSH) == 403
    assert behind.bodies == []


def test_an_honest_reply_passes() -> None:
    behind = Behind()
    assert Call(body=(pushed()[:10], pushed()[10:])).to(guarded(behind), PUSH) == 200
    assert behind.bodies == [pushed()]
    assert Call(body=(pushed(tree=chain(5)),)).to(guarded(behind), PUSH) == 200


# --- connections -----------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """A connection as the limits know it: a real socket, whose other end tells when it was shut."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.far.setblocking(False)

    @property
    def is_shut(self) -> bool:
        if self.near.fileno() == -1:
            return True
        try:
            return self.far.recv(1) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def peer() -> Iterator[Callable[[], Peer]]:
    made: list[Peer] = []

    def make() -> Peer:
        made.append(Peer())
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_tokens_come_back_with_time() -> None:
    clock = Clock()
    buckets = TokenBuckets((3, 2), now=clock)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b")
    clock.now += 1.0
    assert [buckets.take("a") for _ in range(3)] == [True, True, False]
    clock.now += 100.0
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]


def test_a_client_without_a_key_loses_its_own_oldest_connections(
    monkeypatch: pytest.MonkeyPatch, peer: Callable[[], Peer]
) -> None:
    monkeypatch.setattr(limits, "MAX_STRANGERS_PER_ADDRESS", 3)
    monkeypatch.setattr(limits, "MAX_STRANGERS", 5)
    clock = Clock()
    connections = ConnectionLimits(now=clock)
    merchant, other = peer(), peer()
    assert connections.arrive(merchant.near, ("10.0.0.1", 1)) and connections.recognise(
        ("10.0.0.1", 1), b"key"
    )
    assert connections.arrive(other.near, ("10.0.0.2", 1))
    strangers = [peer() for _ in range(6)]
    for port, one in enumerate(strangers, start=2):
        clock.now += 0.1
        assert connections.arrive(one.near, ("10.0.0.1", port))
    assert [one.is_shut for one in strangers] == [True] * 3 + [False] * 3
    assert not merchant.is_shut and not other.is_shut
    # From many addresses: whoever has most gives way.
    more = [peer() for _ in range(2)]
    for number, one in enumerate(more):
        assert connections.arrive(one.near, (f"10.0.1.{number}", 1))
    shut = [one.is_shut for one in (*strangers[3:], other, *more)]
    assert shut == [True] + [False] * 5


def test_idle_connections_are_closed(peer: Callable[[], Peer]) -> None:
    clock = Clock()
    connections = ConnectionLimits(now=clock)
    stranger, merchant, busy = (peer() for _ in range(3))
    for port, one in enumerate((stranger, merchant, busy)):
        connections.arrive(one.near, ("10.0.0.1", port))
    for port in (1, 2):
        connections.recognise(("10.0.0.1", port), b"key")
        connections.begin(("10.0.0.1", port))
    connections.end(("10.0.0.1", 1))
    clock.now += limits.STRANGER_SECONDS + 0.1
    connections.sweep()
    assert [one.is_shut for one in (stranger, merchant, busy)] == [True, False, False]
    clock.now += limits.QUIET_SECONDS
    connections.sweep()
    assert [one.is_shut for one in (merchant, busy)] == [True, False]
    for one in (stranger, merchant, busy):
        one.near.close()
    connections.sweep()
    assert connections._open == {}


def test_new_connections_have_a_rate_and_each_key_a_number(
    monkeypatch: pytest.MonkeyPatch, peer: Callable[[], Peer]
) -> None:
    monkeypatch.setattr(limits, "PER_ADDRESS", (5.0, 1.0))
    monkeypatch.setattr(limits, "PER_KEY", (3.0, 1.0))
    monkeypatch.setattr(limits, "MAX_CONNECTIONS_PER_KEY", 2)
    clock = Clock()
    connections = ConnectionLimits(now=clock)
    peers = [peer() for _ in range(6)]
    taken = [connections.arrive(one.near, ("10.0.0.1", port)) for port, one in enumerate(peers)]
    assert taken == [True] * 5 + [False]
    assert peers[5].is_shut
    assert [connections.recognise(("10.0.0.1", port), b"key") for port in range(4)] == [True] * 3 + [False]
    assert [one.is_shut for one in peers[:3]] == [True, False, False]
    assert connections.recognise(("10.0.0.1", 1), b"key")  # as often as it likes over one connection


def test_a_key_that_opens_too_many_connections_is_told_so(
    monkeypatch: pytest.MonkeyPatch, peer: Callable[[], Peer]
) -> None:
    monkeypatch.setattr(limits, "PER_KEY", (1.0, 0.0))
    connections = ConnectionLimits()
    connections.arrive(peer().near, CLIENT)
    connections.arrive(peer().near, (CLIENT[0], 5))
    app = guarded(Behind(), connections=connections)
    assert Call().to(app) == 200
    second = Call()
    asyncio.run(app(second.scope(PULL, (CLIENT[0], 5)), second.receive, second.send))
    assert second.status == 429


# --- over TLS --------------------------------------------------------------------------------------------


@pytest.fixture
def listener(certificates: Certificates) -> Iterator[Listener]:
    connections = ConnectionLimits()
    made = Listener(
        guarded(Behind(), connections=connections),
        host="127.0.0.1",
        port=0,
        certificates=certificates,
        lifespan=False,
        connections=connections,
    )
    made.start()
    yield made
    made.stop()


def context_of(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificates.authority))


def head_of(length: int, path: str = OBJECT, headers: Headers = ()) -> bytes:
    lines = [f"POST {path} HTTP/1.1".encode(), b"host: x", b"content-length: %d" % length]
    return b"\r\n".join([*lines, *(b"%s: %s" % pair for pair in headers), b"", b""])


def is_ended(connection: ssl.SSLSocket, *, seconds: float) -> bool:
    """Whether the server ends a connection in time."""
    connection.settimeout(seconds)
    try:
        while connection.recv(2**16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_clients_without_a_key_hold_no_memory_and_delay_nobody(
    listener: Listener, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the report: 33 bodies that stand open; beside them headers and handshakes that don't end."""
    monkeypatch.setattr(limits, "STRANGER_SECONDS", 1000.0)
    address, context = ("127.0.0.1", listener.port), context_of(certificates)
    strangers: list[ssl.SSLSocket] = []
    raw = [socket.create_connection(address) for _ in range(20)]  # these never shake hands
    for number in range(40):
        one = context.wrap_socket(socket.create_connection(address), server_hostname="127.0.0.1")
        # A body that never comes, and headers that never end.
        one.sendall(head_of(30 * MIB) + b"x" * 1000 if number < 33 else b"POST /v1/fleet/x HTTP/1.1\r\na: ")
        strangers.append(one)
    url = f"https://127.0.0.1:{listener.port}"
    with httpx.Client(verify=context, base_url=url, timeout=60) as client:
        for _ in range(5):
            headers = {name.decode(): value.decode() for name, value in signed_headers()}
            assert client.post(PULL, content=b"x", headers=headers).status_code == 200
    # They were answered while those whose headers don't end were there still; the others are refused at once.
    assert not any(is_ended(one, seconds=0.001) for one in strangers[33:])
    monkeypatch.setattr(limits, "STRANGER_SECONDS", 0.0)
    assert all(is_ended(one, seconds=30) for one in strangers)
    for half in raw:
        half.settimeout(30)
        assert half.recv(1) == b""
    for both in (*strangers, *raw):
        both.close()


def test_the_size_of_headers_is_limited(listener: Listener, certificates: Certificates) -> None:
    context = context_of(certificates)
    address = ("127.0.0.1", listener.port)
    with context.wrap_socket(socket.create_connection(address), server_hostname="127.0.0.1") as one:

        def flood() -> None:
            try:
                for _ in range(64):
                    one.sendall(b"a: " + b"b" * MIB)
            except OSError:
                pass

        one.sendall(b"POST /v1/fleet/x HTTP/1.1\r\n")
        thread = threading.Thread(target=flood)
        thread.start()
        assert is_ended(one, seconds=5)
        thread.join(10)
        assert not thread.is_alive()


def test_a_body_that_arrives_too_slowly_is_given_up(
    listener: Listener, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    context = context_of(certificates)
    address = ("127.0.0.1", listener.port)
    with context.wrap_socket(socket.create_connection(address), server_hostname="127.0.0.1") as one:
        one.sendall(head_of(1000, headers=signed_headers()) + b"x")
        one.settimeout(5)
        assert b" 408 " in one.recv(2**16)


def test_admission_follows_the_host(tmp_path: Path, certificates: Certificates) -> None:
    from fedrec.flower.superlink import SuperLinkHost

    told: list[str] = []
    host = SuperLinkHost(
        certificates=certificates,
        private=certificates,
        host="127.0.0.1",
        port=0,
        on_refusal=lambda address, path: told.append(path),
    )
    host.start()
    try:
        node = host.admit(public_pem(KEY))
        assert host.nodes() == {public_pem(KEY): node} and node != NODE
        url, beat = (f"https://127.0.0.1:{host.port}{path}" for path in (PULL, HEARTBEAT))
        headers = {name.decode(): value.decode() for name, value in signed_headers()}
        with httpx.Client(verify=context_of(certificates)) as client:
            # Flower itself finds nobody's node number in it.
            headers["content-type"] = "application/protobuf"
            assert client.post(beat, content=b"", headers=headers).status_code == 401
            assert told == [f"{HEARTBEAT} (a key that is not admitted, or a clock that is off)"]
            answer = client.post(url, content=b"0", headers=headers)
            assert (answer.status_code, answer.content) == (200, b"")
            host.revoke(node)
            assert host.nodes() == {}
            assert client.post(url, content=b"", headers=headers).status_code == 401
            assert len(told) == 2
    finally:
        host.stop()
