"""A failed connection says what it points to, in one line."""

from __future__ import annotations

import httpx
import pytest

from fedrec.flower.connection_errors import explained


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
