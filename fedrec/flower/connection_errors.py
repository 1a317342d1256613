"""Turn whatever ends a merchant's connection into one line for a person."""

from __future__ import annotations

import re
from contextlib import suppress

import httpx
from flwr.supercore.error import FlowerError

from fedrec._internal.text import one_line
from fedrec.errors import ConnectionFault, ConnectionLostError, NotAdmittedError, ServerBusyError
from fedrec.flower.clock import clock_fault, seconds_ahead
from fedrec.flower.proxies import Proxy

HEARTBEAT_SECONDS = 10.0
"""Flower's shortest interval. After a hard stop, the same key is locked out for two intervals where its last
connection stays open at the server."""
MOST_RETRY_SECONDS = 300.0
"""Longest time to come again that a merchant takes from a server."""

_ANSWERS = {
    "3": "it sends you elsewhere, perhaps to sign in: open any page in a browser; or ",
    "4": "ask whoever runs it to allow this address and port; or ",
    "5": "it doesn't reach the server: ask the operator whether that runs; or ",
}
"""What a proxy's answer points to, by the first digit of its status."""
_REFUSALS = (401, 403)
_BUSY = (429, 503)
_NAME_FAULTS = ("name or service not known", "name resolution", "nodename nor servname", "getaddrinfo")
_NOT_ADMITTED = 2004
"""Flower's code for an unknown key, and for a key whose node it still considers active."""

FedrecConnectionError = ConnectionLostError | NotAdmittedError


def explained(error: Exception, *, address: str, proxy: Proxy | None = None) -> FedrecConnectionError:
    """Convert an exception of the HTTP client.

    Args:
        error: the exception.
        address: host:port of the server.
        proxy: the proxy that was gone through; None if the server was reached directly.

    Returns:
        The error to raise instead.
    """
    if isinstance(error, httpx.HTTPStatusError):
        return _refused(error.response, address)
    said = one_line(error)
    if "CERTIFICATE_VERIFY_FAILED" in said:
        through = f"; the connection goes through {proxy}" if proxy is not None else ""
        fault, text = _certificate_fault(said)
        return ConnectionLostError(f"the certificate of {address} {text}{through}", fault=fault)
    # What a SOCKS proxy answers is read by a library whose errors the HTTP client passes on.
    if isinstance(error, httpx.HTTPError | OSError) or (proxy is not None and _is_of_socks(error)):
        if proxy is not None:
            fault, text = _proxy_fault(error, said, address, proxy)
            return ConnectionLostError(text, fault=fault)
        return ConnectionLostError(
            f"the server at {address} can't be reached ({said}){_advice(error, said)}", fault="unreachable"
        )
    return ConnectionLostError(
        f"the answer of the server at {address} can't be read ({type(error).__name__}: {said})"
    )


def _advice(error: Exception, said: str) -> str:
    """Say what a failed connection without a proxy points to; empty for what isn't known."""
    lowered = said.lower()
    if isinstance(error, httpx.TimeoutException) or "timed out" in lowered:
        return ": nothing answers; a firewall may be in between, or its machine is off"
    if "wrong_version" in lowered or "record_layer" in lowered:
        return (
            ": what answers there is another program, or a page of this network that wants you to sign in; "
            "open any page in a browser, or ask the operator for the port"
        )
    if "eof occurred" in lowered or "reset by peer" in lowered or "disconnected" in lowered:
        return ": it is closed at once; a firewall may be in between, or the server is starting"
    if "refused" in lowered:
        return ": its machine is there, but no server runs at that port; ask the operator"
    if any(word in lowered for word in _NAME_FAULTS):
        return ": its name isn't known here; is this machine on the internet?"
    return ": is this machine on the internet?" if "unreachable" in lowered or "no route" in lowered else ""


def _proxy_fault(error: Exception, said: str, address: str, proxy: Proxy) -> tuple[ConnectionFault, str]:
    """Name and describe why a server can't be reached through a proxy."""
    words = said.lower()
    wanted = any(word in words for word in ("407", "auth", "password"))
    if isinstance(error, httpx.ProxyError) and wanted:
        scheme = proxy.shown.partition("://")[0]
        return "proxy_password", (
            f"{proxy} wants a user name and a password, or doesn't take those that it was given: write them "
            f"into {proxy.named_by}, as in {scheme}://USER:PASSWORD@HOST:PORT"
        )
    if _is_of_socks(error):
        said = "its answer is none of SOCKS 5: it may be a proxy for http"
    status = re.match(r"[345]\d\d\b", said) if isinstance(error, httpx.ProxyError) else None
    advice = "" if status is None else _ANSWERS[status[0][0]]
    return "proxy", (
        f"the server at {address} can't be reached through {proxy} ({said}): {advice}correct "
        f"{proxy.named_by}, or name {address.rpartition(':')[0].strip('[]')} in NO_PROXY to reach it directly"
    )


def _is_of_socks(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "socksio"


def _refused(response: httpx.Response, address: str) -> FedrecConnectionError:
    if response.status_code in _REFUSALS:
        fault = clock_fault(seconds_ahead(response))
        if fault is not None:
            return NotAdmittedError(
                f"the server at {address} turns this merchant away: {fault}", fault="clock"
            )
    if _code(response) == _NOT_ADMITTED or response.status_code in _REFUSALS:
        return NotAdmittedError(
            f"the server at {address} doesn't admit this merchant's key: it isn't enrolled "
            "there, was revoked, or its last connection is still held, until that is closed or two "
            f"heartbeats of at least {HEARTBEAT_SECONDS:.0f} s are missed"
        )
    again = response.headers.get("retry-after", "")
    if response.status_code in _BUSY and again.isdecimal() and len(again) < 6:
        seconds = min(MOST_RETRY_SECONDS, float(again))
        return ServerBusyError(
            f"the server at {address} is busy, and asks to come again in {seconds:.0f} s", seconds=seconds
        )
    return ConnectionLostError(f"the server at {address} answered with status {response.status_code}")


def _code(response: httpx.Response) -> int | None:
    """Return the code of Flower's error; None if the answer contains none."""
    # Of an answer that is streamed, no body was read.
    with suppress(ValueError, RecursionError, httpx.ResponseNotRead):
        found = FlowerError.from_json(response.text)
        return None if found is None else found.code
    return None


def _certificate_fault(said: str) -> tuple[ConnectionFault, str]:
    """Name and describe the fault of a certificate from OpenSSL's error text."""
    if "expired" in said or "not yet valid" in said:
        return "clock", (
            "isn't valid at the time of this machine's clock: set the clock if it is wrong, or else ask the "
            "operator for a new certificate"
        )
    if "mismatch" in said:
        return "certificate", "is for another address than the join file's: ask the operator"
    return "certificate", (
        "is not from the authority in the join file: somebody may be in between, as a virus scanner or a "
        "company's network is that reads along, or the server has a new one"
    )
