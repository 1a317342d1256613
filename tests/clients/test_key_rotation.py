"""A merchant exchanges its identity key: ledger, budget and record tags go on, and the old key is void."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedrec.cli import client, server
from fedrec.clients.charging import dataset_version
from fedrec.clients.identity_file import successor
from fedrec.clients.identity_rotation import rotate_identity
from fedrec.clients.merchant_files import make_enrolment
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.record_tags import RecordTags
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_types import TrainingSecrets
from fedrec.errors import ConfigError, LedgerError
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_entries import CountEntry, RotationEntry
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.endorsements import sign_rotation
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.enrolment import Enrolment, read_file
from fedrec.server.server_home import ServerHome

NAME = "shop"


@pytest.fixture
def home(tmp_path: Path) -> MerchantHome:
    return MerchantHome.create(tmp_path / "home", name=NAME, data=tmp_path, units=10)


@pytest.fixture
def operator(tmp_path: Path) -> ServerHome:
    return ServerHome.create(tmp_path / "server", address="127.0.0.1:1", listen=None)


def enrolment(home: MerchantHome) -> Enrolment:
    return read_file(home.folder / "enrolment.json", Enrolment)


def test_the_ledger_the_count_and_the_record_tags_go_on_under_the_new_key(home: MerchantHome) -> None:
    old, count, photo = home.identity(), home.declared_count(), b"p" * 32
    before = (RecordTags(old).tag(photo), dataset_version(old, photo))
    for _ in range(2):
        shown = CliRunner().invoke(client.app, ["rotate", "--home", str(home.folder)])
        assert shown.exit_code == 0 and home.identity().public.hex() in shown.output
    new = home.identity()
    assert new.public != old.public and home.identity_file.stat().st_mode & 0o777 == 0o600
    assert old.private_bytes() not in home.identity_file.read_bytes()
    assert (RecordTags(new).tag(photo), dataset_version(new, photo)) == before
    assert home.declared_count() == count
    outcome, entries = read_entries(home.ledger, public=new.public, verify=verify)
    assert outcome.ok and [type(entry) for entry in entries] == [CountEntry, RotationEntry, RotationEntry]
    # The old key opens this ledger no more: whoever has it can't go on beside the merchant.
    assert not read_entries(home.ledger, public=old.public, verify=verify)[0].ok
    with pytest.raises(LedgerError, match="older copy"):
        Ledger(home.ledger, signer=old, verify=verify)
    with Ledger(home.ledger, signer=new, verify=verify) as ledger:
        assert ledger.verify().ok and ledger.declared("record") == count.size


def test_a_copy_from_before_the_exchange_is_no_second_budget(home: MerchantHome, tmp_path: Path) -> None:
    shutil.copytree(home.folder, tmp_path / "copy")
    rotate_identity(home)
    # The new key with the old ledger, which would have forgotten what was spent in between.
    for name in ("ledger.sqlite", "ledger.sqlite.head"):
        shutil.copy(tmp_path / "copy" / name, home.folder / name)
    with pytest.raises(LedgerError, match="another merchant"):
        Ledger(home.ledger, signer=home.identity(), verify=verify)


@pytest.mark.parametrize("moment", ["begun", "inserted", "committed", "opened", "replaced"])
def test_a_crash_leaves_one_key_that_fits_the_ledger(home: MerchantHome, moment: str) -> None:
    class StoppedError(Exception):
        pass

    def stop(event: str) -> None:
        if event == moment:
            raise StoppedError

    old = home.identity()
    home.next_identity_file.write_bytes(successor(old))
    new = SigningIdentity.from_private_bytes(home.next_identity_file.read_bytes()[:32])
    ledger = Ledger(home.ledger, signer=old, verify=verify, on_event=stop)
    with pytest.raises(StoppedError):
        ledger.rotate(sign_rotation(NAME, old=old, new=new), signer=new)
    ledger.close()
    # "begun" and "inserted" roll back; from the commit on the new key is the merchant's.
    expected = old if moment in ("begun", "inserted") else new
    assert home.identity().public == expected.public
    with Ledger(home.ledger, signer=home.identity(), verify=verify) as again:
        assert again.verify().ok
    rotate_identity(home)
    assert home.identity().public not in (old.public, new.public)


def test_an_exchange_needs_both_keys_and_never_goes_back(home: MerchantHome) -> None:
    first, stranger = home.identity(), SigningIdentity.generate()
    rotate_identity(home)
    second = home.identity()
    with Ledger(home.ledger, signer=second, verify=verify) as ledger:
        for signed, signer in (
            (sign_rotation(NAME, old=second, new=first), first),
            (sign_rotation(NAME, old=first, new=stranger), stranger),
            (sign_rotation(NAME, old=second, new=second), second),
            (
                sign_rotation(NAME, old=second, new=stranger).model_copy(update={"new_signature": "0" * 128}),
                stranger,
            ),
        ):
            with pytest.raises(LedgerError, match="doesn't follow"):
                ledger.rotate(signed, signer=signer)
        assert len(ledger.entries()) == 2


def test_no_exchange_while_a_training_is_open_or_the_daemon_runs(home: MerchantHome) -> None:
    old = home.identity().public
    with (
        Ledger(home.ledger, signer=home.identity(), verify=verify),
        pytest.raises(LedgerError, match="in use"),
    ):
        rotate_identity(home)
    store = MerchantStore(home.store)
    store.join("ab" * 32, plan=b"{}", seeded=False, make_secrets=TrainingSecrets)
    store.close()
    shown = CliRunner().invoke(client.app, ["rotate", "--home", str(home.folder)])
    assert isinstance(shown.exception, ConfigError) and "is open here" in str(shown.exception)
    assert "\n" not in str(shown.exception) and home.identity().public == old
    node_only = CliRunner().invoke(client.app, ["rotate", "--home", str(home.folder), "--node-key"])
    assert node_only.exit_code == 0 and home.identity().public == old


def test_the_operator_confirms_an_exchange_and_never_enrols_the_old_key_again(
    home: MerchantHome, operator: ServerHome
) -> None:
    oldest, old = enrolment(home), home.identity()
    operator.enroll(oldest)
    rotate_identity(home)
    home.rotate()
    path, options = str(home.folder / "enrolment.json"), ["--home", str(operator.folder)]
    refused = CliRunner().invoke(server.app, ["enroll", path, *options])
    assert isinstance(refused.exception, ConfigError) and "--new-key" in str(refused.exception)
    assert operator.enrolled() == (oldest.statement,)
    assert CliRunner().invoke(server.app, ["enroll", path, *options, "--new-key"]).exit_code == 0
    assert [peer.signing_key for peer in operator.roster()] == [home.identity().public.hex()]
    with pytest.raises(ConfigError, match="was exchanged for another"):
        operator.enroll(oldest, new_key=True)
    # A thief of the old key signs another exchange with it.
    thief = SigningIdentity.generate()
    forged = make_enrolment(
        NAME,
        thief,
        home.node_key(),
        home.declared_count(),
        rotations=(sign_rotation(NAME, old=old, new=thief),),
    )
    with pytest.raises(ConfigError, match="may be stolen"):
        operator.enroll(forged, new_key=True)
    operator.revoke(NAME)
    with pytest.raises(ConfigError, match="may be stolen"):
        operator.enroll(forged, new_key=True)
    assert operator.enrolled() == ()


def test_an_operator_that_missed_an_exchange_follows_the_chain(
    home: MerchantHome, operator: ServerHome
) -> None:
    operator.enroll(enrolment(home))
    first = home.identity().public.hex()
    for _ in range(3):
        rotate_identity(home)
    home.rotate()
    operator.enroll(enrolment(home), new_key=True)
    assert operator.statements().earlier_keys(home.identity().public.hex()) >= {first}
    stranger = MerchantHome.create(home.folder.parent / "other", name=NAME, data=home.folder, units=10)
    with pytest.raises(ConfigError, match="didn't sign an exchange"):
        operator.enroll(enrolment(stranger), new_key=True)
