"""A witness from init to answers: its folder, its enrolment, its join file and its daemon."""

from __future__ import annotations

import json
import re
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedrec.cli import server as server_commands
from fedrec.cli import witness as witness_commands
from fedrec.cli.client_roster import accepted_by_statements
from fedrec.clients.identity_file import read_identity, successor
from fedrec.clients.identity_rotation import rotate_identity
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.store import MerchantStore
from fedrec.clients.witness.daemon import WitnessDaemon
from fedrec.clients.witness.home import WitnessHome
from fedrec.clients.witness.openings import Openings
from fedrec.clients.witness.policy import WitnessPolicy
from fedrec.clients.witness.policy_template import TEMPLATE
from fedrec.clients.witness.status import read_witness_status
from fedrec.errors import ConfigError, LedgerError
from fedrec.privacy.aggregation.committee import check_sealing_key
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.endorsements import sign_rotation
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.enrolment import Enrolment, JoinFile, Statement, read_file
from fedrec.protocol.messages import JoinReply, JoinRequest, TrainReply, TrainRequest
from fedrec.protocol.plan import Peer
from fedrec.protocol.tls import Certificates
from fedrec.server.server_home import ServerHome
from tests.support.cohort import Cohort
from tests.support.daemons import SERVER_KEY, eventually, public_pem, serving


def run(app: object, *arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))  # type: ignore[arg-type]
    assert done.exit_code == code or isinstance(done.exception, ConfigError) == (code == 2), done.output
    return done.output + (str(done.exception) if done.exception is not None else "")


def test_a_witness_is_enrolled_beside_the_merchants_and_approves_who_it_opens_for(tmp_path: Path) -> None:
    server = ServerHome.create(tmp_path / "server", address="127.0.0.1:9443", listen=None)
    for name in ("a", "b", "c"):
        MerchantHome.create(tmp_path / name, name=name, data=tmp_path, units=40)
        server.enroll(read_file(tmp_path / name / "enrolment.json", Enrolment))
    before = server.fingerprint()
    home = tmp_path / "witness"
    told = run(witness_commands.app, "init", "--name", "auditor", "--home", home)
    opened = WitnessHome.open(home)
    assert opened.identity().public.hex() in told
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for secret in ("identity.key", "node.key"):
        assert stat.S_IMODE((home / secret).stat().st_mode) == 0o600
    assert {path.name for path in home.iterdir()} == {
        "identity.key", "node.key", "policy.toml", "witness.toml", "enrolment.json", "openings.sqlite",
    }  # fmt: skip
    file = read_file(home / "enrolment.json", Enrolment)
    assert (file.statement.role, file.statement.unit, file.statement.size) == ("witness", None, None)
    shown = run(server_commands.app, "enroll", home / "enrolment.json", "--home", server.folder)
    assert "witnesses   auditor" in shown and "roster      a, b, c" in shown
    # It is no merchant: neither in the roster, nor in the sizes that noise and rates follow from.
    assert [peer.name for peer in server.roster()] == ["a", "b", "c"]
    assert [peer.name for peer in server.witnesses()] == ["auditor"]
    assert len(server.sizes("record")) == 3 and server.fingerprint() != before
    # Its join file, whose fingerprint a person compares.
    join = read_file(server.folder / "join.json", JoinFile)
    with pytest.raises(ConfigError, match="has joined no server yet: run 'fedrec witness join FILE'"):
        opened.joined()
    wrong = run(
        witness_commands.app,
        "join",
        server.folder / "join.json",
        "--home",
        home,
        "--fingerprint",
        "0" * 64,
        code=2,
    )
    assert "not that of the join file" in wrong and not opened.has_joined
    run(
        witness_commands.app,
        "join",
        server.folder / "join.json",
        "--home",
        home,
        "--fingerprint",
        join.fingerprint,
    )
    assert opened.policy().roster_fingerprint == server.fingerprint()
    assert opened.policy().server_key == server.identity().public.hex()
    # A merchant sees the witness in its join file, and its rules hold for the roster with it alone.
    merchant = MerchantHome.open(tmp_path / "a")
    merchant.approve(join)
    assert merchant.policy().roster_fingerprint == server.fingerprint()
    # One that the operator left out, or gave another key, doesn't join.
    server.revoke("auditor")
    with pytest.raises(ConfigError, match="doesn't list this witness, 'auditor'"):
        opened.approve(read_file(server.folder / "join.json", JoinFile))


