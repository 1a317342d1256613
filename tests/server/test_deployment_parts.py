"""The server's side of a deployment, piece by piece: enrolment, certificates, records, waiting, guards."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Message
from flwr.supercore.runtime import RuntimeHttpClient
from typer.testing import CliRunner

from fedrec._internal.file_locks import take_lock
from fedrec._internal.json_files import write_json
from fedrec.cli.app import app
from fedrec.clients.merchant_home import MerchantHome
from fedrec.errors import ConfigError, ServiceError, TrainingError
from fedrec.flower.grid import PrivateGrid
from fedrec.flower.guard import SECRET_HEADER, Guard, OnlyWithSecret
from fedrec.flower.pending_messages import PendingMessages
from fedrec.flower.runtime import InProcessRuntime
from fedrec.flower.superlink import SuperLinkHost
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.enrolment import ENROLMENT_CONTEXT, Enrolment, Statement, read_file
from fedrec.protocol.messages import TrainReply
from fedrec.protocol.tls import Certificates
from fedrec.protocol.training_report.round_line import RoundLine, RoundRecord
from fedrec.protocol.transport import pack, unpack
from fedrec.server import training_file, training_run
from fedrec.server.attendance import CohortIncompleteError
from fedrec.server.certificates import check_certificates, make_server_certificates
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.server_address import ServerSettings
from fedrec.server.server_home import ServerHome
from fedrec.server.service import Service
from fedrec.server.training_file import TrainingFile, add_training, read_training_file
from fedrec.server.training_run import TrainingRun
from fedrec.server.trainings import Training, all_trainings, find_training, training_folders
from tests.support.callers import Call, admitted
from tests.support.cohort import LATER, Cohort, InProcessGrid, set_clock
from tests.support.layout import DOCS
from tests.support.training_reports import A_ROUND


def public_pem(curve: ec.EllipticCurve) -> str:
    key = ec.generate_private_key(curve).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def enrolment(name: str, node_key: str) -> Enrolment:
    identity = SigningIdentity.generate()
    statement = Statement(
        name=name, signing_key=identity.public.hex(), node_key=node_key, unit="record", size=100
    )
    signature = identity.sign(statement.canonical_bytes(), context=ENROLMENT_CONTEXT).hex()
    return Enrolment(statement=statement, signature=signature)


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return ServerHome.create(tmp_path / "server", address="127.0.0.1:8443", listen=None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("\u5546\u5e97.\u4e2d\u56fd", "xn--czrs0t.xn--fiqs8s"),
        ("B\u00dcCHER.example", "xn--bcher-kva.example"),
        ("server.example", "server.example"),
    ],
)
def test_a_server_s_name_may_be_international(given: str, kept: str, tmp_path: Path) -> None:
    made = ServerHome.create(tmp_path / "server", address=f"{given}:8443", listen=None)
    assert made.settings() == ServerSettings(address=f"{kept}:8443", listen=kept, port=8443)
    own = Certificates(authority=made.authority, certificate=made.certificate, key=made.key)
    check_certificates(own, host=kept)
    assert kept == given or given.lower().encode("idna").decode() == kept


@pytest.mark.parametrize(
    "given",
    [
        *("\u2603.example", "b\u00fc..example", "\u00fc" * 70, "b\u00fc cher", "a" * 64 + ".example", "a..b"),
        *("-a.example", "192.168.1.300", "1.2.3", "[1::2::3]", "[192.0.2.7]"),
    ],
)
def test_a_name_that_no_host_can_have_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        ServerHome.create(tmp_path / "server", address=f"{given}:8443", listen=None)


@pytest.mark.parametrize(
    ("given", "example"),
    [
        ("shop.example", "shop.example:8443"),
        ("192.0.2.7", "192.0.2.7:8443"),
        ("2001:db8::7", "[2001:db8::7]:8443"),
        ("[2001:db8::7]", "[2001:db8::7]:8443"),
        ("https://me@shop.example/page", "shop.example:8443"),
        ("https://shop.example:444", "shop.example:444"),
        ("shop.example:70000", "shop.example:8443"),
        ("b\u00fccher.example", "b\u00fccher.example:8443"),
        (":8443", "shop.example:8443"),
        ("", "shop.example:8443"),
    ],
)
def test_an_address_without_a_port_is_answered_with_what_to_write(
    given: str, example: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="a port from 1 to 65535, as in ") as caught:
        ServerHome.create(tmp_path / "server", address=given, listen=None)
    assert str(caught.value).endswith(f"as in {example}")
    ServerHome.create(tmp_path / "server", address=example, listen=None)


def test_a_node_key_that_flower_could_not_use_is_not_enrolled(home: ServerHome) -> None:
    rubbish = "-----BEGIN PUBLIC KEY-----\nrubbish\n-----END PUBLIC KEY-----\n"
    with pytest.raises(ConfigError, match="can't be read"):
        home.enroll(enrolment("a", rubbish))
    with pytest.raises(ConfigError, match="P-384"):
        home.enroll(enrolment("a", public_pem(ec.SECP256R1())))
    shared = public_pem(ec.SECP384R1())
    home.enroll(enrolment("a", shared))
    with pytest.raises(ConfigError, match="enrolled as 'a'"):
        home.enroll(enrolment("b", shared))
    assert [entry.name for entry in home.enrolled()] == ["a"]


def test_commands_that_enrol_at_the_same_time_lose_nobody(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"m{number}" for number in range(8)]
    files = [enrolment(name, public_pem(ec.SECP384R1())) for name in names]
    with ThreadPoolExecutor(len(files)) as pool:
        assert len(set(pool.map(home.enroll, files))) == len(files)
    assert [entry.name for entry in home.enrolled()] == names
    lock = take_lock(home.folder / "roster.lock")
    monkeypatch.setattr("fedrec.server.roster_file._CHANGE_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="another command changes the roster"):
        home.revoke("m0")
    lock.close()
    home.revoke("m0")


@pytest.mark.parametrize("content", ["", "null", "{}", "[1]", '[{"name": "a"}]'])
def test_a_damaged_roster_is_no_empty_one(home: ServerHome, content: str) -> None:
    home.enroll(enrolment("a", public_pem(ec.SECP384R1())))
    (home.folder / "roster.json").write_text(content)
    with pytest.raises(
        ServiceError, match=r"roster.json can't be used: .*; restore it from a backup"
    ) as found:
        home.enrolled()
    assert "pydantic" not in str(found.value)


def test_without_the_record_of_removed_keys_none_is_enrolled_again(home: ServerHome) -> None:
    home.enroll(enrolment("a", public_pem(ec.SECP384R1())))
    home.revoke("a")
    for content in ("", "{}", "[1]"):
        (home.folder / "retired.json").write_text(content)
        with pytest.raises(ServiceError, match=r"retired.json can't be used"):
            home.enroll(enrolment("a", public_pem(ec.SECP384R1())))


def test_a_merchant_s_new_node_key_takes_the_old_one_s_place(home: ServerHome, tmp_path: Path) -> None:
    merchant = MerchantHome.create(tmp_path / "m", name="m", data=tmp_path, units=10)
    first = read_file(merchant.folder / "enrolment.json", Enrolment)
    digest = home.enroll(first)
    renewed = first.statement.model_copy(update={"node_key": public_pem(ec.SECP384R1())})
    signature = merchant.identity().sign(renewed.canonical_bytes(), context=ENROLMENT_CONTEXT).hex()
    assert home.enroll(Enrolment(statement=renewed, signature=signature)) == digest
    assert [entry.node_key for entry in home.enrolled()] == [renewed.node_key]


def test_certificates_are_tried_as_merchants_will_before_they_are_taken(tmp_path: Path) -> None:
    for name in ("public", "other"):
        (tmp_path / name).mkdir()
    public = make_server_certificates(tmp_path / "public", hosts=("fed.example.org",))
    other = make_server_certificates(tmp_path / "other", hosts=("fed.example.org",))
    check_certificates(public, host="fed.example.org")
    with pytest.raises(ConfigError, match="fed2"):
        check_certificates(public, host="fed2.example.org")
    swapped = Certificates(authority=public.authority, certificate=public.certificate, key=other.key)
    with pytest.raises(ConfigError, match="used together"):
        ServerHome.create(tmp_path / "a", address="fed.example.org:8443", listen=None, certificates=swapped)
    stranger = Certificates(authority=other.authority, certificate=public.certificate, key=public.key)
    with pytest.raises(ConfigError, match="no merchant would accept"):
        ServerHome.create(tmp_path / "a", address="fed.example.org:8443", listen=None, certificates=stranger)
    made = ServerHome.create(
        tmp_path / "a", address="fed.example.org:8443", listen="127.0.0.1", certificates=public
    )
    assert made.key.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="isn't this server's own"):
        made.renew()


def test_a_certificate_for_a_public_name_alone_serves(tmp_path: Path) -> None:
    for name in ("public", "private"):
        (tmp_path / name).mkdir()
    public = make_server_certificates(tmp_path / "public", hosts=("fed.example.org",))
    private = make_server_certificates(tmp_path / "private", hosts=("127.0.0.1",))
    host = SuperLinkHost(certificates=public, private=private, host="127.0.0.1", port=0)
    host.start()
    try:
        assert host.nodes() == {}
    finally:
        host.stop()


def test_a_run_that_flower_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    certificates = make_server_certificates(tmp_path, hosts=("127.0.0.1",))
    closed: list[RuntimeHttpClient] = []
    close = RuntimeHttpClient.close

    def remember(self: RuntimeHttpClient) -> None:
        closed.append(self)
        close(self)

    def none(client: RuntimeHttpClient, request: object) -> None:
        raise RuntimeError("no input for this task")

    monkeypatch.setattr(RuntimeHttpClient, "close", remember)
    monkeypatch.setattr(RuntimeHttpClient, "PullTaskInput", none)
    host = SuperLinkHost(certificates=certificates, private=certificates, host="127.0.0.1", port=0)
    host.start()
    try:
        with pytest.raises(RuntimeError, match="no input for this task"), host.open_run():
            raise AssertionError("the run was handed out")
        # One that acquired the task, and one that asked for its input.
        assert len(closed) == 2
    finally:
        host.stop()


def test_a_renewed_certificate_is_of_the_same_authority(home: ServerHome) -> None:
    before, authority = home.certificate.read_bytes(), home.authority.read_bytes()
    home.renew()
    assert home.certificate.read_bytes() != before and home.authority.read_bytes() == authority
    check_certificates(home.certificates(), host="127.0.0.1")
    assert home.key.stat().st_mode & 0o077 == 0
    assert not list(home.folder.glob(".renewed-*"))


def planned(home: ServerHome) -> Training:
    options = TrainingFile(model="cnn", classes=("a", "b"), image_size=8, rounds=4, epsilon=50, delta=1e-3)
    return add_training(
        home.trainings,
        options,
        server_key=home.identity().public.hex(),
        roster=home.roster(),
        sizes=home.sizes("record"),
    )


def finished(number: int, *, accuracy: float | None, opened: bool = True) -> RoundLine:
    record = A_ROUND.model_copy(
        update={"round": number, "opened": opened, "reason": None if opened else "too few"}
    )
    return RoundLine.of(record, accuracy=accuracy, f1_macro=None, epsilon=float(number))


@pytest.fixture
def trainable(home: ServerHome) -> ServerHome:
    for name in ("a", "b", "c"):
        home.enroll(enrolment(name, public_pem(ec.SECP384R1())))
    return home


def test_plans_that_are_filed_at_once_get_numbers_of_their_own(
    trainable: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, looks = planned(trainable), itertools.count()
    monkeypatch.setattr(
        training_file, "training_folders", lambda folder: [] if next(looks) == 0 else training_folders(folder)
    )
    second = planned(trainable)
    assert [first.number, second.number] == ["0001", "0002"] and next(looks) == 2
    assert first.plan().training_id != second.plan().training_id
    assert sorted(path.name for path in trainable.trainings.iterdir()) == ["0001", "0002"]


def test_what_an_interrupted_plan_left_stops_no_later_one(trainable: ServerHome) -> None:
    first = planned(trainable)
    (trainable.trainings / ".plan-broken" / "0002").mkdir(parents=True)
    second = planned(trainable)
    assert [training.number for training in all_trainings(trainable.trainings)] == ["0001", "0002"]
    assert (first.number, second.status()) == ("0001", ("filed", ""))


def test_a_round_cut_off_in_the_record_is_no_round_and_the_next_takes_its_place(
    trainable: ServerHome,
) -> None:
    training = planned(trainable)
    training.add_round(finished(1, accuracy=0.5))
    with (training.folder / "rounds.jsonl").open("ab") as file:
        file.write(b'{"round": 2, "ope')
    assert [line.round for line in training.rounds()] == [1]
    training.add_round(finished(2, accuracy=None))
    assert training.rounds()[1] == finished(2, accuracy=None)


def test_a_training_starts_when_it_first_runs_and_not_while_it_waits(trainable: ServerHome) -> None:
    training = planned(trainable)
    training.set_status("filed", "waits")
    assert training.started() is None
    training.set_status("running")
    started = training.started()
    assert started is not None
    training.set_status("failed", "why")
    training.set_status("running")
    assert training.started() == started


def test_a_stored_round_is_recorded_again_after_a_crash(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=2)
    first, _ = cohort.coordinator(plan)

    class Crash(Exception): ...  # noqa: N818

    def crash(record: RoundRecord) -> None:
        raise Crash

    first.on_round = crash
    with pytest.raises(Crash):
        first.run()
    again, told = cohort.coordinator(plan)
    again.run()
    assert [(entry.round, entry.opened, entry.merchants) for entry in told] == [
        (1, True, ("m0", "m1", "m2", "m3")),
        (2, True, ("m0", "m1", "m2", "m3")),
    ]
    last = again.checkpoint.last_record()
    assert last is not None and last.round == 2


class Leaving(InProcessGrid):
    """A grid whose nodes can go away."""

    away: frozenset[int] = frozenset()

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in super().get_node_ids() if node not in self.away]


def test_no_round_is_charged_while_too_few_merchants_are_there(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=5, min_contributors=4)
    grid = Leaving(cohort.app(), 4)
    coordinator, records = cohort.coordinator(plan, grid)

    def leave(record: RoundRecord) -> None:
        records.append(record)
        grid.away = frozenset({2})

    coordinator.on_round = leave
    with pytest.raises(CohortIncompleteError, match="3 merchants are connected, 4 are needed; away: m1"):
        coordinator.run()
    assert [record.round for record in records] == [1]
    assert coordinator.checkpoint.last_reserved() == 1
    assert [len(cohort.charges(name)) for name in cohort.names] == [1] * 4
    grid.away = frozenset()
    again, later = cohort.coordinator(plan, grid)
    again.run()
    assert [(record.round, record.opened) for record in later[1:]] == [(n, True) for n in (2, 3, 4, 5)]


def test_consecutive_lost_rounds_stop_a_training(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    grid = InProcessGrid(cohort.app(), 4, drop=lambda kind, group, index: "unmask" in kind)
    coordinator, records = cohort.coordinator(cohort.plan(rounds=20), grid)
    coordinator.most_lost = 3
    with pytest.raises(TrainingError, match="too many rounds are lost, 3 more than one in eleven"):
        coordinator.run()
    assert [record.opened for record in records] == [False] * 3
    assert [len(cohort.charges(name)) for name in cohort.names] == [3] * 4


def test_a_round_lost_to_refusals_says_whose_and_the_next_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = Cohort(tmp_path)
    set_clock(cohort, "m2", LATER, monkeypatch)
    coordinator, records = cohort.coordinator(
        cohort.plan(rounds=5, min_contributors=4), InProcessGrid(cohort.app(), 4)
    )
    pauses: list[int] = []

    def change(record: RoundRecord) -> None:
        records.append(record)
        strict = record.round in (1, 2)
        cohort.merchants["m2"].use_policy(
            cohort.policy.model_copy(update={"largest_rounds_per_day": 1} if strict else {})
        )

    coordinator.on_round, coordinator.before_round = change, pauses.append
    coordinator.run()
    assert [record.opened for record in records] == [True, False, False, True, True]
    assert records[1].reason is not None
    assert records[1].reason.startswith(
        "3 contributors, fewer than the 4 required (m2: policy 'largest_rounds_per_day'"
    )
    assert pauses == [0, 0, 1, 2, 0]


def test_a_malformed_reply_does_not_count_as_a_refusal(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)

    def spoil(reply: Message, index: int) -> Message:
        if reply.metadata.message_type == "train" and index == 2:
            body, blobs = unpack(reply.content, TrainReply, max_blob_bytes=10**7)
            reply.content = pack(body, {**blobs, "ciphertext": b"rubbish"})
        return reply

    grid = InProcessGrid(cohort.app(), 4, tamper=spoil)
    coordinator, records = cohort.coordinator(cohort.plan(rounds=2, min_contributors=4), grid)
    pauses: list[int] = []
    coordinator.before_round = pauses.append
    coordinator.run()
    assert [record.opened for record in records] == [False, False] and pauses == [0, 0]
    assert "m2: the ciphertext is not the one committed to" in (records[0].reason or "")


def test_stopping_before_a_round_charges_nobody(
    trainable: ServerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, stop = planned(trainable), threading.Event()
    run = TrainingRun(trainable, training, stop, names=dict, follow=lambda *_: None, timeout=1.0, most_lost=5)
    run._before_round(0)
    monkeypatch.setattr(training_run, "_LONGEST_PAUSE", 0.2)
    started = time.monotonic()
    run._before_round(10**9)
    assert 0.2 <= time.monotonic() - started < 5
    cohort = Cohort(tmp_path / "cohort")
    coordinator, records = cohort.coordinator(cohort.plan())
    coordinator.before_round = run._before_round
    training.set_status("cancelled")
    with pytest.raises(training_run._StoppedError):
        coordinator.run()
    stop.set()
    with pytest.raises(training_run._StoppedError):
        run._before_round(1)
    assert records == [] and coordinator.checkpoint.last_reserved() == 0
    assert not any(merchant.ledger.begun for merchant in cohort.merchants.values())


async def answers_ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def test_the_private_listener_asks_for_its_secret() -> None:
    app = OnlyWithSecret(answers_ok, secret="right")
    assert Call().to(app, "/v1/control/list-runs") == 403
    assert Call(headers=((SECRET_HEADER.encode(), b"wrong"),)).to(app, "/v1/control/list-runs") == 403
    assert Call(headers=((SECRET_HEADER.encode(), b"right"),)).to(app, "/v1/control/list-runs") == 200


def test_a_request_that_flower_itself_turns_away_is_reported() -> None:
    told: list[tuple[str, str]] = []

    for status in (401, 403, 412):

        async def refuses(scope: Any, receive: Any, send: Any, status: int = status) -> None:
            await send({"type": "http.response.start", "status": status, "headers": []})

        app = Guard(refuses, admitted=admitted, on_refusal=lambda address, path: told.append((address, path)))
        assert Call().to(app) == status
        address, what = told.pop()
        assert address == "198.51.100.7" and not told and "a key that is not admitted" in what
        assert ("whose last connection is still held" in what) == (status == 412)


def test_a_path_that_is_refused_brings_no_line_of_its_own_into_a_log() -> None:
    told: list[str] = []
    app = Guard(answers_ok, admitted=admitted, on_refusal=lambda address, path: told.append(path))
    assert Call().to(app, "/a\n2026-01-01 00:00:00,000 INFO stopped\x1b[2J" + "c" * 500) == 403
    assert told[0].isprintable() and len(told[0]) == 200


def test_a_forged_reply_is_the_only_one_lost() -> None:
    from flwr.proto.message_pb2 import Message as ProtoMessage
    from flwr.proto.message_pb2 import Metadata, ObjectTree
    from flwr.proto.runtime_pb2 import PullAppMessagesResponse

    class Client:
        confirmed = 0

        def PullMessages(self, request: object) -> PullAppMessagesResponse:  # noqa: N802
            heads = [ProtoMessage(metadata=Metadata(reply_to_message_id=name, run_id=1)) for name in "ab"]
            trees = [ObjectTree(object_id="0" * 64), ObjectTree(object_id="1" * 64)]
            return PullAppMessagesResponse(messages_list=heads, message_object_trees=trees)

        def PullObject(self, request: Any) -> Any:  # noqa: N802
            class Found:
                object_found = object_available = True
                object_content = b"Message,,3\0xxx" if request.object_id[0] == "0" else b"\xff\xfe rubbish"

            return Found

        def ConfirmMessageReceived(self, request: object) -> None:  # noqa: N802
            self.confirmed += 1

    grid = PrivateGrid(cast("InProcessRuntime", Client()), PendingMessages())
    found: list[Message] = list(grid.pull_messages(["a", "b"]))
    assert [message.metadata.reply_to_message_id for message in found] == ["a", "b"]
    assert all(message.has_error() for message in found)


def test_the_documented_training_file_is_valid(tmp_path: Path) -> None:
    text = (DOCS / "training-file.md").read_text("utf-8")
    (tmp_path / "plan.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    options = read_training_file(tmp_path / "plan.toml")
    assert (options.epsilon, len(options.classes)) == (4.0, 10)
    keys = set(re.findall(r"`([a-z0-9_]+)`", " ".join(re.findall(r"^\| (.+?) \|", text, re.MULTILINE))))
    assert keys == set(TrainingFile.model_fields)


def test_a_folder_to_evaluate_on_is_there_when_a_training_is_filed(tmp_path: Path) -> None:
    roster = Cohort(tmp_path / "cohort").roster
    written = {"classes": ["a", "b"], "rounds": 2, "delta": 1e-4, "eval_data": str(tmp_path / "none")}
    (tmp_path / "trainings").mkdir()

    def filed() -> Training:
        options = TrainingFile.model_validate(written)
        sizes = (100,) * len(roster)
        return add_training(tmp_path / "trainings", options, server_key="0" * 64, roster=roster, sizes=sizes)

    with pytest.raises(ConfigError, match="eval_data: there is no folder"):
        filed()
    (tmp_path / "none").mkdir()
    assert list(all_trainings(tmp_path / "trainings")) == []
    written["min_contributors"] = 2
    with pytest.raises(ConfigError, match="raise min_contributors or merchants"):
        filed()
    del written["min_contributors"]
    written["classes"] = ["hat", "mug", "Hat "]
    with pytest.raises(ConfigError, match="classes: 'Hat ', 'hat' look alike"):
        filed()
    written["classes"] = ["e\u0301te\u0301", "b"]
    made = filed()
    number = made.number
    assert made.plan().classes == ("b", "été")
    for spelt in ("1", "0001"):
        assert find_training(tmp_path / "trainings", spelt).number == number
    for other in ("2", "one", "", "-1"):
        with pytest.raises(ConfigError, match="no training"):
            find_training(tmp_path / "trainings", other)


def test_a_reply_on_its_way_is_asked_for_once_and_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flwr.app import ConfigRecord, RecordDict
    from flwr.proto.message_pb2 import Message as ProtoMessage
    from flwr.proto.message_pb2 import Metadata, ObjectTree
    from flwr.proto.runtime_pb2 import PullAppMessagesResponse
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

    from fedrec.flower import new_message, set_task_identity

    set_task_identity(run_id=1, node_id=1)
    replies = {}
    for name in ("slow", "quick"):
        content = RecordDict({"body": ConfigRecord({"text": name.encode()})})
        replies[name] = new_message(content, message_type="train", node_id=1, group_id="1", ttl=60)
    objects = {
        key: (name, value.deflate())
        for name, reply in replies.items()
        for key, value in get_all_nested_objects(reply).items()
    }
    ready = {"quick"}
    asked: list[set[str]] = []

    class Client:
        def PullMessages(self, request: Any) -> PullAppMessagesResponse:  # noqa: N802
            asked.append(set(request.message_ids))
            names = [name for name in ("slow", "quick") if name in request.message_ids]
            heads = [ProtoMessage(metadata=Metadata(reply_to_message_id=name, run_id=1)) for name in names]
            trees: list[ObjectTree] = [get_object_tree(replies[name]) for name in names]
            return PullAppMessagesResponse(messages_list=heads, message_object_trees=trees)

        def PullObject(self, request: Any) -> Any:  # noqa: N802
            name, content = objects[request.object_id]

            class Found:
                object_found = True
                object_available = name in ready
                object_content = content

            return Found

        def ConfirmMessageReceived(self, request: object) -> None: ...  # noqa: N802

    grid = PrivateGrid(cast("InProcessRuntime", Client()), PendingMessages())

    def texts(waiting: set[str]) -> list[str]:
        found = list(grid.pull_messages(waiting))
        return [cast(bytes, message.content.config_records["body"]["text"]).decode() for message in found]

    assert texts({"slow", "quick"}) == ["quick"]
    assert texts({"slow"}) == []
    # Another exchange asks for its own replies in between, as in a campaign whose merchants come one by one.
    assert texts({"other"}) == []
    ready.add("slow")
    assert texts({"slow"}) == ["slow"]
    assert asked == [{"slow", "quick"}, {"other"}]
    # One that nobody asks for any more is dropped after a while.
    ready.remove("slow")
    assert texts({"slow"}) == [] and set(grid._arriving) == {"slow"}
    later = time.monotonic() + 61
    monkeypatch.setattr("fedrec.flower.grid.time", SimpleNamespace(monotonic=lambda: later))
    assert texts({"other"}) == [] and not grid._arriving


def test_the_watch_of_the_roster_goes_on_whatever_fails(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it, a merchant that is revoked would stay admitted."""
    service, done = Service(home), []
    over = iter((False, False, False, True))
    monkeypatch.setattr(service, "_over", SimpleNamespace(wait=lambda seconds: next(over)))
    # At each look, however short the looks are.
    monkeypatch.setattr("fedrec.server.service._PUBLISH_SECONDS", 0.0)

    def fails(what: str) -> Callable[..., None]:
        def action(**options: object) -> None:
            done.append(what)
            if len(done) < 5:
                raise RuntimeError(f"{what} changed size")

        return action

    monkeypatch.setattr(service.observer, "publish", fails("status"))
    monkeypatch.setattr(service, "_admit", fails("roster"))
    service._watch_roster()
    assert done == ["status", "roster"] * 3
    for what in ("status", "roster"):
        assert f"it is tried again: RuntimeError('{what} changed size')" in caplog.text
    assert [line.message.count("(2 times in all)") for line in caplog.records].count(1) == 2


