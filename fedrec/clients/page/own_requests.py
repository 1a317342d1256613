"""Refuse requests that another site's page makes a browser send."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_OWN_SITES: Final = (None, "same-origin", "none")
"""``Sec-Fetch-Site`` of an old browser, of the page itself, and of an address that a person typed."""


class OwnRequestsAlone:
    """Answer a request only if a browser says that it comes from the page itself, or says nothing.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse one of another origin."""
        headers = Headers(scope=scope)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        foreign = origin is not None and origin != f"http://{headers.get('host', '')}"
        # A person who follows a link from elsewhere may see the page: its files hold nothing.
        navigated = scope.get("method") == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if foreign or (site not in _OWN_SITES and not navigated):
            refusal = PlainTextResponse("Forbidden\n", status_code=HTTPStatus.FORBIDDEN)
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)
