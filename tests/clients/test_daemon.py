"""A merchant's daemon that runs on while its policy, its join file or its key change."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedrec.cli import client
from fedrec.clients.activity import read_activity
from fedrec.clients.merchant import Merchant
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.store_view import read_store
from fedrec.errors import ConfigError, RefusedError
from fedrec.privacy.accounting.ledger_reader import in_use
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.enrolment import Enrolment, read_file
from fedrec.protocol.messages import JoinReply, JoinRequest, TrainReply, TrainRequest
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.tls import Certificates
from fedrec.server.server_home import ServerHome
from fedrec.vision.synthetic import generate, write
from tests.support.cohort import Cohort
from tests.support.daemons import (
    NAME,
    SERVER_KEY,
    Server,
    eventually,
    join_file,
    make_certificates,
    merchant_home,
    public_pem,
    running,
    serving,
)

OTHERS = tuple(
    Peer(name=f"merchant-0{number}", signing_key=SigningIdentity.generate().public.hex()) for number in (1, 2)
)


@pytest.fixture(scope="module")
def server(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(tmp_path_factory.mktemp("flower")))
        with serving(certificates) as server:
            yield server


@pytest.fixture
def home(server: Server, certificates: Certificates, tmp_path: Path) -> MerchantHome:
    home = merchant_home(tmp_path / "home", address=server.address, authority=certificates.authority)
    home.approve(join_file(home, *OTHERS, address=server.address, authority=certificates.authority))
    return home


def plan(home: MerchantHome, tmp_path: Path) -> TrainingPlan:
    """A plan for the roster of the join file that the home has."""
    cohort = Cohort(tmp_path / "cohort", size=0)
    roster = home.joined().roster
    return cohort.plan(
        server_key=SERVER_KEY, roster=roster, committee=seat_order(roster), threshold=3, records_total=120
    )


def edit(home: MerchantHome, rules: str) -> None:
    """Replace the policy in one piece: a daemon that reads half of it refuses what comes next."""
    fresh = home.folder / "policy.new"
    fresh.write_text(f"lifetime_epsilon = 10.0\nlifetime_delta = 1e-5\n{rules}\n")
    fresh.replace(home.folder / "policy.toml")


def test_policy_and_join_file_are_reloaded_while_the_daemon_runs(
    server: Server, home: MerchantHome, certificates: Certificates, tmp_path: Path
) -> None:
    edit(home, 'models = ["other"]')
    node = server.host.admit(public_pem(home.node_key()))
    proposed = JoinRequest(plan=plan(home, tmp_path))

    def refusal() -> str:
        return str(server.ask(node, "query.join", proposed, JoinReply).refused or "")

    with running(home) as thread:
        eventually(lambda: server.is_up(node))
        assert "'models'" in refusal()
        edit(home, "largest_sample_rate = 0.1")
        assert "'largest_sample_rate'" in refusal()
        # What can't be read is no reason to fall back to what was there before, nor to end.
        for broken in ("largest_sample_rate = 2", "no_such_rule = 1", "= ="):
            edit(home, broken)
            assert refusal() == "the merchant's policy can't be used; its own log says why"
        (home.folder / "policy.toml").unlink()
        assert "can't be used" in refusal()
        edit(home, "least_contributors = 99")
        assert "'least_contributors'" in refusal()
        # A roster that the merchant has confirmed since.
        edit(home, "")
        assert "roster" not in refusal()
        file = join_file(home, *OTHERS[:1], address=server.address, authority=certificates.authority)
        home.approve(file)
        assert "'roster_fingerprint'" in refusal()
        assert thread.is_alive() and server.is_up(node)
        assert in_use(home.ledger)
    seen = read_store(home.store).refusals
    assert "'roster_fingerprint'" in seen[-1].reason and seen[-1].plan == proposed.plan.canonical_bytes()
    assert not in_use(home.ledger)


def test_the_merchants_command_is_told_of_a_refused_plan(
    server: Server, home: MerchantHome, tmp_path: Path
) -> None:
    out = tmp_path / "told.json"
    code = "import sys; open(sys.argv[1], 'w').write(sys.argv[2] + sys.stdin.read())"
    command = json.dumps([sys.executable, "-c", code, str(out)])
    edit(home, f'models = ["other"]\non_event = {command}')
    node = server.host.admit(public_pem(home.node_key()))
    proposed = JoinRequest(plan=plan(home, tmp_path))
    with running(home):
        eventually(lambda: server.is_up(node))
        server.ask(node, "query.join", proposed, JoinReply)
        eventually(lambda: out.exists() and out.read_text().endswith("}"))
    told = json.loads(out.read_text().removeprefix("decision-needed"))
    assert told["training_id"] == proposed.plan.training_id and "'models'" in told["reason"]
    activity = read_activity(home.folder)
    assert activity is not None and activity.pid == os.getpid()


def test_a_message_under_way_is_answered_before_the_daemon_leaves(
    server: Server, home: MerchantHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = server.host.admit(public_pem(home.node_key()))
    begun, told = threading.Event(), threading.Event()

    def slow(self: Merchant, request: JoinRequest) -> None:
        begun.set()
        assert told.wait(30)
        raise RefusedError("after the call to stop")

    monkeypatch.setattr(Merchant, "join", slow)
    proposed = JoinRequest(plan=plan(home, tmp_path))
    with running(home) as it:
        eventually(lambda: server.is_up(node))

        def stop() -> None:
            assert begun.wait(30)
            it.daemon.stop()
            told.set()

        threading.Thread(target=stop).start()
        # The server looks for the reply when the merchant is about to leave.
        answer = server.ask(node, "query.join", proposed, JoinReply, pause=1.5)
        assert answer.refused is not None and answer.refused.detail == "after the call to stop"
        it.thread.join(30)
        assert not it.is_alive() and not in_use(home.ledger)
    shown = home.connection()
    assert shown is not None and not shown.connected and "has stopped" in shown.reason


def test_a_suspended_merchant_answers_no_new_round(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    proposed = cohort.plan()
    replies = [merchant.join(JoinRequest(plan=proposed))[0] for merchant in cohort.merchants.values()]
    keys = tuple(reply.sealing_key for reply in replies if reply.sealing_key is not None)
    receipt = cohort.first_receipt(replies[0], proposed)
    merchant = cohort.merchants["m0"]
    model = {"model": bytes(4 * proposed.dimension)}

    def request(number: int) -> TrainRequest:
        return TrainRequest(
            training_id=proposed.training_id,
            round_number=number,
            model_hash=proposed.initial_model_hash,
            sealing_keys=keys,
            receipt=receipt,
        )

    first = merchant.train(request(1), model)
    merchant.suspend("not now")
    with pytest.raises(RefusedError, match="not now"):
        merchant.train(request(2), model)
    assert len(merchant.ledger.entries()) == 2
    # What was charged and stored is given again.
    assert merchant.train(request(1), model) == first
    # A cap that was lowered meanwhile holds for the next round.
    merchant.use_policy(cohort.policy.model_copy(update={"lifetime_epsilon": 1e-3, "lifetime_delta": 1e-4}))
    with pytest.raises(RefusedError, match="privacy budget"):
        merchant.train(request(2), model)
    merchant.use_policy(cohort.policy)
    assert merchant.train(request(2), model)[0].signed is not None


def test_a_join_file_of_another_server_is_followed(
    server: Server, home: MerchantHome, certificates: Certificates
) -> None:
    home.approve(join_file(home, *OTHERS, address="127.0.0.1:1", authority=certificates.authority))
    node = server.host.admit(public_pem(home.node_key()))
    with running(home):
        eventually(lambda: home.connection() is not None)
        shown = home.connection()
        assert shown is not None and not shown.connected and "can't be reached" in shown.reason
        home.approve(join_file(home, *OTHERS, address=server.address, authority=certificates.authority))
        eventually(lambda: server.is_up(node))
        eventually(lambda: (now := home.connection()) is not None and now.connected)
        # And away from it, although it still answers.
        home.approve(join_file(home, *OTHERS, address="127.0.0.1:1", authority=certificates.authority))
        eventually(lambda: (now := home.connection()) is not None and not now.connected)


def test_a_server_of_another_authority_is_named_in_the_log_and_told_nothing(
    server: Server,
    home: MerchantHome,
    certificates: Certificates,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody in between: this merchant's server, which its key would open, with another's certificate."""
    other = make_certificates(tmp_path).authority
    home.approve(join_file(home, *OTHERS, address=server.address, authority=other))
    node = server.host.admit(public_pem(home.node_key()))
    with running(home) as daemon:
        eventually(lambda: any("not from the authority in the join file" in said for said in caplog.messages))
        assert daemon.is_alive() and not server.is_up(node)


