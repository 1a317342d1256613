"""Make the HTTP client with which a merchant reaches its server."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

from fedrec._internal.text import one_line
from fedrec.errors import ConfigError
from fedrec.flower.proxies import Proxy
from fedrec.flower.socks_transport import SocksTransport


def http_client(*, ca: Path, proxy: Proxy | None, seconds: float, kept_seconds: float = 5.0) -> httpx.Client:
    """Make a client that trusts one authority, and takes nothing from the environment.

    It follows no redirect: a merchant connects to the server that it joined, never to another one.

    Args:
        ca: PEM file of the authority that must have issued the server's certificate.
        proxy: the proxy to go through; None to reach the server directly.
        seconds: time limit of each step of a request.
        kept_seconds: how long an idle connection is kept for the next request.

    Returns:
        The client, to be closed.

    Raises:
        ConfigError: ``ca`` contains no certificate, or the proxy can't be used.
    """
    try:
        trusted = ssl.create_default_context(cafile=str(ca))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the authority's certificate {ca} can't be used ({one_line(error)}): join again"
        ) from None
    limits = httpx.Limits(max_connections=100, keepalive_expiry=kept_seconds)
    socks = proxy is not None and proxy.url.startswith("socks")
    try:
        return httpx.Client(
            verify=trusted,
            timeout=seconds,
            limits=limits,
            follow_redirects=False,
            trust_env=False,
            proxy=None if proxy is None or socks else proxy.url,
            transport=SocksTransport(proxy.url, trusted=trusted, limits=limits, seconds=seconds)
            if proxy is not None and socks
            else None,
        )
    except (httpx.InvalidURL, ValueError, ImportError):
        raise ConfigError(f"{proxy} can't be used: correct it") from None
