"""A merchant's request waits for a message, whose small objects come with it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message

from fedrec.flower import set_task_identity
from fedrec.flower.connection_errors import HEARTBEAT_SECONDS
from fedrec.flower.fleet import FleetLink
from fedrec.flower.framing import MOST_HELD_SECONDS, MOST_TOGETHER, PULL
from fedrec.flower.messages import CALLER
from fedrec.flower.node_activation import FleetCaller
from fedrec.protocol.messages import CloseRequest, TrainReply
from fedrec.protocol.tls import Certificates
from fedrec.protocol.transport import pack, unpack
from tests.support.daemons import Server, eventually, public_pem, serving

REQUEST = CloseRequest(training_id="ab" * 32)


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Server]:
    with serving(certificates) as made:
        yield made


@pytest.fixture
def links(server: Server, certificates: Certificates) -> Iterator[tuple[FleetLink, FleetLink]]:
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)]
    nodes = [server.host.admit(public_pem(key)) for key in keys]
    one, two = (FleetLink(address=server.address, ca=certificates.authority, key=key) for key in keys)
    with one, two:
        eventually(lambda: all(map(server.is_up, nodes)))
        yield one, two
        # No reply is on its way.
        one._sent_at = two._sent_at = None


def send(server: Server, node: int, blob: bytes = b"x") -> str:
    # A link in this process sets Flower's identity to its own.
    set_task_identity(run_id=server.grid.run.run_id, node_id=1)
    content = pack(REQUEST, {"model": blob})
    message = server.grid.create_message(content, "train", node, "1", ttl=60)
    (sent,) = server.grid.push_messages([message])
    return str(sent)


def replies(server: Server, sent: str) -> list[Message]:
    found: list[Message] = []

    def arrived() -> bool:
        found.extend(server.grid.pull_messages([sent]))
        return bool(found)

    eventually(arrived)
    return found


def test_a_request_waits_for_a_message_and_only_its_own(
    server: Server, links: tuple[FleetLink, FleetLink]
) -> None:
    one, two = links
    assert one.receive() is None and one.receive(wait=0.01) is None and two.receive(wait=0.01) is None
    began = time.monotonic()
    threading.Timer(0.3, send, (server, one.node_id)).start()
    message = one.receive(wait=20.0)
    assert message is not None and 0.2 < time.monotonic() - began < MOST_HELD_SECONDS
    assert unpack(message.content, CloseRequest, max_blob_bytes=1) == (REQUEST, {"model": b"x"})
    assert two.receive(wait=0.1) is None and one.receive(wait=0.1) is None


@pytest.mark.parametrize("size", [1, MOST_TOGETHER // 2, 2 * MOST_TOGETHER + 7, 11 * 2**20])
def test_what_does_not_fit_goes_in_requests_of_its_own_both_ways(
    server: Server, links: tuple[FleetLink, FleetLink], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = links[0]
    asked: list[str] = []
    for name in ("PullObject", "PushObject", "ConfirmMessageReceived"):
        original = getattr(link._client, name)

        def counted(request: Any, *, name: str = name, original: Any = original) -> Any:
            asked.append(name)
            return original(request)

        monkeypatch.setattr(link._client, name, counted)
    blob = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sent = send(server, link.node_id, blob)
    message = link.receive(wait=20.0)
    assert message is not None
    assert unpack(message.content, CloseRequest, max_blob_bytes=size)[1] == {"model": blob}
    link.send(Message(pack(TrainReply(merchant="m"), {"ciphertext": blob}), reply_to=message), seconds=0.0)
    (reply,) = replies(server, sent)
    assert unpack(reply.content, TrainReply, max_blob_bytes=size)[1] == {"ciphertext": blob}
    assert bool(asked) == (size > MOST_TOGETHER)
    # Nothing of either is kept.
    assert len(server.host._state.object_store) == 0


def test_a_message_is_not_lost_to_a_connection_that_is_gone(
    server: Server, links: tuple[FleetLink, FleetLink]
) -> None:
    """It closes while its request waits; the message that comes then is for the next request."""
    link = links[0]
    answered: list[Any] = []
    steps = iter(({"type": "http.request", "body": b"8000"}, {"type": "http.disconnect"}))

    async def receive() -> MutableMapping[str, Any]:
        return next(steps)

    async def answer(event: MutableMapping[str, Any]) -> None:
        answered.append(event)

    send(server, link.node_id)
    scope = {"type": "http", "path": PULL, CALLER: FleetCaller(key=b"", node=link.node_id, is_alone=False)}
    asyncio.run(server.host._messages(scope, receive, answer))
    assert answered == []
    assert link.receive() is not None


def test_who_leaves_is_answered_at_once_and_may_come_again_at_once(
    server: Server, certificates: Certificates
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    server.host.admit(public_pem(key))
    for _ in range(2):
        with FleetLink(address=server.address, ca=certificates.authority, key=key) as link:
            assert link.receive(wait=0.2) is None
        waiting = link._waiting
        assert waiting is not None
        waiting.join(HEARTBEAT_SECONDS / 2)
        assert not waiting.is_alive()
