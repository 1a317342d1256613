"""Flower's SuperLink inside the server's own process, behind two listeners.

The public one lets through Fleet and health alone: Flower authenticates neither Control nor Runtime, and
whoever reaches those can start runs. They are served on a loopback port for this process.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from flwr.app import Context
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import get_fused_config_from_fab
from flwr.common.serde import context_from_proto, context_to_proto, fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.runtime.tracing import RuntimeTracingInterceptor
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.grid import http_grid
from flwr.superlink.main import create_app

from fedrec.errors import ServiceError
from fedrec.flower.messages import set_task_identity

LOOPBACK = "127.0.0.1"
_START_SECONDS = 30.0
_FAB = """\
[project]
name = "fedrec-training"
version = "1.0.0"

[tool.flwr.app]
publisher = "fedrec"

[tool.flwr.app.components]
serverapp = "fedrec.server.app:none"
clientapp = "fedrec.clients.app:none"
"""

# Flower's grid waits a second before it asks again for an object that is still on its way.
http_grid.pull_objects = partial(  # type: ignore[attr-defined]
    pull_objects, initial_backoff=0.02
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority's certificate, the server's, and the server's private key."""

    authority: Path
    certificate: Path
    key: Path


MAX_REQUEST_BYTES = 32 * 2**20
"""Flower reads a request whole before it asks who sent it. The largest honest one is a body of 16 MiB and its
small blobs; arrays travel in pieces of 5 MB."""


class Guard:
    """ASGI in front of the SuperLink's app: Fleet and health pass, all else is told 403 and counted.

    A request of more than ``MAX_REQUEST_BYTES`` is told 413 as soon as its size shows.
    """

    def __init__(self, app: Asgi, *, on_refusal: Callable[[str, str], None]) -> None:
        self._app = app
        self._on_refusal = on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and not (path.startswith("/v1/fleet/") or path == "/health"):
            client = scope.get("client") or ("unknown", 0)
            self._on_refusal(str(client[0]), path)
            await _answer(send, 403)
            return
        if scope["type"] not in ("http", "lifespan"):
            return
        if scope["type"] == "http":
            body = await _body(scope, receive)
            if body is None:
                client = scope.get("client") or ("unknown", 0)
                self._on_refusal(str(client[0]), f"{path}, a request that is too large,")
                await _answer(send, 413)
                return
            receive = _again(body, receive)
        await self._app(scope, receive, send)


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """Read a request's body; None once it passes the limit, or says that it will."""
    for name, value in scope.get("headers", ()):
        if name == b"content-length" and (not value.isdigit() or int(value) > MAX_REQUEST_BYTES):
            return None
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            break
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > MAX_REQUEST_BYTES:
            return None
        more = bool(event.get("more_body", False))
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body that was read, then what comes after it."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class _Listener:
    """One uvicorn server in a thread."""

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
                log_level="warning",
                lifespan="on" if lifespan else "off",
            )
        )
        self._thread = threading.Thread(target=self._server.run, name=f"fedrec-{host}", daemon=True)

    def start(self) -> None:
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
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(_START_SECONDS)


