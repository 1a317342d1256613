"""Run Flower's SuperLink inside the server's process, behind two listeners.

The public listener forwards only Fleet and health. Flower authenticates neither Control nor Runtime, and
anyone who reaches them can start runs. They are served on a loopback port that requires this process's
secret.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from flwr.app import Context
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import get_fused_config_from_fab
from flwr.common.constant import HEARTBEAT_PATIENCE, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.common.serde import context_from_proto, context_to_proto, fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest, UnregisterNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.serverapp import Grid
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.runtime.tracing import RuntimeTracingInterceptor
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from flwr.superlink.servicer.control import control_handlers

from fedrec._internal.host_names import LOOPBACK
from fedrec.errors import ServiceError
from fedrec.flower.connection_limits import ConnectionLimits
from fedrec.flower.downloads import Downloads
from fedrec.flower.envelope import set_task_identity
from fedrec.flower.grid import PrivateGrid
from fedrec.flower.guard import SECRET_HEADER, FleetRequest, Guard, OnlyWithSecret
from fedrec.flower.heartbeat_pace import HeartbeatPace
from fedrec.flower.listener import Listener
from fedrec.flower.messages import Messages
from fedrec.flower.node_activation import NodeActivation
from fedrec.flower.pending_messages import PendingMessages
from fedrec.flower.runtime import InProcessRuntime
from fedrec.protocol.tls import Certificates

_OPERATOR = AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
"""Flower's only account, where nobody has to log in."""
_START_SECONDS = 30.0
_FAB = """\
[project]
name = "fedrec-training"
version = "1.0.0"

[tool.flwr.app]
publisher = "fedrec"

[tool.flwr.app.components]
serverapp = "fedrec.server.server_app:none"
clientapp = "fedrec.clients.client_app:none"
"""


class SecretInterceptor:
    """Adds this process's secret to every request of Flower's clients."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the header and send the request.

        Args:
            context: Flower's context of the request.
            call_next: sends the request.

        Returns:
            The response.
        """
        add_headers(context.request, {SECRET_HEADER: self._secret})
        return call_next(context)


