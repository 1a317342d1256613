"""Who may command a merchant: the server of its join file, for that merchant, once, and nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from fedrec.clients.request_gate import RequestGate
from fedrec.clients.store_view import read_store
from fedrec.errors import (
    FedrecError,
    LedgerError,
    RefusedError,
    TrainingError,
)
from fedrec.flower import fleet, guard, new_message, set_task_identity
from fedrec.flower.fleet import FleetLink
from fedrec.flower.framing import PUSH, framed
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.messages import (
    CloseReply,
    CloseRequest,
    JoinReply,
    JoinRequest,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import SignedRequest
from fedrec.protocol.tls import Certificates
from fedrec.protocol.transport import (
    content_hash,
    pack,
    request_hash,
    signed_request,
    unpack,
    with_signature,
)
from fedrec.server.request_signing import RequestSigner
from tests.support.cohort import DIMENSION, KINDS, Cohort, InProcessGrid, Request
from tests.support.daemons import eventually, merchant_home, public_pem, running, serving

MODEL = {"model": np.zeros(DIMENSION, "<f4").tobytes()}
UNSIGNED = "not signed"
CLEAR: dict[str, object] = {
    "scheme": "none",
    "committee": (),
    "threshold": 0,
    "mode": "off",
    "noise_multiplier": None,
}
SECURE: dict[str, object] = {"scheme": "kahe", "committee": ("m0", "m1", "m2", "m3"), "threshold": 3}
REPLIES: dict[str, Any] = {
    "query.join": JoinReply,
    "train": TrainReply,
    "query.unmask": UnmaskReply,
    "query.close": CloseReply,
}


def answer(cohort: Cohort, content: RecordDict, kind: str, *, to: int = 1) -> str:
    """Why a merchant refuses a message, whatever it is; nothing where it doesn't."""
    set_task_identity(run_id=1, node_id=to)
    message = new_message(content, message_type=kind, node_id=to, group_id="1", ttl=60)
    context = Context(run_id=1, node_id=to, node_config={}, state=RecordDict(), run_config={})
    reply = cohort.app()(message, context).content
    return str(unpack(reply, REPLIES[kind], max_blob_bytes=10**7)[0].refused or "")