def test_a_party_has_one_role_and_states_a_size_only_as_a_merchant(tmp_path: Path) -> None:
    server = ServerHome.create(tmp_path / "server", address="127.0.0.1:9443", listen=None)
    identity = SigningIdentity.generate()
    made = WitnessHome.create(tmp_path / "w", name="auditor")
    good = read_file(made.folder / "enrolment.json", Enrolment)
    server.enroll(good)
    values = good.statement.model_dump()
    for changes in ({"size": 5}, {"unit": "record"}, {"role": "merchant"}, {"role": "merchant", "size": 5}):
        with pytest.raises(ValueError, match="a merchant states its unit and its size"):
            Statement.model_validate(values | changes)
    with pytest.raises(ValueError, match="role"):
        Statement.model_validate(values | {"role": "operator"})
    # A statement whose role was changed on its way is not signed.
    merchant = Statement.model_validate(values | {"role": "merchant", "unit": "record", "size": 5})
    with pytest.raises(ConfigError, match="not signed with the key"):
        server.enroll(good.model_copy(update={"statement": merchant}))
    signature = made.identity().sign(merchant.canonical_bytes(), context=b"fedrec/enrolment/1").hex()
    with pytest.raises(ConfigError, match="is enrolled as a witness: revoke it first"):
        server.enroll(Enrolment(statement=merchant, signature=signature))
    assert identity.public.hex() not in {peer.signing_key for peer in server.witnesses()}
    for name in ("", "a/b", "x" * 65):
        with pytest.raises(ConfigError, match="--name"):
            WitnessHome.create(tmp_path / "other", name=name)
    with pytest.raises(ConfigError, match="not empty"):
        WitnessHome.create(tmp_path / "w", name="auditor")
    with pytest.raises(ConfigError, match="holds no witness"):
        WitnessHome.open(tmp_path)