class SuperLinkHost:
    """The SuperLink, with its state in memory.

    Flower's state doesn't have to survive a restart: Flower doesn't resume runs, a training continues from
    its own checkpoint in a new run, and keys are admitted from the roster. With an SQLite file a phase took
    three times as long.

    Args:
        certificates: certificate and key of the public listener.
        private: certificate and key for loopback, of this process only.
        host: address of the public listener.
        port: port of the public listener; 0 for any free one.
        on_refusal: called with the address and the path of every refused request.
        downloads: answers requests for models.
        on_seen: called with every request of a merchant that is let through.
    """

    def __init__(
        self,
        *,
        certificates: Certificates,
        private: Certificates,
        host: str,
        port: int,
        on_refusal: Callable[[str, str], None] = lambda address, path: None,
        downloads: Downloads = lambda key, path: None,
        on_seen: Callable[[FleetRequest], None] = lambda request: None,
    ) -> None:
        app = create_app(_superlink_config(private, host=host, port=port), SuperLinkLifespan)
        state = app.state.linkstate_factory.state()
        if not isinstance(state, InMemoryLinkState):
            raise ServiceError("Flower's state isn't in memory")
        self._state, self._pending = state, PendingMessages()
        self._pace = HeartbeatPace()
        activation = NodeActivation(state, self._pending, self._pace)
        self._messages = Messages(app, state, self._pending, activation)
        self._secret = secrets.token_hex(32)
        self._private = Listener(
            OnlyWithSecret(app, secret=self._secret),
            host=LOOPBACK,
            port=0,
            certificates=private,
            lifespan=True,
        )
        self._admitted: dict[bytes, int] = {}
        connections = ConnectionLimits()
        self._public = Listener(
            Guard(
                self._messages,
                admitted=self._admitted.get,
                on_refusal=on_refusal,
                connections=connections,
                downloads=downloads,
                on_seen=on_seen,
            ),
            host=host,
            port=port,
            certificates=certificates,
            lifespan=False,
            connections=connections,
            on_lateness=self._pace.note_lateness,
        )
        self._authority = private.authority.read_bytes()

    def start(self) -> None:
        """Start both listeners; they answer once this returns. ``ServiceError`` if one can't start."""
        self._private.start()
        self._public.start()

    def stop(self) -> None:
        """Stop listening, after the running requests are finished."""
        self._pending.close()
        self._public.stop()
        self._private.stop()

    @property
    def port(self) -> int:
        """The public port in use, also if 0 was requested."""
        return self._public.port

    def silence_seconds(self) -> float:
        """Return for how long a merchant that is connected may be silent at most."""
        return HEARTBEAT_PATIENCE * self._pace.slowest()

    @property
    def _address(self) -> str:
        return f"{LOOPBACK}:{self._private.port}"

    @contextmanager
    def _control(self) -> Iterator[ControlHttpClient]:
        client = ControlHttpClient.from_server_address(
            self._address,
            False,
            self._authority,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="CLI"),
                SecretInterceptor(self._secret),
            ],
        )
        with client:
            yield client

    def nodes(self) -> dict[bytes, int]:
        """Return the node number by admitted public key (PEM as Flower writes it).

        Flower's state is in this process's memory and only this object admits keys, so that none are missing.
        """
        return dict(self._admitted)

    def admit(self, public_key: bytes) -> int:
        """Admit a merchant's P-384 key (PEM as Flower writes it) and return its node number."""
        try:
            request = RegisterNodeRequest(public_key=public_key)
            node = int(control_handlers.register_node(request, _OPERATOR, self._state).node_id)
        except FlowerError as error:
            raise ServiceError(f"Flower refuses the key of a merchant: {error}") from None
        self._admitted[public_key] = node
        return node

    def revoke(self, node_id: int) -> None:
        """Revoke the key of a node."""
        self._pace.forget(node_id)
        for key in [key for key, node in self._admitted.items() if node == node_id]:
            del self._admitted[key]
        try:
            control_handlers.unregister_node(UnregisterNodeRequest(node_id=node_id), _OPERATOR, self._state)
        except FlowerError as error:
            raise ServiceError(f"Flower can't revoke the key of a merchant: {error}") from None

    @contextmanager
    def open_run(self) -> Iterator[tuple[Grid, Context]]:
        """Start a Flower run and act as its ServerApp; yield the grid to reach merchants and the context."""
        content = _thin_fab()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        with self._control() as control:
            control.StartRun(StartRunRequest(fab=fab_to_proto(fab), federation=""))
        with self._runtime(RuntimeTokenHttpInterceptor(token=self._task_token())) as runtime:
            heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(runtime))
            heartbeat.start()
            context: Context | None = None
            status = "failed"
            try:
                given = runtime.PullTaskInput(PullTaskInputRequest())
                context, run = context_from_proto(given.context), run_from_proto(given.run)
                set_task_identity(run_id=run.run_id, node_id=context.node_id)
                context.run_config = get_fused_config_from_fab(content, run)
                grid = PrivateGrid(
                    InProcessRuntime(self._state, self._pending, run_id=run.run_id), self._pending
                )
                grid.set_run(run)
                yield grid, context
                status = "completed"
            finally:
                heartbeat.stop()
                # Flower ends the run itself when its heartbeat is missed.
                with suppress(httpx.HTTPError, RuntimeError, OSError):
                    if context is not None:
                        output = PushTaskOutputRequest(
                            context=context_to_proto(context), sub_status=status, details=""
                        )
                        runtime.PushTaskOutput(output)

    def _runtime(self, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
        """Return a client of the Runtime API on the private listener."""
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=False,
            root_certificates=self._authority,
            interceptors=[
                RuntimeTracingInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
                *interceptors,
                SecretInterceptor(self._secret),
            ],
        )

    def _task_token(self) -> str:
        """Acquire the run's ServerApp task; return its token."""
        with self._runtime() as client:
            deadline = time.monotonic() + _START_SECONDS
            while time.monotonic() < deadline:
                answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
                if answer.HasField("task") and answer.token:
                    return str(answer.token)
                time.sleep(0.05)
        raise ServiceError("Flower did not assign the run's task in time")


def _superlink_config(private: Certificates, *, host: str, port: int) -> SuperLinkLifespanConfig:
    """Return the configuration of a SuperLink with node authentication, and without telemetry or log-in."""
    return SuperLinkLifespanConfig(
        control_address=f"{LOOPBACK}:0",
        health_server_address=None,
        host=host,
        port=port,
        insecure=False,
        certificates=(
            private.authority.read_bytes(),
            private.certificate.read_bytes(),
            private.key.read_bytes(),
        ),
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
        ssl_ca_certfile=str(private.authority),
        ssl_certfile=str(private.certificate),
        ssl_keyfile=str(private.key),
        database=FLWR_IN_MEMORY_DB_NAME,
        isolation="process",
        runtime_dependency_install=False,
    )


def _thin_fab() -> bytes:
    """Build a FAB that names the installed apps and contains no code."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_text(_FAB)
        return build_fab_from_disk(Path(folder))
