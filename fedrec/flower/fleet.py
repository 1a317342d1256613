"""Connect a merchant to the server through Flower's Fleet API, without the rest of a SuperNode.

The connection never requests a FAB, so that a server can't send a merchant code to run. It starts no process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_objects, push_objects
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedrec.errors import ConnectionLostError, NotAdmittedError
from fedrec.flower.clock import ServerClock
from fedrec.flower.connection_errors import HEARTBEAT_SECONDS, FedrecConnectionError, explained
from fedrec.flower.envelope import set_task_identity
from fedrec.flower.fleet_client import STEP_SECONDS, FleetClient
from fedrec.flower.framing import (
    MOST_FRAMED_BYTES,
    MOST_HELD_SECONDS,
    MOST_TOGETHER,
    PULL,
    PUSH,
    framed,
    small_ones,
    unframed,
)
from fedrec.flower.heartbeat_pace import HELD_PART, MOST_HEARTBEAT_SECONDS, PACE_HEADER
from fedrec.flower.http_client import http_client
from fedrec.flower.objects import check_tree, inflate_tree
from fedrec.flower.proxies import proxy_for
from fedrec.flower.signing import SigningInterceptor

LINGER_SECONDS = 2.0
"""How long a link stays open after its last reply: Flower discards replies of a node that has left."""

_KEPT_SECONDS = MOST_HEARTBEAT_SECONDS + 10.0
"""How long an idle connection is kept, so that the next sign of life needs no new one."""
_OBJECT_BACKOFF_SECONDS = 0.02
_OBJECT_PATH = "/v1/fleet/pull-object"
MAX_OBJECT_BYTES, MAX_ANSWER_BYTES = 2**27, 2**20
"""Most bytes of an object, and of any other answer of the server."""
_MOST_BYTES = {_OBJECT_PATH: MAX_OBJECT_BYTES, PULL: MOST_FRAMED_BYTES}
MAX_MESSAGE_BYTES = 2**30
"""Most bytes of all objects of a message, for callers that know no lower bound."""

_log = logging.getLogger(__name__)


class FleetLink:
    """An authenticated connection; a context manager. Not thread-safe, except for its own heartbeat.

    Entering the context and every method raise ``NotAdmittedError`` if the server doesn't admit the key, and
    ``ConnectionLostError`` if the server can't be reached, another authority issued its certificate, or its
    answer can't be read.

    Args:
        address: host:port of the server.
        ca: PEM file of the authority that must have issued the server's certificate.
        key: the merchant's P-384 key, enrolled at the server.

    Raises:
        ConfigError: ``ca`` contains no certificate, or the environment's proxy can't be used.
    """

    def __init__(self, *, address: str, ca: Path, key: ec.EllipticCurvePrivateKey) -> None:
        self._address = address
        self._public = public_key_to_bytes(key.public_key())
        self._proxy = proxy_for(address)
        client = http_client(ca=ca, proxy=self._proxy, seconds=STEP_SECONDS, kept_seconds=_KEPT_SECONDS)
        client.event_hooks = {"response": [_check_size, self._follow_pace]}
        self._client = FleetClient(
            f"https://{address}",
            client,
            [
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                SigningInterceptor(key, ServerClock()),
            ],
        )
        self._node: Node | None = None
        self._lost: FedrecConnectionError | None = None
        self._sent_at: float | None = None
        self._asked: SimpleQueue[bytes | Exception] | None = None
        self._waiting: threading.Thread | None = None
        self._heard = 0.0
        self._interval = HEARTBEAT_SECONDS
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="fedrec-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._client.__enter__()
        try:
            with self._explaining():
                response = self._client.ActivateNode(
                    ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
                )
                self._node = Node(node_id=response.node_id)
        except (ConnectionLostError, NotAdmittedError):
            self._client.close()
            raise
        self._heard = time.monotonic()
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._sent_at is not None:
            time.sleep(max(0.0, self._sent_at + LINGER_SECONDS - time.monotonic()))
        self._stop.set()
        self._heartbeat.join(HEARTBEAT_SECONDS)
        if self._node is not None:
            # If this fails, the server notices the missing heartbeat.
            with suppress(Exception):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        self._client.close()

    @property
    def node_id(self) -> int:
        """The node number of this merchant's key at the server."""
        return self._active().node_id

    def receive(
        self, *, most_bytes: Callable[[], int] = lambda: MAX_MESSAGE_BYTES, wait: float = 0.0
    ) -> Message | None:
        """Receive the next message for this merchant, complete.

        Args:
            most_bytes: called once there is a message; returns the most bytes that it may have. Of a larger
                message no more than that, and two objects or ``MOST_TOGETHER``, are ever in memory.
            wait: seconds to wait for a message. The server lets a request wait for longer; the next call then
                goes on waiting for the answer to it.

        Returns:
            The message; None if there is none.

        Raises:
            NotAdmittedError: the server doesn't admit the key.
            ConnectionLostError: the server can't be reached, or its answer or the message can't be read.
        """  # noqa: DOC501 (the ValueError becomes a ConnectionLostError)
        node = self._active()
        if self._lost is not None:
            raise self._lost
        with self._explaining():
            body = self._next(wait)
            if not body:
                return None
            head_bytes, contents = unframed(body)
            response = PullMessagesResponse()
            response.ParseFromString(head_bytes)
            head = message_from_proto(response.messages_list[0])
            run_id = head.metadata.run_id
            set_task_identity(run_id=run_id, node_id=node.node_id)
            tree = response.message_object_trees[0]
            check_tree(tree)
            ids = [part.object_id for part in iterate_object_tree(tree)]
            most = most_bytes() - sum(map(len, contents.values()))
            if most < 0 or not contents.keys() <= set(ids):
                raise ValueError("a message is too large, or has an object that is none of its own")
            missing = [key for key in ids if key not in contents]
            if missing:
                contents |= pull_objects(
                    missing,
                    _at_most(most, make_pull_object_fn_protobuf(self._client.PullObject, node, run_id)),
                    initial_backoff=_OBJECT_BACKOFF_SECONDS,
                )
                confirm = make_confirm_message_received_fn_protobuf(
                    self._client.ConfirmMessageReceived, node, run_id
                )
                confirm(tree.object_id)
            message = inflate_tree(tree, contents)
            if not isinstance(message, Message):
                raise ValueError("the object is not a message")
        message.metadata.__dict__["_message_id"] = head.metadata.message_id
        return message

    def interrupt(self) -> None:
        """End a call of :meth:`receive` that waits, which then returns None; from any thread or signal."""
        asked = self._asked
        if asked is not None:
            asked.put(b"")

    def _next(self, wait: float) -> bytes:
        """Return the answer to the request that waits, or to a new one; empty if none came yet."""
        if self._asked is None:
            if not wait:
                return self._ask(0.0)
            self._asked = SimpleQueue()
            # The caller looks around meanwhile: it may be stopped, or its rules may change.
            self._waiting = threading.Thread(
                target=self._ask_into, args=(self._asked,), name="fedrec-receive", daemon=True
            )
            self._waiting.start()
        try:
            answer = self._asked.get(timeout=wait)
        except Empty:
            return b""
        self._asked = None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ask_into(self, queue: SimpleQueue[bytes | Exception]) -> None:
        try:
            queue.put(self._ask(min(MOST_HELD_SECONDS, HELD_PART * self._interval)))
        # Whatever a hostile answer makes of it; the thread that waits raises it.
        except Exception as error:
            queue.put(error)

    def _ask(self, seconds: float) -> bytes:
        # For the server this is a sign of life as a heartbeat is, as long as it waits.
        self._heard = time.monotonic() + seconds
        try:
            request = PullMessagesRequest(node=self._node)
            return self._client.exchange(PULL, request, b"%d" % round(1000 * seconds), waits=seconds)
        finally:
            self._heard = time.monotonic()

    def _follow_pace(self, response: httpx.Response) -> None:
        """Take over the interval between two signs of life that the server tells, within limits."""
        try:
            told = float(response.headers.get(PACE_HEADER, ""))
        except ValueError:
            return
        if HEARTBEAT_SECONDS <= told <= MOST_HEARTBEAT_SECONDS:
            self._interval = told

    def send(self, reply: Message, *, seconds: float) -> None:
        """Send the reply to a message.

        Args:
            reply: the reply.
            seconds: running time to report to the server; 0 to hide it.

        Raises:
            NotAdmittedError: the server doesn't admit the key.
            ConnectionLostError: the server can't be reached, or its answer can't be read.
        """
        node = self._active()
        run_id = reply.metadata.run_id
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with self._explaining(), no_object_id_recompute():
            tree = get_object_tree(reply)
            objects = get_all_nested_objects(reply)
            head = remove_content_from_message(reply) if reply.has_content() else reply
            request = PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(head)],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
            small = _small_contents(objects)
            response = PushMessagesResponse()
            response.ParseFromString(
                self._client.exchange(PUSH, request, framed(request.SerializeToString(), small))
            )
            if response.objects_to_push:
                push_objects(
                    objects,
                    make_push_object_fn_protobuf(self._client.PushObject, node, run_id, response.session_id),
                    object_ids_to_push=set(response.objects_to_push),
                )
        self._sent_at = time.monotonic()

    def _active(self) -> Node:
        if self._node is None:
            raise ConnectionLostError(f"there is no connection to the server at {self._address}")
        return self._node

    def _beat(self) -> None:
        """Send heartbeats until stopped; keep a refusal for the next call of ``receive``."""
        while not self._stop.wait(max(0.0, self._heard + self._interval - time.monotonic())):
            if time.monotonic() < self._heard + self._interval:
                continue
            self._heard = time.monotonic()
            try:
                with self._explaining():
                    answer = self._client.SendNodeHeartbeat(
                        SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=self._interval)
                    )
            except (ConnectionLostError, NotAdmittedError) as error:
                self._lost = error
                return
            if not answer.success:
                self._lost = ConnectionLostError(f"the server at {self._address} has dropped this merchant")
                return

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Convert every exception to a lost connection: hostile answers can make Flower raise any type."""
        try:
            yield
        except Exception as error:
            _log.debug("the exception that ended the connection:", exc_info=True)
            raise explained(error, address=self._address, proxy=self._proxy) from None


def _at_most(most: int, pull: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """Limit the total bytes that ``pull`` returns, over all threads.

    A limit per object would not do: a message may have many large ones.

    Returns:
        A function that pulls an object. It raises ``ValueError`` once there are more than ``most`` bytes in
        total.
    """
    mutex, left = threading.Lock(), most

    def pulled(object_id: str) -> bytes:
        nonlocal left
        content = pull(object_id)
        with mutex:
            left -= len(content)
            if left < 0:
                raise ValueError(f"a message is larger than {most} bytes")
        return content

    return pulled


def _small_contents(objects: Mapping[str, InflatableObject]) -> Iterable[bytes]:
    """Return the contents of those objects that go with the head; a large one isn't encoded to find out."""
    small = [
        key
        for key, value in objects.items()
        if not isinstance(value, ArrayChunk) or len(value.data) < MOST_TOGETHER
    ]
    return small_ones(small, lambda key: objects[key].deflate()).values()


def _check_size(response: httpx.Response) -> None:
    """Raise ``ValueError``, before its body is read, for an answer that is or may become too large."""
    most = _MOST_BYTES.get(response.request.url.path, MAX_ANSWER_BYTES)
    length = response.headers.get("content-length", "0" if response.status_code == 204 else "")
    if not length.isdecimal() or len(length) > 12 or int(length) > most:
        raise ValueError("it is too large, or has no Content-Length")
    if "content-encoding" in response.headers:
        raise ValueError("it is compressed")
    # A chunked body is not bound by its Content-Length.
    if "transfer-encoding" in response.headers:
        raise ValueError("it comes in chunks")
