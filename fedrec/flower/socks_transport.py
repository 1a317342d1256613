"""Reach a server through a SOCKS proxy that may never answer.

httpcore waits for the proxy's first answers without any limit, so that a proxy that says nothing would hold
a merchant for ever.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx


class SocksTransport(httpx.HTTPTransport):
    """A transport through a SOCKS proxy, each of whose steps is limited in time.

    Args:
        url: the proxy's address, with user name and password if there are any.
        trusted: the authority of the server behind it.
        limits: limits of the connections.
        seconds: time limit of a step that has none of its own.
    """

    def __init__(self, url: str, *, trusted: ssl.SSLContext, limits: httpx.Limits, seconds: float) -> None:
        super().__init__(verify=trusted, limits=limits, trust_env=False)
        proxy = httpx.Proxy(url)
        self._pool = httpcore.SOCKSProxy(
            proxy_url=httpcore.URL(
                scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
            ),
            proxy_auth=proxy.raw_auth,
            ssl_context=trusted,
            max_connections=limits.max_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_LimitedBackend(seconds),
        )


class _LimitedBackend(httpcore.SyncBackend):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect, and limit what is read and written without a limit of its own."""
        found = super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _LimitedStream(found, self._seconds)


class _LimitedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._seconds if timeout is None else timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._seconds if timeout is None else timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return self._stream.start_tls(ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
