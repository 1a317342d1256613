"""A failed connection says what it points to, in one line."""

from __future__ import annotations

import httpx
import pytest

from fedrec.errors import ConnectionFault
from fedrec.flower.connection_errors import explained
from fedrec.flower.proxies import Proxy


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            httpx.ConnectError("[Errno 111] Connection refused"),
            "no server runs at that port; ask the operator",
        ),
        (httpx.ConnectError("[Errno -2] Name or service not known"), "its name isn't known here"),
        (httpx.ConnectError("[Errno -3] Temporary failure in name resolution"), "on the internet?"),
        (httpx.ConnectError("[Errno 11001] getaddrinfo failed"), "its name isn't known here"),
        (httpx.ConnectError("[Errno 101] Network is unreachable"), "on the internet?"),
        (httpx.ConnectTimeout("timed out"), "a firewall may be in between"),
        (httpx.ReadTimeout(""), "nothing answers"),
        (httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "another program"),
        (httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred"), "closed at once"),
    ],
)
def test_a_server_that_cant_be_reached_is_told_with_what_to_do(error: Exception, says: str) -> None:
    told = str(explained(error, address="fed.example:8443"))
    assert told.startswith("the server at fed.example:8443 can't be reached") and says in told


def test_what_isnt_known_has_no_advice() -> None:
    told = str(explained(httpx.ConnectError("odd"), address="fed.example:8443"))
    assert told == "the server at fed.example:8443 can't be reached (odd)"


_PROXY = Proxy("http://proxy.example:3128", shown="http://proxy.example:3128", named_by="HTTPS_PROXY")


def answer(status: int, **headers: str) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://fed.example:8443")
    response = httpx.Response(
        status, headers={name.replace("_", "-"): value for name, value in headers.items()}, request=request
    )
    return httpx.HTTPStatusError("refused", request=request, response=response)


@pytest.mark.parametrize(
    ("error", "proxy", "fault"),
    [
        (httpx.ConnectError("odd"), None, "unreachable"),
        (httpx.ConnectError("CERTIFICATE_VERIFY_FAILED: unable to get local issuer"), _PROXY, "certificate"),
        (httpx.ConnectError("CERTIFICATE_VERIFY_FAILED: Hostname mismatch"), None, "certificate"),
        (httpx.ConnectError("CERTIFICATE_VERIFY_FAILED: certificate has expired"), None, "clock"),
        (httpx.ProxyError("407 Proxy Authentication Required"), _PROXY, "proxy_password"),
        (httpx.ProxyError("403 Forbidden"), _PROXY, "proxy"),
        (httpx.ConnectTimeout("timed out"), _PROXY, "proxy"),
        (ValueError("no message"), None, None),
        (answer(401), None, "not_admitted"),
        (answer(401, date="Wed, 21 Oct 2015 07:28:00 GMT"), None, "clock"),
        (answer(503, retry_after="7"), None, "busy"),
        (answer(500), None, None),
    ],
)
def test_each_fault_has_the_name_that_a_page_has_words_for(
    error: Exception, proxy: Proxy | None, fault: ConnectionFault | None
) -> None:
    found = explained(error, address="fed.example:8443", proxy=proxy)
    assert found.fault == fault