def test_a_status_that_takes_long_to_write_is_written_less_often(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, clock, written = Service(home), [0.0], []

    def wait(seconds: float) -> bool:
        clock[0] += seconds
        return clock[0] > 60

    def publish(**options: object) -> None:
        written.append(clock[0])
        clock[0] += 0.2

    monkeypatch.setattr(service, "_over", SimpleNamespace(wait=wait))
    monkeypatch.setattr("fedrec.server.service.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(service.observer, "publish", publish)
    monkeypatch.setattr(service, "_admit", lambda: None)
    service._watch_roster()
    # A twentieth of the time at most, and no later than the look after that.
    assert all(4 <= after - before < 6 for before, after in pairwise(written)) and len(written) > 9


@pytest.mark.parametrize("opened", [(False, False, False, False), (), (False, True, False, False)])
def test_a_training_without_any_opened_sum_has_failed_and_leaves_no_model(
    trainable: ServerHome, opened: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[Training] = []
    monkeypatch.setattr("fedrec.server.service.export_bundle", exported.append)
    training = planned(trainable)
    for number, is_open in enumerate(opened, start=1):
        training.add_round(finished(number, accuracy=0.9, opened=is_open))
    Checkpoint(training.folder / "server", training_id=training.plan().training_id).reserve(4)
    Service(trainable)._ended(training)
    status, reason = training.status()
    resumed = CliRunner().invoke(app, ["server", "resume", "1", "--home", str(trainable.folder)])
    assert resumed.exit_code != 0
    if any(opened):
        assert (status, reason, exported) == ("done", "", [training])
        return
    assert (status, exported) == ("failed", []) and "no sum of its 4 rounds was opened" in reason
    assert ("too few" in reason) == bool(opened) and "no round left" in str(resumed.exception)


def test_a_cancelled_training_stays_cancelled_whatever_the_server_was_about_to_write(
    trainable: ServerHome,
) -> None:
    training = planned(trainable)
    training.set_status("cancelled", "by the operator")
    for status in ("filed", "running", "done", "failed"):
        training.set_status(status)
    assert training.status() == ("cancelled", "by the operator")


def test_a_cancellation_just_before_the_server_writes_a_status_holds(
    trainable: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = planned(trainable)

    def cancel_first(path: Path, value: object) -> None:
        monkeypatch.undo()
        Training(training.folder).set_status("cancelled", "by the operator")
        write_json(path, value)

    monkeypatch.setattr("fedrec.server.trainings.write_json", cancel_first)
    training.set_status("running")
    assert training.status() == ("cancelled", "by the operator")


@pytest.mark.parametrize("content", ["", "{", "[]", '"filed"', "{}", '{"status": "gone", "reason": ""}'])
def test_a_damaged_status_is_named_with_what_to_do(trainable: ServerHome, content: str) -> None:
    training = planned(trainable)
    (training.folder / "state.json").write_text(content)
    with pytest.raises(ServiceError, match=r"0001.*from a backup"):
        training.status()


@pytest.mark.parametrize("name", ["own.json", "refusals.json"])
def test_another_damaged_file_of_a_training_is_named_too(trainable: ServerHome, name: str) -> None:
    training = planned(trainable)
    (training.folder / name).write_text("{")
    with pytest.raises(ServiceError, match=rf"{name} is no .*: its content is not JSON.*restore it"):
        (training.run_id if name == "own.json" else training.refusals)()


def test_a_filing_without_what_it_had_no_value_for_is_read(trainable: ServerHome) -> None:
    """As earlier versions wrote it: a server's trainings outlast its upgrade."""
    training = planned(trainable)
    plan = training.plan().training_id
    filed = {"training_id": plan, "eval_data": None, "initial_seed": 3}
    (training.folder / "own.json").write_text(json.dumps(filed))
    assert (training.initial_seed(), training.eval_data(), training.start_from()) == (3, None, None)
    assert training.run_id() == f"0001-{plan[:12]}"


@pytest.mark.parametrize("number", ["rounds", "clip", "delta"])
def test_a_plan_that_was_changed_by_hand_is_named(trainable: ServerHome, number: str) -> None:
    training = planned(trainable)
    plan = training.folder / "plan.json"
    filed = json.loads(plan.read_text())
    plan.write_text(json.dumps(filed, indent=1))
    assert training.plan().rounds == filed["rounds"]
    plan.write_text(json.dumps(filed | {number: filed[number] / 2 if number != "rounds" else 7}))
    with pytest.raises(ServiceError, match=r"plan.json was changed after it was filed.*from a backup"):
        training.plan()
