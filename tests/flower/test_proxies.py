"""Which proxy a merchant goes through, and what it is told when that fails."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedrec.errors import ConfigError, ConnectionLostError
from fedrec.flower import proxies
from fedrec.flower.clock import ask_clock
from fedrec.flower.fleet import FleetLink
from fedrec.flower.http_client import http_client
from fedrec.flower.model_link import ModelLink
from fedrec.flower.proxies import proxy_for
from fedrec.protocol.tls import Certificates
from tests.flower.test_hostile_server import HostileServer

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "http://q:1", "HTTPS_PROXY": "http://p:1"}, "http://q:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "http://p:1"}, "http://p:1"),
        ({"all_proxy": "p"}, "http://p:80"),
        ({"HTTPS_PROXY": " p:3128 "}, "http://p:3128"),
        ({"HTTPS_PROXY": "HTTP://p:3128/"}, "http://p:3128"),
        ({"HTTPS_PROXY": "https://p"}, "https://p:443"),
        ({"HTTPS_PROXY": "http://[::1]:8"}, "http://[::1]:8"),
        ({"ALL_PROXY": "socks5://p"}, "socks5://p:1080"),
        ({"ALL_PROXY": "socks://p:9"}, "socks5h://p:9"),
        ({"HTTPS_PROXY": "http://user:secret@p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "user:sec%2Fret@p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://user:se@cret@p:1"}, "http://p:1"),
    ],
)
def test_the_environment_names_the_proxy(
    variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies, "find_spec", lambda name: object())
    found = proxy_for("server.example:8443", environment=variables)
    assert (None if found is None else found.shown) == expected
    assert "cret" not in f"{found} {found!r}"
    if found is not None and "cret" in str(variables):
        assert found.url.replace("%2F", "").replace("@cret", "cret").count("secret@p:1") == 1


@pytest.mark.parametrize(
    ("exceptions", "address", "direct"),
    [
        ("*", "server.example:1", True),
        ("server.example", "server.example:1", True),
        ("SERVER.example.", "server.example:1", True),
        ("example", "server.example:1", True),
        (".example", "server.example:1", True),
        ("*.example", "server.example:1", True),
        ("rver.example", "server.example:1", False),
        ("other.example, server.example", "server.example:1", True),
        ("other.example server.example", "server.example:1", True),
        ("server.example:8443", "server.example:8443", True),
        ("server.example:8443", "server.example:1", False),
        ("10.0.0.0/8", "10.2.3.4:1", True),
        ("10.2.3.4", "10.2.3.4:1", True),
        ("10.2.*", "10.2.3.4:1", True),
        ("10.2.*", "10.21.3.4:1", False),
        ("server.*", "server.example:1", True),
        ("10.0.0.0/8", "11.2.3.4:1", False),
        ("10.0.0.0/8", "server.example:1", False),
        ("2.3.4", "1.2.3.4:1", False),
        ("fd00::/8", "[fd12::1]:1", True),
        ("[fd12::1]:1", "[fd12::1]:1", True),
        ("::1", "[::2]:1", False),
        ("b\u00fccher.example", "xn--bcher-kva.example:1", True),
        ("", "server.example:1", False),
        (",", "server.example:1", False),
    ],
)
def test_exceptions_are_names_endings_addresses_and_ranges(
    exceptions: str, address: str, direct: bool
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        found = proxy_for(address, environment={"HTTPS_PROXY": "http://p:1", name: exceptions})
        assert (found is None) == direct


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("ftp://u:secret@p:1", "of a kind that isn't supported"),
        ("socks4://p:1", "of a kind that isn't supported"),
        ("http://u:secret@", "names no host"),
        ("http://p:port", "can't be read"),
        ("http://p:99999", "can't be read"),
        ("http://u:12/secret@p:1", "can't be read"),
        ("http://u:12#secret@p:1", "can't be read"),
        ("http://u:12?secret@p:1", "can't be read"),
        ("http://[p", "can't be read"),
        ("http://p\n:1", "characters that no address has"),
        ("socks5://u:secret@p:1", "SOCKS, which takes a package that is not installed"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line_without_its_password(
    value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=said) as caught:
        proxy_for("server.example:1", environment={"ALL_PROXY": value})
    assert "ALL_PROXY" in str(caught.value) and "NO_PROXY" in str(caught.value)
    assert (
        "secret" not in str(caught.value) and "12" not in str(caught.value) and "\n" not in str(caught.value)
    )


class ForwardingProxy:
    """A proxy for HTTP's CONNECT and for SOCKS 5, on loopback."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.asked: list[bytes] = []
        self.answer = b"HTTP/1.1 200 OK\r\n\r\n"
        self.scripted: tuple[bytes, ...] = ()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._forward, args=(self.listener.accept()[0],), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            for answer in self.scripted:
                client.recv(4096)
                client.sendall(answer)
            if self.scripted:
                return
            first = client.recv(4096)
            if first[:1] == b"\x05":
                client.sendall(b"\x05\x00")
                first = client.recv(4096)
                port = int.from_bytes(first[-2:], "big")
                client.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
            else:
                port = int(first.split()[1].rpartition(b":")[2])
                client.sendall(self.answer)
            self.asked.append(first)
            with socket.create_connection(("127.0.0.1", port)) as server:
                threading.Thread(target=_copy, args=(server, client), daemon=True).start()
                _copy(client, server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def server(certificates: Certificates) -> Iterator[HostileServer]:
    made = HostileServer(certificates)
    yield made
    made.stop()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForwardingProxy]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made = ForwardingProxy()
    yield made
    made.listener.close()


