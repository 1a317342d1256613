"""What a merchant confirms when it joins: the whole join file, and a change of server above all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedrec.cli import client, server
from fedrec.clients.merchant_home import MerchantHome
from fedrec.errors import ConfigError
from fedrec.protocol.enrolment import Enrolment, JoinFile, grouped, read_file
from fedrec.protocol.plan import Peer
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from fedrec.server.certificates import make_authority
from fedrec.server.server_home import ServerHome

NAME = "merchant-00"
OTHER = Peer(name="merchant-01", signing_key="cd" * 32)


def authority(folder: Path, name: str) -> str:
    make_authority(certificate=folder / f"{name}.pem", key=folder / f"{name}.key")
    return (folder / f"{name}.pem").read_text("ascii")


@pytest.fixture
def home(tmp_path: Path) -> MerchantHome:
    return MerchantHome.create(tmp_path / "home", name=NAME, data=tmp_path, units=10)


@pytest.fixture
def file(home: MerchantHome, tmp_path: Path) -> JoinFile:
    me = Peer(name=NAME, signing_key=home.identity().public.hex())
    return JoinFile(
        address="127.0.0.1:8443",
        authority=authority(tmp_path, "first"),
        server_key="ab" * 32,
        roster=(me, OTHER),
    )


def swapped(file: JoinFile, what: str, folder: Path) -> JoinFile:
    values: dict[str, Any] = {
        "address": "127.0.0.1:8444",
        "authority": authority(folder, "second") if what == "authority" else "",
        "server_key": "ef" * 32,
        "roster": (*file.roster, Peer(name="merchant-02", signing_key="12" * 32)),
    }
    return file.model_copy(update={what: values[what]})


def join(home: MerchantHome, file: JoinFile, *options: str, answers: str = "") -> Result:
    path = home.folder.parent / "given.json"
    path.write_bytes(file.canonical_bytes())
    arguments = ["join", str(path), "--home", str(home.folder), *options]
    return CliRunner().invoke(client.app, arguments, input=answers)


@pytest.mark.parametrize("what", ["address", "authority", "server_key", "roster"])
def test_whatever_is_swapped_in_a_join_file_changes_its_fingerprint(
    home: MerchantHome, file: JoinFile, what: str, tmp_path: Path
) -> None:
    other = swapped(file, what, tmp_path)
    assert other.fingerprint != file.fingerprint
    refused = join(home, other, "--fingerprint", grouped(file.fingerprint))
    assert isinstance(refused.exception, ConfigError) and "ask the operator" in str(refused.exception)
    assert not (home.folder / "join.json").exists() and not home.authority.exists()
    # As it is copied from a terminal that broke the line.
    assert join(home, file, "--fingerprint", grouped(file.fingerprint).replace(" ", "\n ")).exit_code == 0
    assert home.joined() == file


def test_both_fingerprints_are_shown_and_told_apart(home: MerchantHome, file: JoinFile) -> None:
    shown = join(home, file, answers="n\n")
    assert shown.exit_code != 0 and not (home.folder / "join.json").exists()
    assert f"fingerprint {grouped(file.fingerprint)}" in shown.output
    assert f"of the roster alone: {roster_fingerprint(file.roster)}" in shown.output
    # The one to compare stands next to the question.
    assert shown.output.index("of the roster alone") < shown.output.index("\nfingerprint ")
    # The one for policy.toml is the roster's.
    assert join(home, file, answers="y\n").exit_code == 0
    rules = (home.folder / "policy.toml").read_text("utf-8")
    (home.folder / "policy.toml").write_text(
        f'{rules}\nroster_fingerprint = "{roster_fingerprint(file.roster)}"\n'
    )
    assert home.policy().roster_fingerprint == roster_fingerprint(file.roster)


@pytest.mark.parametrize("what", ["authority", "server_key"])
def test_another_server_is_warned_of_and_has_to_be_confirmed(
    home: MerchantHome, file: JoinFile, what: str, tmp_path: Path
) -> None:
    other = swapped(file, what, tmp_path)
    join(home, file, answers="y\n")
    shown = join(home, other, "--fingerprint", grouped(other.fingerprint), answers="n\n")
    assert isinstance(shown.exception, ConfigError) and "not confirmed" in str(shown.exception)
    assert home.joined() == file
    assert "WARNING: the server's " + what.removeprefix("server_") in shown.output
    assert join(home, other, answers="y\ny\n").exit_code == 0
    assert home.joined() == other
    back = join(home, file, "--fingerprint", grouped(file.fingerprint), "--new-server")
    assert back.exit_code == 0 and "WARNING" in back.output


@pytest.mark.parametrize("answers", ["n\n", ""], ids=["no", "nobody there"])
def test_a_join_that_is_not_confirmed_is_an_error_of_usage(
    home: MerchantHome, file: JoinFile, answers: str
) -> None:
    """Not 130: nobody stopped anything."""
    shown = join(home, file, answers=answers)
    assert isinstance(shown.exception, ConfigError)
    assert "nothing was joined" in str(shown.exception) and "--fingerprint" in str(shown.exception)
    assert not home.has_joined


@pytest.mark.parametrize("what", ["address", "roster"])
def test_another_roster_or_address_needs_no_second_confirmation(
    home: MerchantHome, file: JoinFile, what: str, tmp_path: Path
) -> None:
    join(home, file, answers="y\n")
    other = swapped(file, what, tmp_path)
    shown = join(home, other, "--fingerprint", grouped(other.fingerprint))
    assert shown.exit_code == 0 and "WARNING" not in shown.output and home.joined() == other


def test_the_operator_sees_the_fingerprint_that_the_merchant_sees(home: MerchantHome, tmp_path: Path) -> None:
    folder = ["--home", str(tmp_path / "server")]
    runner = CliRunner()
    assert runner.invoke(server.app, ["init", "--address", "127.0.0.1:8443", *folder]).exit_code == 0
    enrolled = runner.invoke(server.app, ["enroll", str(home.folder / "enrolment.json"), *folder])
    shown = join(home, read_file(tmp_path / "server" / "join.json", JoinFile), answers="n\n")
    prints = [
        re.findall(r"^fingerprint ([0-9a-f ]+)$", output, flags=re.MULTILINE)
        for output in (enrolled.output, runner.invoke(server.app, ["status", *folder]).output, shown.output)
    ]
    assert len(prints[0]) == 1 and prints[0] == prints[1] == prints[2]
    assert "fingerprint" not in runner.invoke(server.app, ["revoke", NAME, *folder]).output


def test_a_node_key_that_was_revoked_is_never_admitted_again(home: MerchantHome, tmp_path: Path) -> None:
    operator = ServerHome.create(tmp_path / "server", address="127.0.0.1:1", listen=None)
    enrolment = read_file(home.folder / "enrolment.json", Enrolment)
    operator.enroll(enrolment)
    operator.enroll(enrolment)
    operator.revoke(NAME)
    with pytest.raises(ConfigError, match="revoked or replaced before"):
        ServerHome.open(operator.folder).enroll(enrolment)
    assert operator.enrolled() == ()
    home.rotate()
    operator.enroll(read_file(home.folder / "enrolment.json", Enrolment))
    assert [entry.name for entry in operator.enrolled()] == [NAME]
    # A crash between the list of what was taken off and the roster: who is still on it can be renewed.
    roster = (operator.folder / "roster.json").read_bytes()
    operator.revoke(NAME)
    (operator.folder / "roster.json").write_bytes(roster)
    count = home.recount(10_000)
    operator.enroll(read_file(home.folder / "enrolment.json", Enrolment))
    assert [entry.size for entry in operator.enrolled()] == [count.size]


def test_certificates_are_tried_before_the_server_listens(tmp_path: Path) -> None:
    operator = ServerHome.create(tmp_path / "server", address="127.0.0.1:1", listen=None)
    assert operator.checked_certificates() == operator.certificates()
    operator.key.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        operator.checked_certificates()
    operator.key.chmod(0o600)
    other = ServerHome.create(tmp_path / "other", address="127.0.0.1:1", listen=None)
    operator.key.write_bytes(other.key.read_bytes())
    with pytest.raises(ConfigError, match="can't be used together"):
        operator.checked_certificates()
    operator.key.unlink()
    with pytest.raises(ConfigError, match="can't be used together"):
        operator.checked_certificates()
