"""What fedrec/flower relies on in Flower's private side: another version that lacks it fails here, by name.

Imports, calls and fields are read out of the code of fedrec/flower itself. What only shows on an object is
listed by hand, and a private attribute that isn't listed fails.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import flwr.proto.fleet_pb2 as fleet_pb2
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, Message, Metadata, RecordDict
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectResponse,
    PushObjectResponse,
)
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree, push_objects
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedrec.flower import error_reply, message_from_bytes, message_to_bytes, new_message
from fedrec.flower.clock import ServerClock
from fedrec.flower.fleet_client import FleetClient
from fedrec.flower.signing import SigningInterceptor
from tests.support.layout import PACKAGE

FOLDER = PACKAGE / "flower"
TREES = {path.name: ast.parse(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.py"))}

CHECKED_BELOW = {"_client", "_runtime_client", "_future_to_actor"}
"""Private attributes of Flower's objects, each with a test below."""


class Imported(NamedTuple):
    """A name that a file of fedrec/flower takes from Flower."""

    file: str
    module: str
    name: str
    alias: str

    def found(self) -> Any:
        if self.module == "flwr.server.superlink.fleet.vce.backend.raybackend":
            pytest.importorskip("ray")
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            raise AssertionError(f"fedrec/flower/{self.file} needs {self.module}: {error}") from None
        if not hasattr(module, self.name):
            try:
                return importlib.import_module(f"{self.module}.{self.name}")
            except ImportError:
                raise AssertionError(f"fedrec/flower/{self.file}: {self.module} has no {self.name}") from None
        return getattr(module, self.name)


def imports() -> Iterator[Imported]:
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr"):
                for alias in node.names:
                    yield Imported(file, str(node.module), alias.name, alias.asname or alias.name)


IMPORTS = sorted(set(imports()))


@pytest.mark.parametrize("imported", IMPORTS, ids=lambda imported: f"{imported.file}-{imported.name}")
def test_every_name_is_there(imported: Imported) -> None:
    assert imported.found() is not None


def calls() -> Iterator[tuple[Imported, str, ast.Call]]:
    """Calls of an imported name, or of a method of one (``FleetHttpClient.from_server_address``)."""
    for file, tree in TREES.items():
        known = {imported.alias: imported for imported in IMPORTS if imported.file == file}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in known:
                yield known[node.func.id], "", node
            elif (
                isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in known
            ):
                yield known[node.func.value.id], node.func.attr, node


CALLS = sorted(calls(), key=lambda call: (call[0], call[2].lineno))


@pytest.mark.parametrize(
    ("imported", "method", "call"),
    CALLS,
    ids=[f"{imported.file}:{call.lineno}-{imported.name}" for imported, _, call in CALLS],
)
def test_every_call_fits(imported: Imported, method: str, call: ast.Call) -> None:
    called = imported.found()
    where = f"fedrec/flower/{imported.file}:{call.lineno}: {imported.module}.{imported.name}"
    if method:
        assert hasattr(called, method), f"{where} has no {method}"
        called = getattr(called, method)
    keywords = {word.arg for word in call.keywords if word.arg is not None}
    fields = getattr(getattr(called, "DESCRIPTOR", None), "fields_by_name", None)
    if fields is not None:
        missing = keywords - set(fields)
        assert not missing and not call.args, f"{where} has no field {missing}"
        return
    try:
        inspect.signature(called).bind(*call.args, **dict.fromkeys(keywords))
    except TypeError as error:
        raise AssertionError(f"{where}: {error}") from None


def private_attributes() -> Iterator[tuple[str, str]]:
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
                continue
            if node.attr.startswith("__") or ast.unparse(node.value) in ("self", "cls"):
                continue
            yield file, node.attr


def test_every_private_attribute_has_a_test_here() -> None:
    assert {name for _, name in private_attributes()} <= CHECKED_BELOW


def subclasses() -> Iterator[tuple[str, ast.ClassDef, Imported]]:
    for file, tree in TREES.items():
        known = {imported.alias: imported for imported in IMPORTS if imported.file == file}
        for node in ast.walk(tree):
            for base in node.bases if isinstance(node, ast.ClassDef) else ():
                if isinstance(base, ast.Name) and base.id in known:
                    yield file, node, known[base.id]  # type: ignore[misc]


def test_a_subclass_uses_what_its_base_has() -> None:
    found = list(subclasses())
    assert found
    for file, node, imported in found:
        base = imported.found()
        used = _of_self(node)
        own = _assigned(node) | {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        of_base: set[str] = set(dir(base))
        for kind in base.__mro__[:-1]:
            of_base |= _assigned(ast.parse(inspect.getsource(kind)))
        missing = {name for name in used - own - of_base if not name.startswith("__")}
        assert not missing, f"fedrec/flower/{file}: {imported.name} has no {missing}"
        overridden = {part.name for part in node.body if isinstance(part, ast.FunctionDef)} & used
        assert all(name in of_base or name in own for name in overridden)


def _of_self(tree: ast.AST) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }


def _assigned(tree: ast.AST) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


class Recorder:
    """An HTTP transport that answers as told and keeps what it was asked."""

    def __init__(self, client: FleetHttpClient) -> None:
        self.asked: list[httpx.Request] = []
        self.answers: dict[str, bytes] = {}
        assert isinstance(client._client, httpx.Client), "a fleet client's HTTP client is httpx's, in _client"
        client._client._transport = httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return httpx.Response(200, content=self.answers.get(request.url.path.rsplit("/", 1)[-1], b""))