def test_the_policy_file_that_init_writes_has_every_rule_with_its_default() -> None:
    assert WitnessPolicy.parse(TEMPLATE) == WitnessPolicy()
    named = set(re.findall(r"^#? ?([a-z_]+) = ", TEMPLATE, re.MULTILINE))
    assert named == set(WitnessPolicy.model_fields)
    for broken, said in (
        ("no_such_rule = 1", "there is no rule 'no_such_rule'"),
        ("largest_openings_per_day = 0", "'largest_openings_per_day'"),
        ('merchants = ["a/b"]', "'merchants"),
        ("modes = []", "'modes'"),
        ("lifetime_epsilon = 8.0", "there is no rule 'lifetime_epsilon'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            WitnessPolicy.parse(broken)


def test_a_witness_daemon_answers_over_the_network_and_follows_its_policy(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    roster = tuple(
        Peer(name=f"m{number}", signing_key=SigningIdentity.generate().public.hex()) for number in range(3)
    )
    home = WitnessHome.create(tmp_path / "witness", name="auditor")
    peer = Peer(name="auditor", signing_key=home.identity().public.hex())
    with serving(certificates) as server:
        home.approve(
            JoinFile(
                address=server.address,
                authority=certificates.authority.read_text("ascii"),
                server_key=SERVER_KEY,
                roster=roster,
                witnesses=(peer,),
            )
        )
        node = server.host.admit(public_pem(home.node_key()))
        plan = Cohort(tmp_path / "cohort", size=0).plan(
            server_key=SERVER_KEY,
            roster=roster,
            witnesses=(peer,),
            committee=seat_order(roster, (peer,)),
            threshold=4,
            corrupt_members=2,
            corrupt_witnesses=1,
            seat_risk=0.0,
            records_total=120,
        )

        def edit(rules: str) -> None:
            """Replace the policy in one piece: a daemon that reads half of it has other rules."""
            (home.folder / "policy.new").write_text(rules)
            (home.folder / "policy.new").replace(home.folder / "policy.toml")

        def join() -> JoinReply:
            return server.ask(node, "query.join", JoinRequest(plan=plan), JoinReply, recipient="auditor")

        daemons: list[WitnessDaemon] = []

        def live() -> None:
            # A store is for the thread that opened it.
            daemons.append(WitnessDaemon(home))
            daemons[0].run()

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        try:
            eventually(lambda: server.is_up(node))
            reply = join()
            assert reply.refused is None and reply.head is None and reply.sealing_key is not None
            assert len(check_sealing_key(reply.sealing_key, plan=plan)) == 1216
            request = TrainRequest(
                training_id=plan.training_id, round_number=1, model_hash="0" * 64, sealing_keys=()
            )
            trained = server.ask(node, "train", request, TrainReply, recipient="auditor")
            assert "no photos" in str(trained.refused)
            edit('merchants = ["m0", "m1"]\n')
            assert "policy 'merchants': merchant 'm2'" in str(join().refused)
            found = json.loads(run(witness_commands.app, "status", "--home", home.folder, "--json"))
            assert found["running"] and found["connected"] and found["training"]["opened"] == 0
            assert found["training"]["training_id"] == plan.training_id
            assert [refused["standing"] for refused in found["refusals"]] == [True, True]
            with pytest.raises(LedgerError, match="in use by another process"):
                rotate_identity(home)
            edit(TEMPLATE)
            run(witness_commands.app, "pause", "--home", home.folder)
            assert "has paused" in str(join().refused)
            shown = run(witness_commands.app, "status", "--home", home.folder)
            assert "witness resume" in shown and "1 refusal is no longer true" in shown
            run(witness_commands.app, "resume", "--home", home.folder)
            assert join().refused is None
            edit("= =\n")
            assert "the witness's policy can't be used" in str(join().refused)
            edit(TEMPLATE)
            assert join().refused is None
            assert b'"ok"' in daemons[0].observer.routes()["/healthz"].answer().body
        finally:
            daemons[0].stop()
            thread.join(30)
        assert not thread.is_alive()
    with pytest.raises(ConfigError, match=r"is open here .* 'fedrec witness forget'"):
        rotate_identity(home)
    run(witness_commands.app, "forget", plan.training_id[:8], "--home", home.folder)
    rotate_identity(home)
    assert "none is open" in run(witness_commands.app, "status", "--home", home.folder)


def test_a_witness_exchanges_its_keys_and_keeps_its_record_of_openings(tmp_path: Path) -> None:
    server = ServerHome.create(tmp_path / "server", address="127.0.0.1:9443", listen=None)
    MerchantHome.create(tmp_path / "a", name="a", data=tmp_path, units=40)
    server.enroll(read_file(tmp_path / "a" / "enrolment.json", Enrolment))
    home = WitnessHome.create(tmp_path / "w", name="auditor")
    first, old = read_file(home.folder / "enrolment.json", Enrolment), home.identity()
    server.enroll(first)
    merchant = MerchantHome.open(tmp_path / "a")
    merchant.approve(read_file(server.folder / "join.json", JoinFile))
    record = Openings(home.openings)
    record.mark("ab" * 32, 1, request_hash="cd" * 32, now=datetime.now(UTC))
    record.close()
    for _ in range(2):
        told = run(witness_commands.app, "rotate", "--home", home.folder)
        assert home.identity().public.hex() in told and "witness_keys" in told
    assert home.identity_file.stat().st_mode & 0o777 == 0o600
    assert old.private_bytes() not in home.identity_file.read_bytes()
    assert "opened      1 sum of" in run(witness_commands.app, "status", "--home", home.folder)
    renewed = read_file(home.folder / "enrolment.json", Enrolment)
    assert len(renewed.rotations) == 2
    # Both keys signed, the operator was told, and no merchant takes the new key without a person.
    with pytest.raises(ConfigError, match="which didn't sign an exchange"):
        server.enroll(renewed.model_copy(update={"rotations": renewed.rotations[1:]}), new_key=True)
    with pytest.raises(ConfigError, match="confirm with --new-key"):
        server.enroll(renewed)
    server.enroll(renewed, new_key=True)
    changed = read_file(server.folder / "join.json", JoinFile)
    assert [peer.signing_key for peer in changed.witnesses] == [home.identity().public.hex()]
    assert not accepted_by_statements(merchant, changed)
    home.approve(changed)
    with pytest.raises(ConfigError, match="exchanged for another"):
        server.enroll(first, new_key=True)


def test_a_witness_s_refusal_fades_once_it_opens_a_sum_be_it_within_the_second(
    tmp_path: Path,
) -> None:
    home = WitnessHome.create(tmp_path / "w", name="auditor")
    store = MerchantStore(home.store)

    def standing(*, opens: int) -> bool:
        store.note_refusal(kind="query.unmask", reason="an odd request")
        for number in range(opens):
            round_number = len(store.replies()) + 1
            store.put_answer("ab" * 32, round_number, request_hash=f"{number:064x}", body=b"x")
        return read_witness_status(home).refusals[-1].standing

    assert [standing(opens=count) for count in (0, 1, 0, 0, 2)] == [True, False, True, True, False]
    store.close()


def test_a_crash_in_an_exchange_leaves_a_witness_one_key_that_fits_its_record(tmp_path: Path) -> None:
    home = WitnessHome.create(tmp_path / "w", name="auditor")
    old = home.identity()
    home.next_identity_file.write_bytes(successor(old))
    assert home.identity().public == old.public
    new = read_identity(home.next_identity_file)
    with home.record_exchange(old) as record:
        record(sign_rotation("auditor", old=old, new=new), new)
    assert home.identity().public == new.public and not home.next_identity_file.exists()
    home.keys.write_text("{")
    with pytest.raises(ConfigError, match=r"keys\.json is no record of this version"):
        home.rotate()