class Scene:
    """A cohort that joined a plan; what merchant m0 was sent is kept."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.cohort = Cohort(folder)
        self.plan = self.cohort.plan(**(dict(CLEAR, rounds=2) | changes))
        self.grid = InProcessGrid(self.cohort.app(), 4)
        self.close: CloseRequest = CloseRequest(training_id=self.plan.training_id)

    def refused(self, content: RecordDict, body: Request, *, to: int = 1, kind: str = "") -> str:
        return answer(self.cohort, content, kind or KINDS[type(body)], to=to)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def train_request(scene: Scene, round_number: int = 1) -> TrainRequest:
    return TrainRequest(
        training_id=scene.plan.training_id,
        round_number=round_number,
        model_hash=scene.plan.initial_model_hash,
        sealing_keys=(),
    )


def joined(scene: Scene) -> None:
    body = JoinRequest(plan=scene.plan)
    assert not scene.refused(scene.cohort.signed(body), body)


def altered(content: RecordDict, **changes: Any) -> RecordDict:
    """A message whose signed statement was changed and keeps its signature."""
    signed = signed_request(content)
    statement = signed.statement.model_copy(update=changes)
    return with_signature(content, SignedRequest(statement=statement, signature=signed.signature))


def other_body(content: RecordDict, body: Request, blobs: dict[str, bytes] | None = None) -> RecordDict:
    return with_signature(pack(body, blobs), signed_request(content))


def test_without_the_servers_signature_nothing_is_touched(scene: Scene) -> None:
    """Neither an unsigned request nor one of another key is answered: no plan and no store is read."""
    merchant = scene.cohort.merchants["m0"]

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a request that isn't signed was read")

    merchant.join = merchant.train = merchant.unmask = merchant.close_training = never  # type: ignore[method-assign]
    merchant.derived_of_open_training = never  # type: ignore[method-assign]
    impostor = Cohort(scene.cohort.folder / "impostor")
    bodies: list[Request] = [
        JoinRequest(plan=scene.plan),
        train_request(scene),
        UnmaskRequest(training_id=scene.plan.training_id, round_number=1, survivors=()),
        scene.close,
    ]
    for body in bodies:
        assert UNSIGNED in scene.refused(pack(body), body)
        assert UNSIGNED in scene.refused(impostor.signed(body), body)
    # A plan may name any key: that one counts for nothing.
    named = JoinRequest(plan=impostor.plan(roster=scene.cohort.roster))
    assert UNSIGNED in scene.refused(impostor.signed(named), named)


def test_a_plan_that_names_another_server_is_refused(scene: Scene) -> None:
    body = JoinRequest(plan=scene.cohort.plan(server_key="ab" * 32))
    assert "server key is not that of" in scene.refused(scene.cohort.signed(body), body)
    # Also once it was joined, where the merchant has another server by now.
    joined(scene)
    other = SigningIdentity.generate()
    scene.cohort.server = other
    scene.cohort.merchants["m0"].gate.use_server_key(other.public.hex())
    said = scene.refused(scene.cohort.signed(train_request(scene), MODEL), train_request(scene))
    assert (
        said in ("", "no training is open at this merchant: it was closed, or never joined") or "key" in said
    )
    assert "server key is not that of" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"counter": 2**62},
        {"recipient": "m1"},
        {"round_number": 2},
        {"training_id": "ab" * 32},
        {"kind": "query.close"},
        {"content_hash": "ab" * 32},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_no_field_of_the_statement_can_be_changed(scene: Scene, changes: dict[str, Any]) -> None:
    joined(scene)
    body = train_request(scene)
    content = altered(scene.cohort.signed(body, MODEL), **changes)
    assert UNSIGNED in scene.refused(content, body)
    assert scene.cohort.charges("m0") == []


def test_a_request_to_another_merchant_is_refused(scene: Scene) -> None:
    for recipient, node in (("m1", 1), ("m0", 2), ("m", 1), ("m00", 1)):
        content = scene.cohort.signed(scene.close, recipient=recipient)
        assert "another merchant" in scene.refused(content, scene.close, to=node)


def test_a_request_of_another_kind_is_refused(scene: Scene) -> None:
    joined(scene)
    content = scene.cohort.signed(scene.close)
    assert "another kind" in scene.refused(content, scene.close, kind="train")
    # A server that signs a statement beside the body: they must agree.
    body = train_request(scene)
    for training_id, round_number in ((scene.plan.training_id, 2), ("ab" * 32, 1)):
        content = scene.cohort.signer().sign(
            pack(body, MODEL),
            kind="train",
            training_id=training_id,
            round_number=round_number,
            recipient="m0",
        )
        assert "another training or round" in scene.refused(content, body)


def test_body_and_blobs_are_those_that_were_signed(scene: Scene) -> None:
    joined(scene)
    body = train_request(scene)
    content = scene.cohort.signed(body, MODEL)
    other = body.model_copy(update={"model_hash": sha256_hex(b"x")})
    for swapped in (
        other_body(content, other, MODEL),
        other_body(content, body, {"model": bytes(4 * DIMENSION)[:-1] + b"\1"}),
        other_body(content, body, MODEL | {"encryption-key": b"k"}),
        other_body(content, body, {"encryption-key": MODEL["model"]}),
        other_body(content, body),
    ):
        assert "not what the server signed" in scene.refused(swapped, body)
    assert scene.cohort.charges("m0") == []
    # None of them has used the request up.
    assert "not what" not in scene.refused(content, body)


def recorded(scene: Scene, index: int = 0) -> dict[tuple[str, str], RecordDict]:
    """Run a whole training; what one merchant was sent, by type and round."""
    coordinator, records = scene.cohort.coordinator(scene.plan, scene.grid)
    coordinator.run()
    assert all(record.opened for record in records)
    return {
        (message.metadata.message_type, message.metadata.group_id): message.content
        for message in scene.grid.requests
        if message.metadata.dst_node_id == index + 1
    }


@pytest.mark.parametrize("restarted", [False, True])
def test_a_recorded_request_is_refused(scene: Scene, restarted: bool) -> None:
    sent = recorded(scene)
    fresh = JoinRequest(plan=scene.cohort.plan())
    assert not scene.refused(scene.cohort.signed(fresh), fresh)
    if restarted:
        scene.cohort.restart("m0")
    for (kind, _), content in sent.items():
        said = answer(scene.cohort, content, kind)
        # What was taken last of its kind passes, to do once more what is done.
        assert ("older than one" in said) or (kind in ("train", "query.close"))
        if kind == "train":
            assert "older than one" in said or "closed" in said
    # The join of the finished training has not closed the one that is open.
    assert scene.cohort.merchants["m0"].store.open_trainings() == [fresh.plan.training_id]


@pytest.mark.parametrize("restarted", [False, True])
def test_the_very_same_request_gets_the_stored_reply(tmp_path: Path, restarted: bool) -> None:
    """Flower delivers twice, the merchant stops in between; or the server starts again and signs anew."""
    scene = Scene(tmp_path, **SECURE)
    replies: list[tuple[RecordDict, RecordDict]] = []

    def twice(reply: Message, index: int) -> Message:
        request = scene.grid.requests[-1]
        kind = request.metadata.message_type
        if index == 0 and kind in ("train", "query.unmask"):
            if restarted:
                scene.cohort.restart("m0")
            set_task_identity(run_id=1, node_id=1)
            context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
            again = scene.cohort.app()(request, context)
            signed = signed_request(request.content).statement
            anew = scene.cohort.signer().sign(
                request.content,
                kind=signed.kind,
                training_id=signed.training_id,
                round_number=signed.round_number,
                recipient=signed.recipient,
            )
            assert signed_request(anew).statement.counter > signed.counter
            message = new_message(anew, message_type=kind, node_id=1, group_id="1", ttl=60)
            later = scene.cohort.app()(message, context)
            replies.extend([(reply.content, again.content), (reply.content, later.content)])
        return reply

    scene.grid.tamper = twice
    coordinator, records = scene.cohort.coordinator(scene.plan, scene.grid)
    # What was signed anew counts further than the coordinator's own signer would.
    coordinator.signer = scene.cohort.signer()
    monkey = coordinator.signer._next

    def ahead() -> int:
        coordinator.signer._last += 10**12
        return monkey()

    coordinator.signer._next = ahead  # type: ignore[method-assign]
    coordinator._cohort.signer = coordinator.signer
    coordinator.run()
    assert [record.opened for record in records] == [True, True]
    assert len(replies) == 8 and len(scene.cohort.charges("m0")) == 2
    for first, other in replies:
        assert first.config_records["body"]["json"] == other.config_records["body"]["json"]
        assert content_hash(first) == content_hash(other)


# --- the counter -----------------------------------------------------------------------------------------


def counter(content: RecordDict) -> int:
    return signed_request(content).statement.counter


def test_the_counter_grows_over_restarts_and_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = SigningIdentity.generate()
    clock = [10**18]
    monkeypatch.setattr("fedrec.server.request_signing.time.time_ns", lambda: clock[0])
    seen: list[int] = []

    def sign(signer: RequestSigner) -> None:
        content = pack(CloseRequest(training_id="ab" * 32))
        seen.append(counter(signer.sign(content, kind="query.close", training_id="ab" * 32, recipient="m0")))

    def start() -> RequestSigner:
        return RequestSigner(tmp_path / "requests.json", identity=identity, names=dict)

    signer = start()
    for step in (0, 0, 5, -(10**17), 10**11):
        clock[0] += step
        sign(signer)
    clock[0] -= 10**15
    for _ in range(3):  # it starts again and again, a second a time, with a clock that went back
        sign(start())
    (tmp_path / "requests.json").unlink()  # put back from a backup that had none; the clock has gone on
    clock[0] = 3 * 10**18
    sign(start())
    assert seen == sorted(set(seen)) and len(seen) == 9
    (tmp_path / "requests.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"requests\.json"):
        start()


def gate_at(path: Path, server: SigningIdentity) -> RequestGate:
    return RequestGate(path, merchant="m0", server_key=server.public.hex())


def test_each_server_has_a_counter_of_its_own(tmp_path: Path) -> None:
    """A merchant that confirms another server's join file, then the first one's again, forgets nothing."""
    servers = [SigningIdentity.generate() for _ in range(2)]
    bodies = [CloseRequest(training_id="ab" * 32)]
    signers = [
        RequestSigner(tmp_path / f"{number}.json", identity=one, names=dict)
        for number, one in enumerate(servers)
    ]
    signed = [
        signer.sign(pack(bodies[0]), kind="query.close", training_id="ab" * 32, recipient="m0")
        for signer in (signers[0], signers[1], signers[0], signers[1])
    ]
    path = tmp_path / "requests.bin"
    gate = gate_at(path, servers[0])
    gate.check(signed[2], kind="query.close")
    gate.use_server_key(servers[1].public.hex())
    gate.check(signed[1], kind="query.close")
    gate.check(signed[3], kind="query.close")
    again = gate_at(path, servers[0])
    for one in (gate, again):
        one.use_server_key(servers[0].public.hex())
        with pytest.raises(RefusedError, match="older"):
            one.check(signed[0], kind="query.close")
        one.check(signed[2], kind="query.close")
        with pytest.raises(RefusedError, match=UNSIGNED):
            one.check(signed[3], kind="query.close")
    assert path.stat().st_mode & 0o777 == 0o600 and path.stat().st_size == 512
    # What could not be written was not taken.
    later = signers[0].sign(pack(bodies[0]), kind="query.close", training_id="ab" * 32, recipient="m0")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="disk"):
        patch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        again.check(later, kind="query.close")
    assert again._taken["query.close"][0] < counter(later)
    again.check(later, kind="query.close")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LedgerError, match="damaged"):
        gate_at(path, servers[0])


def test_malformed_statements_are_refused(tmp_path: Path) -> None:
    server = SigningIdentity.generate()
    gate = gate_at(tmp_path / "requests.bin", server)
    content = pack(CloseRequest(training_id="ab" * 32))
    for raw in (b"", b"{}", b"[" * 100, b'{"statement":{}}', b"9" * 10**6, b"\xff" * 100, "text", 1, [b"x"]):
        content.config_records["body"]["signed"] = raw
        with pytest.raises(FedrecError):
            gate.check(content, kind="query.close")
    with pytest.raises(FedrecError):
        gate.check(RecordDict(), kind="query.close")
    assert not (tmp_path / "requests.bin").exists()


def test_a_content_hash_equals_the_hash_of_the_packed_request() -> None:
    blobs = {"model": bytes(range(256)) * 2**16, "encryption-key": b"k"}
    body = CloseRequest(training_id="ab" * 32)
    assert content_hash(pack(body, blobs)) == request_hash(body, blobs)


def train_request_of(round_number: int) -> TrainRequest:
    return TrainRequest(
        training_id="ab" * 32, round_number=round_number, model_hash="ab" * 32, sealing_keys=()
    )


# --- one merchant, by way of Flower ------------------------------------------------------------------------


def push(
    link: FleetLink, message: Message, *, src: int, dst: int, reply_to: str = ""
) -> PushMessagesResponse:
    """Push a message of any kind over a merchant's own connection, whole, as Flower's client would."""
    metadata = message.metadata.__dict__
    metadata |= {"_src_node_id": src, "_dst_node_id": dst, "_reply_to_message_id": ""}
    metadata["_message_id"] = message.object_id
    tree = get_object_tree(message)
    objects = {key: value.deflate() for key, value in get_all_nested_objects(message).items()}
    node = Node(node_id=link.node_id)
    head = message_to_proto(remove_content_from_message(message))
    request = PushMessagesRequest(node=node, messages_list=[head], message_object_trees=[tree])
    response = PushMessagesResponse()
    response.ParseFromString(
        link._client.exchange(PUSH, request, framed(request.SerializeToString(), objects.values()))
    )
    return response


@pytest.mark.parametrize("guarded", [False, True], ids=["guard off", "guard on"])
def test_one_merchant_cannot_deliver_an_instruction_to_another(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """What was tried: A's message in the server's name closed B's training. Either layer alone holds."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    monkeypatch.setattr(fleet, "LINGER_SECONDS", 0.0)
    arrived: list[str] = []
    if not guarded:
        monkeypatch.setattr(guard, "_is_own_reply", lambda body, node: True)
    checks = RequestGate.check

    def watched(self: RequestGate, content: RecordDict, *, kind: str) -> Any:
        arrived.append(kind)
        return checks(self, content, kind=kind)

    monkeypatch.setattr(RequestGate, "check", watched)
    with serving(certificates) as started:
        home = merchant_home(tmp_path / "home", address=started.address, authority=certificates.authority)
        victim = started.host.admit(public_pem(home.node_key()))
        own = ec.generate_private_key(ec.SECP384R1())
        started.host.admit(public_pem(own))
        with (
            running(home) as daemon,
            FleetLink(address=started.address, ca=certificates.authority, key=own) as attacker,
        ):
            eventually(lambda: started.is_up(victim))
            run_id = started.grid.run.run_id
            body = CloseRequest(training_id="ab" * 32)

            def instruction() -> Message:
                set_task_identity(run_id=run_id, node_id=1)
                return new_message(
                    pack(body), message_type="query.close", node_id=victim, group_id="1", ttl=60
                )

            refusals = 0
            for src in (1, attacker.node_id, victim):
                forged = instruction()
                try:
                    push(attacker, forged, src=src, dst=victim)
                except httpx.HTTPStatusError as error:
                    assert error.response.status_code == 403
                    refusals += 1
                if not guarded:
                    # Flower would hand it out; here only what the server itself has sent is.
                    started.host._pending.sent(victim, forged.metadata.message_id)
            if guarded:
                assert refusals == 3
            else:
                eventually(lambda: arrived)
            # The server's own request is answered after whatever stood before it.
            said = started.ask(victim, "query.close", body, CloseReply)
            assert said.refused is not None and said.refused.code == "training"
            assert arrived == ["query.close"] * (1 if guarded else 2)
            assert daemon.is_alive()
        kept = [refusal.reason for refusal in read_store(home.store).refusals]
        assert [UNSIGNED in reason for reason in kept] == ([False] if guarded else [True, False])