class SuperLinkHost:
    """The SuperLink, its state in memory; raises ``ServiceError`` where it can't start.

    Nothing of Flower's state has to last: it doesn't resume runs, a training carries on from its own
    checkpoint in a new run, and keys are admitted from the roster. In an SQLite file a phase took three
    times as long.

    ``on_refusal`` is told the address and path of every request that the guard turns away.
    """

    def __init__(
        self,
        *,
        certificates: Certificates,
        host: str,
        port: int,
        on_refusal: Callable[[str, str], None] = lambda address, path: None,
    ) -> None:
        self._certificates = certificates
        authority = certificates.authority.read_bytes()
        config = SuperLinkLifespanConfig(
            control_address=f"{LOOPBACK}:0",
            health_server_address=None,
            host=host,
            port=port,
            insecure=False,
            certificates=(authority, certificates.certificate.read_bytes(), certificates.key.read_bytes()),
            superexec_auth_secret=None,
            authn_plugin=load_control_authn_plugin(),
            event_log_plugin=None,
            fleet_event_log_plugin=None,
            enable_event_log=False,
            artifact_provider=None,
            enable_supernode_auth=True,
            fleet_api_type="grpc-rere",
            fleet_api_address=None,
            simulation=False,
            ssl_ca_certfile=str(certificates.authority),
            ssl_certfile=str(certificates.certificate),
            ssl_keyfile=str(certificates.key),
            database=FLWR_IN_MEMORY_DB_NAME,
            isolation="process",
            runtime_dependency_install=False,
        )
        app: Asgi = create_app(config, SuperLinkLifespan)
        self._private = _Listener(app, host=LOOPBACK, port=0, certificates=certificates, lifespan=True)
        self._public = _Listener(
            Guard(app, on_refusal=on_refusal),
            host=host,
            port=port,
            certificates=certificates,
            lifespan=False,
        )
        self._authority = authority

    def start(self) -> None:
        """Listen; both listeners answer when this returns."""
        self._private.start()
        self._public.start()

    def stop(self) -> None:
        """Stop listening; what is under way is finished first."""
        self._public.stop()
        self._private.stop()

    @property
    def port(self) -> int:
        """The public port, also where 0 was asked for."""
        return self._public.port

    @property
    def _address(self) -> str:
        return f"{LOOPBACK}:{self._private.port}"

    @contextmanager
    def _control(self) -> Iterator[ControlHttpClient]:
        client = ControlHttpClient.from_server_address(
            self._address,
            False,
            self._authority,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="CLI")],
        )
        with client:
            yield client

    def nodes(self) -> dict[bytes, int]:
        """Return the node number of every admitted public key (PEM as Flower writes it)."""
        with self._control() as control:
            found = control.ListNodes(ListNodesRequest()).nodes_info
        return {bytes(node.public_key): int(node.node_id) for node in found if node.status != "unregistered"}

    def admit(self, public_key: bytes) -> int:
        """Admit a merchant's P-384 key (PEM as Flower writes it); returns its node number."""
        with self._control() as control:
            try:
                return int(control.RegisterNode(RegisterNodeRequest(public_key=public_key)).node_id)
            except httpx.HTTPStatusError as error:
                raise ServiceError(f"Flower refuses a merchant's key: {error.response.text}") from None

    def revoke(self, node_id: int) -> None:
        """Admit a node's key no longer."""
        with self._control() as control:
            control.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    @contextmanager
    def open_run(self) -> Iterator[tuple[Grid, Context]]:
        """Start a Flower run and act as its ServerApp; yields the grid over which merchants are asked."""
        content = _thin_fab()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        with self._control() as control:
            control.StartRun(StartRunRequest(fab=fab_to_proto(fab), federation=""))
        grid = http_grid.HttpGrid(
            self._address, insecure=False, root_certificates=self._authority, token=self._task_token()
        )
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(grid._runtime_client))
        heartbeat.start()
        status = "failed"
        try:
            given = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
            context, run = context_from_proto(given.context), run_from_proto(given.run)
            set_task_identity(run_id=run.run_id, node_id=context.node_id)
            context.run_config = get_fused_config_from_fab(content, run)
            grid.set_run(run)
            yield grid, context
            status = "completed"
        finally:
            heartbeat.stop()
            # Flower ends the run itself when its heartbeat is missed.
            with suppress(httpx.HTTPError, RuntimeError, OSError):
                output = PushTaskOutputRequest(
                    context=context_to_proto(context), sub_status=status, details=""
                )
                grid._runtime_client.PushTaskOutput(output)
            grid.close()

    def _task_token(self) -> str:
        """Wait for the run's ServerApp task and take it."""
        client = RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=False,
            root_certificates=self._authority,
            interceptors=[
                RuntimeTracingInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            ],
        )
        with client:
            deadline = time.monotonic() + _START_SECONDS
            while time.monotonic() < deadline:
                answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
                if answer.HasField("task") and answer.token:
                    return str(answer.token)
                time.sleep(0.05)
        raise ServiceError("Flower did not hand out the run's task")


def _thin_fab() -> bytes:
    """Build the bundle that names the installed apps and holds no code."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_text(_FAB)
        return build_fab_from_disk(Path(folder))
