"""Sign a merchant's requests to Fleet, as Flower's own interceptor does, by the server's time."""

from __future__ import annotations

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from fedrec.flower.admission import signed_headers
from fedrec.flower.clock import ServerClock


class SigningInterceptor:
    """Signs each request; one that is refused for its time is sent once more, with the server's.

    Args:
        key: the merchant's node key.
        clock: knows the server's time.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, clock: ServerClock) -> None:
        self._key, self._clock = key, clock

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Sign a request and send it.

        Args:
            context: the request.
            call_next: sends it.

        Returns:
            The server's answer.
        """
        context.request.headers.update(signed_headers(self._key, at=self._clock.now()))
        response = call_next(context)
        if self._clock.follow(response):
            context.request.headers.update(signed_headers(self._key, at=self._clock.now()))
            response = call_next(context)
        return response