def rotate(home: MerchantHome, *options: str) -> str:
    shown = CliRunner().invoke(client.app, ["rotate", "--node-key", "--home", str(home.folder), *options])
    assert shown.exit_code == 0, shown.exception
    return shown.output


@pytest.fixture
def photos(home: MerchantHome, tmp_path: Path) -> Path:
    """Photos for a home, whose settings then name them."""
    write(generate(merchants=1, per_merchant=30, size=16, seed=3, validation=0, test=0), tmp_path / "photos")
    (folder,) = (tmp_path / "photos" / "train").iterdir()
    settings = (
        (home.folder / "client.toml")
        .read_text("utf-8")
        .replace(str((home.folder / "no-photos").resolve()), str(folder))
    )
    (home.folder / "client.toml").write_text(settings)
    return folder


def test_a_new_node_key_takes_over_once_it_is_enrolled(
    server: Server, home: MerchantHome, photos: Path
) -> None:
    old, before = home.node_key(), read_file(home.folder / "enrolment.json", Enrolment)
    node = server.host.admit(public_pem(old))
    with running(home):
        eventually(lambda: server.is_up(node))
        assert "Send" in rotate(home)
        new = home.next_node_key()
        assert new is not None and home.next_node_key_file.stat().st_mode & 0o777 == 0o600
        # Until the operator has enrolled it, the old one serves.
        assert public_pem(home.node_key()) == public_pem(old) and server.is_up(node)
        # What the operator's server does with the enrolment file: admit the new key, lock the old one out.
        statement = read_file(home.folder / "enrolment.json", Enrolment).statement
        assert statement.node_key.encode() == public_pem(new) and statement.name == NAME
        assert statement.signing_key == before.statement.signing_key
        # The one count that was charged holds, whatever the folder has now.
        assert before.statement.size == statement.size
        other = server.host.admit(statement.node_key.encode())
        server.host.revoke(node)
        eventually(lambda: server.is_up(other))
        eventually(lambda: not home.next_node_key_file.exists())
    assert public_pem(home.node_key()) == public_pem(new)
    assert home.node_key_file.stat().st_mode & 0o777 == 0o600


