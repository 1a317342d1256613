"""A merchant's folder with files that are gone: its past is never forgotten, and never begun anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fedrec.cli import client
from fedrec.clients.assembly import open_merchant
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.store import MerchantStore
from fedrec.errors import LedgerError
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.identity import verify
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.plan import Peer
from tests.support.ledgers import CHARGE, VERSION

NAME = "merchant-00"


@pytest.fixture
def home(tmp_path: Path) -> MerchantHome:
    """A merchant that was charged for a round, whose upload it stored."""
    made = MerchantHome.create(tmp_path / "home", name=NAME, data=tmp_path, units=30)
    made.approve(
        JoinFile(
            address="127.0.0.1:1",
            authority="-----BEGIN CERTIFICATE-----\n",
            server_key="ab" * 32,
            roster=(Peer(name=NAME, signing_key=made.identity().public.hex()),),
        )
    )
    with Ledger(made.ledger, signer=made.identity(), verify=verify) as ledger:
        ledger.charge(replace(CHARGE, round_number=1), version=VERSION)
    store = MerchantStore(made.store)
    store.put_upload(CHARGE.training_id, 1, request_hash="0" * 64, body=b"an upload")
    store.close()
    return made


def start(home: MerchantHome) -> int:
    merchant = open_merchant(home, device=torch.device("cpu"))
    merchant.ledger.close()
    merchant.store.close()
    return len(merchant.ledger.entries())


LEDGER, HEAD, STORE = "ledger.sqlite", "ledger.sqlite.head", "store.sqlite"


@pytest.mark.parametrize("gone", [(LEDGER,), (HEAD,), (LEDGER, HEAD), (LEDGER, STORE), (LEDGER, HEAD, STORE)])
def test_without_its_ledger_a_merchant_does_nothing(home: MerchantHome, gone: tuple[str, ...]) -> None:
    assert start(home) == 2
    kept = {name: (home.folder / name).read_bytes() for name in gone}
    for name in gone:
        (home.folder / name).unlink()
    for _ in range(2):
        with pytest.raises(LedgerError, match="never replaced"):
            start(home)
    for command in (("recount",), ("rotate",), ("status",), ("budget",)):
        if gone == (HEAD,) and command != ("recount",):
            continue
        shown = CliRunner().invoke(client.app, [*command, "--home", str(home.folder)])
        assert shown.exit_code != 0, command
    found = CliRunner().invoke(client.app, ["check", "--offline", "--home", str(home.folder)])
    assert found.exit_code != 0 and "A lost ledger" in found.output
    assert not {LEDGER, HEAD}.intersection(gone) & {file.name for file in home.folder.iterdir()}
    # The way out: the backup, put back whole.
    for name, content in kept.items():
        (home.folder / name).write_bytes(content)
    assert start(home) == 2


def test_a_store_that_is_gone_takes_nothing_from_the_ledger(home: MerchantHome) -> None:
    home.store.unlink()
    assert start(home) == 2
    with Ledger(home.ledger, signer=home.identity(), verify=verify) as ledger:
        assert ledger.charge(replace(CHARGE, round_number=1), version=VERSION).already_charged


def test_a_ledger_older_than_the_store_is_refused(home: MerchantHome, tmp_path: Path) -> None:
    """Ledger and head of before, together: only what is beside them, or the server, knows better."""
    older = {name: (home.folder / name).read_bytes() for name in (LEDGER, HEAD)}
    with Ledger(home.ledger, signer=home.identity(), verify=verify) as ledger:
        ledger.charge(replace(CHARGE, round_number=2), version=VERSION)
    for name, content in older.items():
        (home.folder / name).write_bytes(content)
    assert start(home) == 2
    store = MerchantStore(home.store)
    store.put_upload(CHARGE.training_id, 2, request_hash="0" * 64, body=b"an upload")
    store.close()
    with pytest.raises(LedgerError, match="no entry for round 2"):
        start(home)


def test_a_second_merchant_is_never_created_in_a_used_folder(home: MerchantHome) -> None:
    for name in (LEDGER, HEAD):
        (home.folder / name).unlink()
    shown = CliRunner().invoke(
        client.app, ["init", "--name", NAME, "--data", str(home.folder), "--home", str(home.folder)]
    )
    assert shown.exit_code != 0
    assert not home.ledger.exists()