@pytest.fixture
def client() -> FleetHttpClient:
    key = ec.generate_private_key(ec.SECP384R1())
    return FleetClient(
        "http://127.0.0.1:1", httpx.Client(trust_env=False), [SigningInterceptor(key, ServerClock())]
    )


def test_a_fleet_client_of_ours_is_set_up_as_flowers_own(client: FleetHttpClient) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    auth = NodeAuthHttpInterceptor(key, key.public_key())
    theirs = FleetHttpClient.from_server_address("127.0.0.1:1", True, None, interceptors=[auth])
    assert vars(theirs).keys() == vars(client).keys()
    assert vars(theirs)["_base_url"] == vars(client)["_base_url"]
    assert vars(theirs)["_retry_invoker"] is vars(client)["_retry_invoker"] is None
    headers = [set[str](), set[str]()]
    for found, one in zip(headers, (theirs, client), strict=True):
        recorder = Recorder(one)
        one.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=5))
        found.update(recorder.asked[0].headers)
    assert headers[0] == headers[1]


def test_a_fleet_client_signs_its_requests(client: FleetHttpClient) -> None:
    recorder = Recorder(client)
    recorder.answers["activate-node"] = fleet_pb2.ActivateNodeResponse(node_id=5).SerializeToString()
    with client:
        request = fleet_pb2.ActivateNodeRequest(public_key=b"k", heartbeat_interval=10.0)
        assert client.ActivateNode(request).node_id == 5
        client.SendNodeHeartbeat(SendNodeHeartbeatRequest(heartbeat_interval=10.0))
        client.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=5))
    paths = [request.url.path for request in recorder.asked]
    assert paths == [
        f"/v1/fleet/{name}-node{rest}"
        for name, rest in (("activate", ""), ("send", "-heartbeat"), ("deactivate", ""))
    ]
    assert all("flwr-timestamp" in request.headers for request in recorder.asked)


def test_a_message_goes_out_and_comes_back_piece_by_piece(client: FleetHttpClient) -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 3, 4, 1
    message = Message(RecordDict(), dst_node_id=5, message_type="query.join", ttl=60, group_id="2")
    assert isinstance(message.metadata, Metadata) and (
        message.metadata.run_id,
        message.metadata.src_node_id,
    ) == (3, 4)
    message.metadata.__dict__["_message_id"] = message.object_id
    assert message.metadata.message_id == message.object_id
    tree = get_object_tree(message)
    assert isinstance(tree, ObjectTree) and tree.object_id == message.object_id
    pieces: dict[str, bytes] = {}
    push_objects(
        get_all_nested_objects(message), pieces.__setitem__, object_ids_to_push={*map(str, ids(tree))}
    )
    confirmed: list[str] = []
    back = pull_and_inflate_object_from_tree(
        tree, pieces.__getitem__, confirmed.append, return_type=Message, initial_backoff=0.02
    )
    assert back.metadata.group_id == "2" and back.has_content() and confirmed == [message.object_id]


def test_a_message_survives_its_encoding() -> None:
    """What workers answer goes to the server's process like this: nothing is unpickled there."""
    content = RecordDict({"blobs": ArrayRecord({"a/0": Array("uint8", (3,), "fedrec.bytes/1", b"abc")})})
    sent = new_message(content, message_type="train", node_id=7, group_id="3", ttl=60.0)
    found = message_from_bytes(message_to_bytes(sent))
    assert found.content == content and found.metadata == sent.metadata
    failed = message_from_bytes(message_to_bytes(error_reply(sent, code=5, reason="gone")))
    assert failed.has_error() and failed.error.reason == "gone"
    assert failed.metadata.reply_to_message_id == sent.metadata.message_id
    with pytest.raises(ValueError, match="not a Flower message"):
        message_from_bytes(b"\xff" * 9)


def ids(tree: ObjectTree) -> Iterator[str]:
    yield tree.object_id
    for child in tree.children:
        yield from ids(child)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (fleet_pb2.ActivateNodeResponse, {"node_id"}),
        (fleet_pb2.PullMessagesResponse, {"messages_list", "message_object_trees"}),
        (fleet_pb2.PushMessagesResponse, {"session_id", "objects_to_push"}),
        (PullObjectResponse, {"object_found", "object_available", "object_content"}),
        (PushObjectResponse, {"stored"}),
        (ConfirmMessageReceivedResponse, set()),
    ],
)
def test_answers_have_the_fields_that_are_read(kind: Any, fields: set[str]) -> None:
    assert fields <= set(kind.DESCRIPTOR.fields_by_name)


def test_an_error_of_flower_s_has_its_code() -> None:
    found = FlowerError.from_json(json.dumps({"code": 2004, "detail": "no"}))
    assert found is not None and found.code == 2004
    assert FlowerError.from_json("<html>") is None


def test_a_grid_has_a_client_of_the_runtime() -> None:
    assert isinstance(inspect.getattr_static(HttpGrid, "_runtime_client"), property)
    assert {"set_run", "close", "push_messages", "pull_messages", "get_node_ids"} <= set(dir(HttpGrid))


def test_ray_s_actors_can_be_reached() -> None:
    pytest.importorskip("ray")
    from flwr.server.superlink.fleet.vce.backend import raybackend
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool

    assert {"build", "process_message", "terminate", "num_workers"} <= set(dir(raybackend.RayBackend))
    assert {"pool", "_future_to_actor"} <= _assigned(ast.parse(inspect.getsource(BasicActorPool))) | {
        node.target.attr
        for node in ast.walk(ast.parse(inspect.getsource(BasicActorPool)))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute)
    }