def test_a_rotated_enrolment_takes_the_old_one_s_place(
    home: MerchantHome, photos: Path, tmp_path: Path
) -> None:
    operator = ServerHome.create(tmp_path / "server", address="127.0.0.1:1", listen=None)
    oldest = read_file(home.folder / "enrolment.json", Enrolment)
    operator.enroll(oldest)
    before = operator.roster()
    rotate(home)
    operator.enroll(read_file(home.folder / "enrolment.json", Enrolment))
    with pytest.raises(ConfigError, match="revoked or replaced before"):
        operator.enroll(oldest)
    assert operator.roster() == before and len(operator.enrolled()) == 1
    new = home.next_node_key()
    assert new is not None and operator.enrolled()[0].node_key.encode() == public_pem(new)
    # A new count alone: the key that waits stays the one that is asked for.
    recounted = CliRunner().invoke(client.app, ["recount", "--home", str(home.folder)])
    statement = read_file(home.folder / "enrolment.json", Enrolment).statement
    assert recounted.exit_code == 0 and "30 distinct photos" in recounted.output
    assert statement.node_key.encode() == public_pem(new) and str(statement.size) in recounted.output
    assert home.declared_count().number == 2 and home.declared_count().size == statement.size
    assert json.loads((home.folder / "enrolment.json").read_text("utf-8"))["signature"]


@pytest.mark.parametrize("file", ["node.key", "identity.key"])
@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_a_broken_key_is_one_line(home: MerchantHome, file: str, content: bytes | None) -> None:
    if content is None:
        (home.folder / file).unlink()
    else:
        (home.folder / file).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{file} can't be used") as told:
        home.node_key() if file == "node.key" else home.identity()
    assert len(str(told.value).splitlines()) == 1


def test_an_upload_leaves_at_its_time_and_so_does_a_refusal(
    server: Server, home: MerchantHome, tmp_path: Path
) -> None:
    """However long the work took: its time would tell how much there was."""
    edit(home, "reply_seconds = 1.5")
    node = server.host.admit(public_pem(home.node_key()))
    request = TrainRequest(training_id="0" * 64, round_number=1, model_hash="0" * 64, sealing_keys=())
    with running(home):
        eventually(lambda: server.is_up(node))
        server.ask(node, "query.join", JoinRequest(plan=plan(home, tmp_path)), JoinReply)
        started = time.monotonic()
        assert server.ask(node, "train", request, TrainReply).refused
        assert time.monotonic() - started >= 1.5
        edit(home, "")
        quickest = math.inf
        for _ in range(3):
            started = time.monotonic()
            assert server.ask(node, "train", request, TrainReply).refused
            quickest = min(quickest, time.monotonic() - started)
        assert quickest < 1.5