def _said(server: HostileServer, certificates: Certificates) -> str:
    """What a merchant is told that can't connect."""
    key = ec.generate_private_key(ec.SECP384R1())
    with (
        pytest.raises(ConnectionLostError) as caught,
        FleetLink(address=server.address, ca=certificates.authority, key=key),
    ):
        pass
    with (
        pytest.raises(ConnectionLostError, match=r"proxy|certificate"),
        ModelLink(address=server.address, ca=certificates.authority, key=key) as link,
    ):
        link.small("/x", most=1)
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks"])
def test_a_merchant_goes_through_the_proxy(
    scheme: str,
    proxy: ForwardingProxy,
    server: HostileServer,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if scheme != "http":
        pytest.importorskip("socksio")
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{proxy.port}")
    assert ask_clock(server.address, ca=certificates.authority) is not None
    key = ec.generate_private_key(ec.SECP384R1())
    with FleetLink(address=server.address, ca=certificates.authority, key=key):
        pass
    assert len(proxy.asked) == 2
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    with FleetLink(address=server.address, ca=certificates.authority, key=key):
        pass
    assert len(proxy.asked) == 2


def test_a_proxy_that_refuses_or_is_dead_is_named_without_its_password(
    proxy: ForwardingProxy,
    server: HostileServer,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", f"http://user:secret@127.0.0.1:{proxy.port}")
    named = f"the proxy http://127.0.0.1:{proxy.port} of https_proxy"
    proxy.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
    assert _said(server, certificates).startswith(f"{named} wants a user name and a password")
    proxy.answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"
    said = _said(server, certificates)
    assert f"can't be reached through {named} (403 Forbidden)" in said and "secret" not in said
    proxy.listener.close()
    said = _said(server, certificates)
    assert f"can't be reached through {named}" in said and "NO_PROXY" in said and "secret" not in said


@pytest.mark.parametrize(("status", "advice"), [("302 Found", "sign in"), ("502 Bad Gateway", "operator")])
def test_what_a_proxy_answers_says_what_to_do(
    status: str,
    advice: str,
    proxy: ForwardingProxy,
    server: HostileServer,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    proxy.answer = f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode()
    said = _said(server, certificates)
    assert f"({status})" in said and advice in said


def test_a_socks_proxy_that_says_nothing_ends_in_time(certificates: Certificates) -> None:
    pytest.importorskip("socksio")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"socks5://user:secret@127.0.0.1:{silent.getsockname()[1]}"
        named = proxies.Proxy(url, "shown", "ALL_PROXY")
        with (
            http_client(ca=certificates.authority, proxy=named, seconds=0.2) as client,
            pytest.raises(httpx.TimeoutException),
        ):
            client.get("https://127.0.0.1:1/health")


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ((b"\x05\xff",), "wants a user name and a password, or doesn't take those"),
        ((b"\x05\x02", b"\x01\x01"), "as in socks5://USER:PASSWORD@HOST:PORT"),
        ((b"\x00\x5b" + bytes(6),), "its answer is none of SOCKS 5: it may be a proxy for http): correct"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "its answer is none of SOCKS 5"),
        ((b"\x05\x00", b"\x05\x04\x00\x01" + bytes(6)), "(Proxy Server could not connect: Host unreachable"),
    ],
)
def test_what_a_socks_proxy_answers_is_told_of_the_proxy(
    answers: tuple[bytes, ...],
    told: str,
    proxy: ForwardingProxy,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("socksio")
    proxy.scripted = answers
    credentials = "user:secret@" if answers[0] == b"\x05\x02" else ""
    monkeypatch.setenv("ALL_PROXY", f"socks5://{credentials}127.0.0.1:{proxy.port}")
    key = ec.generate_private_key(ec.SECP384R1())
    with (
        pytest.raises(ConnectionLostError) as caught,
        FleetLink(address="server.example:1", ca=certificates.authority, key=key),
    ):
        pass
    said = str(caught.value)
    assert told in said and "of ALL_PROXY" in said and "secret" not in said
