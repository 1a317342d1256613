"""A uvicorn server in a thread."""

from __future__ import annotations

import threading
import time

import uvicorn

from fedrec.errors import ServiceError
from fedrec.flower.guard import Asgi
from fedrec.protocol.tls import Certificates

_START_SECONDS = 30.0


class Listener:
    """Serves an ASGI app over TLS between ``start`` and ``stop``; ``ServiceError`` where it can't listen."""

    def __init__(
        self, app: Asgi, *, host: str, port: int, certificates: Certificates, lifespan: bool
    ) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                ssl_keyfile=str(certificates.key),
                ssl_certfile=str(certificates.certificate),
                # Its own configuration would put the process's log handlers away.
                log_config=None,
                access_log=False,
                lifespan="on" if lifespan else "off",
            )
        )
        self._thread = threading.Thread(target=self._server.run, name=f"fedrec-{host}", daemon=True)

    def start(self) -> None:
        """Listen; requests are answered when this returns."""
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise ServiceError(
                    f"the server can't listen on {self._server.config.host}:{self._server.config.port}: "
                    "is the port taken, or the address another machine's?"
                )
            time.sleep(0.02)

    @property
    def port(self) -> int:
        """The port, also where 0 was asked for."""
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Stop listening; what is under way is finished first."""
        self._server.should_exit = True
        self._thread.join(_START_SECONDS)
