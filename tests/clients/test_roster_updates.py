"""A new merchant reaches the others' rosters by vouches: files, commands, and the server's next plan."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedrec.cli import client, server
from fedrec.clients.approvals_file import read_approvals
from fedrec.clients.identity_rotation import rotate_identity
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.roster_updates import RosterFollower
from fedrec.clients.vouching import check_enrolment, vouch_for
from fedrec.errors import ConfigError, RefusedError, TrainingError
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.endorsements import sign_vouch
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.enrolment import ENROLMENT_CONTEXT, Enrolment, JoinFile, read_file
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.plan import Peer
from fedrec.protocol.roster_statements import SignedVouch, Vouch
from fedrec.server.server_home import ServerHome
from fedrec.server.trainings import Training
from tests.support.cohort import Cohort, InProcessGrid
from tests.support.sample_messages import PLAN


@dataclass
class Scene:
    """Four shops on the roster, approved by hand by each, and a fifth that has just made its keys."""

    operator: ServerHome
    shops: dict[str, MerchantHome]

    def run(self, app: Any, *arguments: object, answers: str = "") -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=answers)

    def enroll(self, name: str, **options: bool) -> None:
        self.operator.enroll(read_file(self.shops[name].folder / "enrolment.json", Enrolment), **options)

    def vouch(self, voucher: str, whom: str = "new", *options: object) -> SignedVouch:
        file = self.shops[whom].folder / "enrolment.json"
        shown = self.run(
            client.app, "vouch", file, "--home", self.shops[voucher].folder,
            "--fingerprint", read_file(file, Enrolment).fingerprint, *options,
        )  # fmt: skip
        assert shown.exit_code == 0, shown.exception
        (written,) = self.shops[voucher].folder.glob("vouch-*.json")
        return read_file(written, SignedVouch)

    def join(self, name: str, *options: str, answers: str = "") -> Result:
        file, folder = self.operator.folder / "join.json", self.shops[name].folder
        return self.run(client.app, "join", file, "--home", folder, *options, answers=answers)

    def allow(self, name: str, rules: str) -> None:
        file = self.shops[name].folder / "policy.toml"
        file.write_text(f"{file.read_text()}\n{rules}\n")

    def request(self, **changes: object) -> JoinRequest:
        roster = self.operator.roster()
        plan = PLAN.model_copy(update={"roster": roster, "committee": seat_order(roster)[:3], **changes})
        return JoinRequest(plan=plan, update=self.operator.update())

    def follow(self, name: str, request: JoinRequest) -> str | None:
        home = self.shops[name]
        return RosterFollower(home).follow(request, policy=home.policy()).roster_fingerprint


def _scene(folder: Path) -> Scene:
    names = ("a", "b", "c", "d", "new")
    return Scene(ServerHome(folder / "server"), {name: MerchantHome(folder / name) for name in names})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    made = _scene(folder)
    ServerHome.create(folder / "server", address="127.0.0.1:1", listen=None)
    for name in made.shops:
        MerchantHome.create(folder / name, name=name, data=folder, units=10)
    for name in "abcd":
        made.enroll(name)
    for name in "abcd":
        made.shops[name].approve(read_file(folder / "server" / "join.json", JoinFile))
    return folder


@pytest.fixture
def scene(template: Path, tmp_path: Path) -> Scene:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return _scene(tmp_path)


def test_the_fifth_enrolment_costs_the_fourth_shop_nothing(scene: Scene) -> None:
    scene.enroll("new")
    scene.allow("d", "least_vouchers = 2")
    for voucher in "ab":
        scene.vouch(voucher)
        (written,) = scene.shops[voucher].folder.glob("vouch-*.json")
        shown = scene.run(server.app, "vouch", written, "--home", scene.operator.folder)
        assert shown.exit_code == 0 and "new is vouched for by" in shown.output
    # Without the rule a person is asked, and told why.
    asked = scene.join("c")
    assert isinstance(asked.exception, ConfigError) and "by hand     new is new" in asked.output
    joined = scene.join("d")
    assert joined.exit_code == 0 and "accepted    new is new; a, b vouch for it" in joined.output
    assert "new" in {peer.name for peer in scene.shops["d"].joined().roster}
    assert [entry.peer.name for entry in approvals(scene, "d").vouched] == ["new"]
    assert "nothing changed" in scene.join("d").output
    # A person may look at it all the same; from then on the new one is approved by hand.
    assert scene.join("d", "--by-hand", answers="y\n").exit_code == 0
    assert approvals(scene, "d").vouched == ()


def approvals(scene: Scene, name: str) -> Any:
    home = scene.shops[name]
    return read_approvals(home.folder, home.joined())


def test_the_next_plan_brings_the_roster_and_too_few_vouches_are_refused(scene: Scene) -> None:
    scene.enroll("new")
    scene.allow("d", "least_vouchers = 2")
    before = scene.shops["d"].policy().roster_fingerprint
    scene.operator.vouch(scene.vouch("a"))
    with pytest.raises(RefusedError, match="1 of 2 merchants approved by hand vouch for it"):
        scene.follow("d", scene.request())
    scene.operator.vouch(scene.vouch("b"))
    # A plan that assumes more colluders than the rule was written for needs more vouches.
    with pytest.raises(RefusedError, match="2 of 3"):
        scene.follow("d", scene.request(colluders=2))
    request = scene.request()
    with pytest.raises(RefusedError, match="not the one that came with it"):
        scene.follow("d", request.model_copy(update={"plan": PLAN}))
    assert scene.shops["d"].policy().roster_fingerprint == before
    assert scene.follow("d", request) == scene.shops["d"].policy().roster_fingerprint != before
    # It was accepted on the word of two.
    with pytest.raises(RefusedError, match="word of 2 merchants, and now 3 are needed"):
        scene.follow("d", scene.request(colluders=2))
    rules = scene.shops["d"].folder / "policy.toml"
    rules.write_text(rules.read_text().replace("\nleast_vouchers = 2\n", ""))
    with pytest.raises(RefusedError, match="now no vouches count"):
        scene.follow("d", request)
    with pytest.raises(RefusedError, match="new is new"):
        scene.follow("c", request)


def test_a_committee_that_is_safe_by_its_draw_needs_a_roster_approved_by_hand(scene: Scene) -> None:
    """Who can change the roster without a meeting could try rosters until the draw suits it."""
    risky = {"seat_risk": 1e-9}
    assert scene.follow("d", scene.request(**risky))
    scene.operator.revoke("c")
    with pytest.raises(RefusedError, match="approve that by hand"):
        scene.follow("d", scene.request(**risky))
    assert scene.follow("d", scene.request())
    assert scene.join("d", "--by-hand", answers="y\n").exit_code == 0
    assert scene.follow("d", scene.request(**risky))


def test_nothing_but_a_person_changes_a_pinned_roster_or_the_witnesses(scene: Scene) -> None:
    scene.enroll("new")
    for voucher in "ab":
        scene.operator.vouch(scene.vouch(voucher))
    scene.allow("d", "least_vouchers = 2")
    witness = Peer(name="w", signing_key="12" * 32)
    request = scene.request(witnesses=(witness,))
    assert request.update is not None
    with_witness = request.update.model_copy(update={"witnesses": (witness,)})
    with pytest.raises(RefusedError, match="the witnesses changed"):
        scene.follow("d", request.model_copy(update={"update": with_witness}))
    scene.allow("d", f'roster_fingerprint = "{scene.shops["d"].policy().roster_fingerprint}"')
    with pytest.raises(RefusedError, match=r"policy\.toml names another roster"):
        scene.follow("d", scene.request())


def test_vouches_go_with_a_revoked_merchant_and_do_not_bring_it_back(scene: Scene) -> None:
    scene.enroll("new")
    for voucher in "ab":
        scene.operator.vouch(scene.vouch(voucher))
    old = scene.operator.update()
    scene.allow("d", "least_vouchers = 2")
    assert old is not None and scene.join("d").exit_code == 0
    scene.operator.revoke("new")
    assert read_file(scene.operator.folder / "join.json", JoinFile).vouches == ()
    assert "new left the roster" in scene.join("d").output
    scene.shops["new"].rotate()
    scene.enroll("new")
    # A server that kept the old statements, and an honest one with new ones.
    plan = scene.request().plan
    with pytest.raises(RefusedError, match="was on the roster before"):
        scene.follow("d", JoinRequest(plan=plan, update=old))
    for voucher in "ab":
        scene.operator.vouch(scene.vouch(voucher))
    with pytest.raises(RefusedError, match="was on the roster before"):
        scene.follow("d", scene.request())
    assert scene.join("d", answers="y\n").exit_code == 0


def test_the_operator_takes_no_vouch_that_cannot_count(scene: Scene) -> None:
    signed = scene.vouch("a")
    with pytest.raises(ConfigError, match="enrol its enrolment file first"):
        scene.operator.vouch(signed)
    scene.enroll("new")
    key = scene.shops["a"].identity()
    for changes, reason in (
        ({"federation": "ab" * 32}, "another federation"),
        ({"last_day": "2020-01-01"}, "ended on 2020-01-01"),
        ({"voucher": "b"}, "is not that of 'b'"),
        ({"voucher": "nobody"}, "is not that of 'nobody'"),
        ({"node_key_hash": "ab" * 32}, "another enrolment file"),
        ({"peer": Peer(name="new", signing_key="ab" * 32)}, "another enrolment file"),
    ):
        with pytest.raises(ConfigError, match=reason):
            scene.operator.vouch(sign_vouch(signed.statement.model_copy(update=changes), voucher=key))
    with pytest.raises(ConfigError, match="changed after it was signed"):
        scene.operator.vouch(signed.model_copy(update={"signature": "0" * 128}))
    scene.operator.vouch(signed)
    scene.operator.vouch(scene.vouch("a", "new", "--days", 60))
    update = scene.operator.update()
    assert update is not None and len(update.vouches) == 1


def test_the_operator_is_told_which_trainings_have_another_roster(scene: Scene) -> None:
    folder = scene.operator.trainings / "1"
    folder.mkdir()
    (folder / "plan.json").write_bytes(scene.request().plan.canonical_bytes())
    Training(folder).set_status("filed")
    revoke = ("revoke", "--home", scene.operator.folder)
    shown = scene.run(server.app, *revoke, "d")
    assert shown.exit_code == 0 and "another roster: training 1." in shown.output
    Training(folder).set_status("cancelled")
    assert "another roster" not in scene.run(server.app, *revoke, "c").output


def test_nobody_vouches_for_itself_or_without_the_fingerprint(scene: Scene) -> None:
    folder, new = scene.shops["a"].folder, scene.shops["new"].folder / "enrolment.json"
    for file, options, reason in (
        (folder / "enrolment.json", [], "nobody vouches for itself"),
        (new, ["--fingerprint", "ab" * 32], "don't vouch for it"),
        (new, [], "nothing was signed"),
        (folder / "join.json", [], "is a join file; this wants an enrolment file"),
    ):
        shown = scene.run(client.app, "vouch", file, "--home", folder, *options)
        assert isinstance(shown.exception, ConfigError) and reason in str(shown.exception)
        assert "\n" not in str(shown.exception)
    other = MerchantHome.create(folder.parent / "other", name="b", data=folder, units=10)
    shown = scene.run(client.app, "vouch", other.folder / "enrolment.json", "--home", folder)
    assert "that name with another key" in str(shown.exception)
    assert not list(folder.glob("vouch-*.json"))


def test_no_file_is_vouched_for_that_is_forged_a_witness_s_or_has_the_own_name_or_key(scene: Scene) -> None:
    home, stranger = scene.shops["a"], SigningIdentity.generate()
    own, right = home.identity(), read_file(scene.shops["new"].folder / "enrolment.json", Enrolment)

    def checked(key: SigningIdentity, **changes: object) -> None:
        stated = right.statement.model_copy(update={"signing_key": key.public.hex(), **changes})
        signature = key.sign(stated.canonical_bytes(), context=ENROLMENT_CONTEXT).hex()
        check_enrolment(home, Enrolment(statement=stated, signature=signature))

    checked(stranger)
    for changes, reason in (
        ({"role": "witness", "unit": None, "size": None}, "merchants vouch for merchants alone"),
        ({"name": "a"}, "own name or key"),
        ({"name": "b"}, "that name with another key"),
    ):
        with pytest.raises(ConfigError, match=reason):
            checked(stranger, **changes)
    with pytest.raises(ConfigError, match="own name or key"):
        checked(own)
    forged = right.model_copy(
        update={"statement": right.statement.model_copy(update={"name": "a good shop"})}
    )
    with pytest.raises(ConfigError, match="not signed with the key that it names"):
        vouch_for(home, forged, days=30)
    assert not list(home.folder.glob("vouch-*.json"))


def test_an_exchanged_key_reaches_the_others_and_voids_its_vouches(scene: Scene) -> None:
    scene.enroll("new")
    scene.allow("d", "least_vouchers = 2")
    for voucher in "ab":
        scene.operator.vouch(scene.vouch(voucher))
    rotate_identity(scene.shops["a"])
    scene.shops["a"].rotate()
    scene.enroll("a", new_key=True)
    with pytest.raises(RefusedError, match="1 of 2"):
        scene.follow("d", scene.request())
    scene.operator.vouch(scene.vouch("a"))
    assert scene.follow("d", scene.request()) == scene.shops["d"].policy().roster_fingerprint
    asked = scene.join("c").output
    assert "also        a exchanged its key" in asked and "by hand     new is new" in asked
    # The merchant itself knows its new key, and approves by hand whom it vouches for.
    assert scene.join("a").exit_code == 0


def test_a_file_of_approvals_that_is_damaged_is_no_approval(scene: Scene) -> None:
    path = scene.shops["d"].folder / "approvals.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text('{"peers": []}')
    with pytest.raises(RefusedError, match="can't be used"):
        scene.follow("d", scene.request())
    assert scene.join("d", answers="y\n").exit_code == 0
    assert len(approvals(scene, "d").peers) == 4
    # A folder of an earlier version has no such file: all was approved by hand then.
    path.unlink()
    assert len(approvals(scene, "d").peers) == 4 and approvals(scene, "d").vouched == ()
    assert scene.follow("d", scene.request()) == scene.shops["d"].policy().roster_fingerprint


def test_a_training_brings_a_new_merchant_to_those_that_are_online(tmp_path: Path) -> None:
    """Three merchants know each other; the fourth comes with its vouches in the request to join."""
    cohort = Cohort(tmp_path / "cohort", size=4)
    operator = ServerHome.create(tmp_path / "server", address="127.0.0.1:1", listen=None)
    operator.identity_file.write_bytes(cohort.server.private_bytes())
    old = JoinFile(
        address="127.0.0.1:1",
        authority=operator.authority.read_text("ascii"),
        server_key=cohort.server.public.hex(),
        roster=cohort.roster[:3],
    )
    vouches = tuple(_vouch(cohort, name, cohort.roster[3], old.federation) for name in ("m0", "m1"))
    update = old.update.model_copy(update={"roster": cohort.roster, "vouches": vouches})
    rules = "lifetime_epsilon = 9.0\nlifetime_delta = 1e-5\nleast_vouchers = 2\n"
    for name, merchant in cohort.merchants.items():
        home = MerchantHome(cohort.folder / name)
        (home.folder / "client.toml").write_text(f'name = "{name}"\ndata = "{tmp_path}"\n')
        (home.folder / "policy.toml").write_text(rules)
        home.approve(old if name != "m3" else old.model_copy(update={"roster": cohort.roster}))
        merchant.context.rosters = RosterFollower(home)
        merchant.context.policy = cohort.policy.model_copy(
            update={"least_vouchers": 2, "roster_fingerprint": home.policy().roster_fingerprint}
        )
    grid = InProcessGrid(cohort.app(), 4)
    coordinator, _ = cohort.coordinator(cohort.plan(rounds=1), grid)
    with pytest.raises(TrainingError, match="not approved"):
        coordinator.run()
    coordinator, records = cohort.coordinator(cohort.plan(rounds=1), grid, roster_update=lambda: update)
    coordinator.run()
    # m0 and m1 vouched themselves; m2 takes their word.
    assert [record.contributors for record in records] == [4]
    assert all(MerchantHome(cohort.folder / name).joined().roster == cohort.roster for name in cohort.names)


def _vouch(cohort: Cohort, voucher: str, whom: Peer, federation: str) -> SignedVouch:
    key: SigningIdentity = cohort.identities[voucher]
    statement = Vouch(
        federation=federation,
        peer=whom,
        node_key_hash="cc" * 32,
        voucher=voucher,
        voucher_key=key.public.hex(),
        last_day=(datetime.now(UTC).date() + timedelta(days=30)).isoformat(),
    )
    return sign_vouch(statement, voucher=key)
