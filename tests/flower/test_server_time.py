"""A merchant whose clock is off signs the server's time; the server's window stays what it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto import fleet_pb2

from fedrec.flower import admission, clock
from fedrec.flower.clock import MOST_CORRECTED, ServerClock
from fedrec.flower.fleet_client import FleetClient
from fedrec.flower.signing import SigningInterceptor
from tests.support.daemons import public_pem


class Server:
    """Answers as the guard does, by a clock that differs from the merchant's. Time stands still meanwhile."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
        self.key, self.behind, self.admitted = public_pem(key), timedelta(0), True
        self.timestamps: list[datetime] = []
        self.moment = datetime.now(UTC)
        monkeypatch.setattr(clock, "datetime", SimpleNamespace(now=lambda zone: self.moment))
        monkeypatch.setattr(admission, "now", self.now)

    def now(self) -> datetime:
        return self.moment - self.behind

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.timestamps.append(datetime.fromisoformat(request.headers["flwr-timestamp"]))
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        known = admission.caller_of(
            headers, admitted=lambda key: 5 if key == self.key and self.admitted else None
        )
        date = {"date": format_datetime(self.now().replace(microsecond=0), usegmt=True)}
        if known is None:
            return httpx.Response(401, headers=date)
        return httpx.Response(
            200, headers=date, content=fleet_pb2.ActivateNodeResponse(node_id=5).SerializeToString()
        )


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _client(server: Server, key: ec.EllipticCurvePrivateKey) -> FleetClient:
    client = httpx.Client(transport=httpx.MockTransport(server.answer), trust_env=False)
    return FleetClient("https://server.example:1", client, [SigningInterceptor(key, ServerClock())])


@pytest.mark.parametrize("ahead", [-880, -310, -200, 0, 4, 6, 30, 880])
def test_a_clock_that_is_minutes_off_is_made_up_for(
    ahead: int, key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(key, monkeypatch)
    server.behind = timedelta(seconds=ahead)
    client = _client(server, key)
    for _ in range(3):
        assert client.ActivateNode(fleet_pb2.ActivateNodeRequest()).node_id == 5
    # One request more, the first time, and only where it was refused.
    assert len(server.timestamps) == (3 if -305 < ahead < 5 else 4)
    if len(server.timestamps) == 4:
        # The server tells its time to the second.
        assert abs((server.timestamps[-1] - server.now()).total_seconds()) <= 1
    # The clock is set while the merchant is connected.
    server.behind = timedelta(0)
    assert client.ActivateNode(fleet_pb2.ActivateNodeRequest()).node_id == 5


@pytest.mark.parametrize("ahead", [-2 * MOST_CORRECTED, 2 * MOST_CORRECTED])
def test_no_time_far_from_the_merchant_s_own_is_ever_signed(
    ahead: float, key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server could keep a signature of a time to come."""
    server = Server(key, monkeypatch)
    server.behind = timedelta(seconds=ahead)
    with pytest.raises(httpx.HTTPStatusError):
        _client(server, key).ActivateNode(fleet_pb2.ActivateNodeRequest())
    assert len(server.timestamps) == 1
    assert server.timestamps[0] == server.moment


def test_a_key_that_is_not_admitted_is_not_tried_again(
    key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(key, monkeypatch)
    server.admitted = False
    with pytest.raises(httpx.HTTPStatusError):
        _client(server, key).ActivateNode(fleet_pb2.ActivateNodeRequest())
    assert len(server.timestamps) == 1


def test_a_recorded_request_is_refused_once_the_window_has_passed(
    key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(key, monkeypatch)
    signed = admission.signed_headers(key, at=server.now())
    recorded = [(name.lower().encode(), value.encode()) for name, value in signed.items()]
    assert admission.caller_of(recorded, admitted=lambda key: 5) is not None
    for seconds in (-310, 10):
        server.behind = timedelta(seconds=seconds)
        assert admission.caller_of(recorded, admitted=lambda key: 5) is None
