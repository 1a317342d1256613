"""Merchants connect, are cut off and connect again; nobody connects in another's place."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from google.protobuf.message import Message as ProtobufMessage

from fedrec.errors import NotAdmittedError, ServerBusyError
from fedrec.flower.admission import signed_headers
from fedrec.flower.connection_errors import HEARTBEAT_SECONDS, MOST_RETRY_SECONDS, explained
from fedrec.flower.fleet import FleetLink
from fedrec.flower.framing import PULL
from fedrec.flower.heartbeat_pace import MOST_HEARTBEAT_SECONDS, PACE_HEADER, HeartbeatPace
from fedrec.flower.http_client import http_client
from fedrec.flower.node_activation import ACTIVATE, DEACTIVATE, HEARTBEAT
from fedrec.protocol.tls import Certificates
from tests.support.daemons import Server, eventually, public_pem, serving


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Server]:
    with serving(certificates) as made:
        yield made


def admitted(server: Server) -> tuple[ec.EllipticCurvePrivateKey, int]:
    key = ec.generate_private_key(ec.SECP384R1())
    return key, server.host.admit(public_pem(key))


def cut(link: FleetLink) -> None:
    """End a link as a crash does: its connections close, and it says nothing."""
    link._stop.set()
    link._heartbeat.join(10)
    link._client.close()


def test_a_merchant_that_was_cut_off_connects_again_at_once_and_a_copy_of_it_never(
    server: Server, certificates: Certificates
) -> None:
    key, node = admitted(server)
    first, copy = (FleetLink(address=server.address, ca=certificates.authority, key=key) for _ in range(2))
    first.__enter__()
    assert first.receive() is None
    # Another process with the same key, such as one on a copy of the folder.
    with pytest.raises(NotAdmittedError, match="still held"):
        copy.__enter__()
    assert server.is_up(node) and first._lost is None
    began = time.monotonic()
    cut(first)

    def is_in() -> bool:
        try:
            with FleetLink(address=server.address, ca=certificates.authority, key=key) as link:
                return link.receive(wait=0.1) is None
        except NotAdmittedError:
            return False

    eventually(is_in)
    # Before, it took two missed heartbeats.
    assert time.monotonic() - began < HEARTBEAT_SECONDS / 2


def post(server: Server, path: str, content: bytes, *, ca: Certificates, headers: dict[str, str]) -> int:
    with http_client(ca=ca.authority, proxy=None, seconds=10.0) as client:
        url, kind = f"https://{server.address}{path}", {"content-type": "application/protobuf"}
        return client.post(url, content=content, headers=kind | headers).status_code


def test_nobody_connects_or_leaves_in_the_name_of_another_key(
    server: Server, certificates: Certificates
) -> None:
    (victim, node), (other, _) = admitted(server), admitted(server)
    with FleetLink(address=server.address, ca=certificates.authority, key=victim) as link:
        assert link.receive(wait=0.1) is None
        now = link._client._interceptors[1]._clock.now()  # type: ignore[attr-defined]
        own, forged = signed_headers(other, at=now), signed_headers(victim, at=now)
        # The victim's key, with a signature by the other merchant.
        forged["flwr-signature"] = own["flwr-signature"]
        enters = ActivateNodeRequest(public_key=public_pem(victim), heartbeat_interval=HEARTBEAT_SECONDS)
        leaves = DeactivateNodeRequest(node_id=node)
        beats = SendNodeHeartbeatRequest(node=Node(node_id=node), heartbeat_interval=HEARTBEAT_SECONDS)
        requests: list[tuple[str, ProtobufMessage]] = [
            (ACTIVATE, enters),
            (DEACTIVATE, leaves),
            (HEARTBEAT, beats),
        ]
        for path, request in requests:
            for headers in (own, forged, {}):
                content = request.SerializeToString()
                assert post(server, path, content, ca=certificates, headers=headers) == 401
        assert server.is_up(node) and link.receive(wait=0.1) is None and link._lost is None
        link._sent_at = None


def test_who_left_has_to_connect_before_it_gets_anything(server: Server, certificates: Certificates) -> None:
    key, _ = admitted(server)
    with FleetLink(address=server.address, ca=certificates.authority, key=key) as link:
        now = link._client._interceptors[1]._clock.now()  # type: ignore[attr-defined]
    headers = signed_headers(key, at=now)
    assert post(server, PULL, b"0", ca=certificates, headers=headers) == 410


def test_signs_of_life_are_as_far_apart_as_the_load_asks() -> None:
    pace = HeartbeatPace()
    assert pace.tell(1) == pace.told(1) == pace.slowest() == HEARTBEAT_SECONDS
    told = [pace.tell(node) for node in range(2000)]
    assert told[100] == HEARTBEAT_SECONDS and told == sorted(told) and told[-1] == MOST_HEARTBEAT_SECONDS
    # All of them together: 20 a second.
    assert 500 / told[499] <= 20.5
    for node in range(2000):
        pace.forget(node)
    pace.note_lateness(3.0)
    assert pace.tell(1) == 30.0
    for _ in range(100):
        pace.note_lateness(0.0)
    assert pace.tell(1) == HEARTBEAT_SECONDS


def test_a_busy_server_gives_each_merchant_a_time_of_its_own_to_come_again() -> None:
    clock = Clock()
    pace = HeartbeatPace(now=clock)
    assert not any(pace.seconds_until_entry() for _ in range(1000))
    pace.note_lateness(2.0)
    waits = [pace.seconds_until_entry() for _ in range(120)]
    assert waits[:20] == [0] * 20 and waits[20:] == sorted(waits[20:]) and waits[-1] == 10
    # They come when they were told, while the server is as busy as before, and all are let in.
    for wait in sorted(waits[20:]):
        clock.now = max(clock.now, 100.0 + wait)
        assert pace.seconds_until_entry() == 0 or wait == 1


def test_a_merchant_takes_no_interval_and_no_time_to_wait_that_would_silence_it(
    server: Server, certificates: Certificates
) -> None:
    link = FleetLink(
        address=server.address, ca=certificates.authority, key=ec.generate_private_key(ec.SECP384R1())
    )
    for told in ("nan", "inf", "-5", "0.001", "86400", "soon", "", "30.5"):
        link._follow_pace(httpx.Response(200, headers={PACE_HEADER: told}))
        assert link._interval == (30.5 if told == "30.5" else HEARTBEAT_SECONDS)
    request = httpx.Request("POST", "https://x")
    for told, seconds in (("7", 7.0), ("99999", MOST_RETRY_SECONDS)):
        answer = httpx.Response(503, headers={"retry-after": told}, request=request)
        error = explained(httpx.HTTPStatusError("busy", request=request, response=answer), address="x:1")
        assert isinstance(error, ServerBusyError) and error.seconds == seconds
    for told in ("-1", "999999999", "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = httpx.Response(503, headers={"retry-after": told}, request=request)
        error = explained(httpx.HTTPStatusError("busy", request=request, response=answer), address="x:1")
        assert not isinstance(error, ServerBusyError)
