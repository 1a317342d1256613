"""Send requests to Flower's Fleet API with an HTTP client of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import httpx
from flwr.supercore.protobuf.client import ProtobufClientInterceptor, ProtobufRequestContext
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode.fleet_http_client import FleetHttpClient
from google.protobuf.message import Message as ProtobufMessage

STEP_SECONDS: Final = 60.0
"""Time limit of each step of a request; a server that is busy with many merchants takes long to answer."""


class FleetClient(FleetHttpClient):
    """Flower's client with our own HTTP client; Flower's takes proxies and passwords from the environment."""

    # The base class would make its own client.
    def __init__(
        self, url: str, client: httpx.Client, interceptors: Sequence[ProtobufClientInterceptor]
    ) -> None:
        self._base_url, self._client = url, client
        self._interceptors, self._retry_invoker = tuple(interceptors), None

    def exchange(self, path: str, request: ProtobufMessage, content: bytes, *, waits: float = 0.0) -> bytes:
        """Send a body that is more than one protobuf message.

        Args:
            path: where to.
            request: the message in it, for Flower's interceptors.
            content: the body.
            waits: in seconds, how long the server may wait before it answers.

        Returns:
            The body of the answer.

        Raises:
            httpx.HTTPError: there is no answer, or it is a refusal.
        """
        headers = {"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE}
        limit = httpx.Timeout(STEP_SECONDS, read=STEP_SECONDS + waits)
        url = self._base_url + path
        asked = self._client.build_request("POST", url, content=content, headers=headers, timeout=limit)
        context = ProtobufRequestContext(rpc_method=path, message=request, request=asked)
        return self._send(context).raise_for_status().content
