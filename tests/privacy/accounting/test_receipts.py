"""Receipts: what the server countersigns, what a merchant makes of it, and an older ledger found out."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedrec.errors import LedgerError, ProtocolError, RefusedError, TrainingError
from fedrec.privacy.accounting.ledger_entries import AnswerEntry, ChargeEntry, CountEntry
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.messages import TrainReply, UnmaskRequest
from fedrec.protocol.statements import (
    LEDGER_HEAD_CONTEXT,
    RECEIPT_CONTEXT,
    LedgerHead,
    Receipt,
    SignedLedgerHead,
)
from fedrec.protocol.transport import pack, unpack
from fedrec.server.receipts import ReceiptBook, read_receipts, rounds_with_receipt
from tests.support.cohort import Cohort, InProcessGrid
from tests.support.speed import is_within

_LEDGER_FILES = ("ledger.sqlite", "ledger.sqlite.head")
_HOME_FILES = (*_LEDGER_FILES, "store.sqlite")


def test_every_charge_that_was_uploaded_has_a_receipt_that_both_signed(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=2)
    cohort.train(plan)
    receipts = list(read_receipts(tmp_path / "receipts.sqlite"))
    moments = [receipt.head.statement.moment for receipt in receipts]
    # Each of the four joined, and uploaded and answered in two rounds, in this order.
    assert moments == ["joined"] * 4 + (["charged"] * 4 + ["answered"] * 4) * 2
    for receipt in receipts:
        stated = receipt.head.statement
        entries = cohort.merchants[stated.merchant].ledger.entries()
        entry = next(entry for entry in entries if entry.hash.hex() == stated.head_hash)
        if stated.moment == "joined":
            assert isinstance(entry, CountEntry) and stated.round_number == 0
        elif stated.moment == "charged":
            assert isinstance(entry, ChargeEntry) and entry.charge.round_number == stated.round_number
        else:
            assert isinstance(entry, AnswerEntry) and entry.answer.round_number == stated.round_number
        assert verify(
            plan.key_of(stated.merchant),
            stated.canonical_bytes(),
            bytes.fromhex(receipt.head.signature),
            context=LEDGER_HEAD_CONTEXT,
        )
        assert verify(
            cohort.server.public,
            receipt.head.canonical_bytes(),
            bytes.fromhex(receipt.signature),
            context=RECEIPT_CONTEXT,
        )


def _backup(home: Path, to: Path) -> None:
    to.mkdir(exist_ok=True)
    for name in _HOME_FILES:
        shutil.copy(home / name, to / name)


def test_a_restored_machine_is_detected_in_the_next_round(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    cohort.train(cohort.plan(rounds=1))
    _backup(tmp_path / "m1", tmp_path / "backup")
    cohort.train(cohort.plan(rounds=2))
    # Ledger and head go back together, so nothing on the machine itself contradicts them.
    _backup(tmp_path / "backup", tmp_path / "m1")
    cohort.restart("m1")
    assert len(cohort.charges("m1")) == 1
    grid = InProcessGrid(cohort.app(), cohort.size)
    _, records = cohort.train(cohort.plan(rounds=2), grid)
    assert [record.contributors for record in records] == [3, 3]
    with pytest.raises(Exception, match="restored to an older state"):
        cohort.restart("m1")


def test_the_last_receipt_comes_with_the_close(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    cohort.train(cohort.plan(rounds=1))
    _backup(tmp_path / "m1", tmp_path / "backup")
    cohort.train(cohort.plan(rounds=1))
    newest = (tmp_path / "m1" / _LEDGER_FILES[1]).read_bytes()
    _backup(tmp_path / "backup", tmp_path / "m1")
    # This time the head stayed, and its receipt is for an entry that the ledger no longer has.
    (tmp_path / "m1" / _LEDGER_FILES[1]).write_bytes(newest)
    assert b'"receipt":{' in newest
    with pytest.raises(Exception, match="restored to an older state"):
        cohort.restart("m1")


@pytest.mark.parametrize("keep", ["ledger.sqlite", "ledger.sqlite.head", "store.sqlite"])
def test_files_from_different_times_are_refused(tmp_path: Path, keep: str) -> None:
    """One file is of today, the others are an older copy: nothing of it needs the server."""
    cohort = Cohort(tmp_path)
    cohort.train(cohort.plan(rounds=1))
    _backup(tmp_path / "m1", tmp_path / "backup")
    cohort.train(cohort.plan(rounds=2))
    newest = (tmp_path / "m1" / keep).read_bytes()
    _backup(tmp_path / "backup", tmp_path / "m1")
    (tmp_path / "m1" / keep).write_bytes(newest)
    if keep == "ledger.sqlite":
        # The ledger is the newest, and its head is brought up to date: nothing is done twice.
        cohort.restart("m1")
        assert len(cohort.charges("m1")) == 3
    else:
        with pytest.raises(LedgerError, match="restored to an older state"):
            cohort.restart("m1")


def test_a_home_put_back_from_a_backup_answers_no_second_survivor_set(tmp_path: Path) -> None:
    """All files are put back to before its answer; the last receipt, which any request brings, shows it."""

    def on_event(name: str, event: str) -> None:
        if (name, event) == ("m1", "stored") and not (tmp_path / "backup").exists():
            _backup(tmp_path / "m1", tmp_path / "backup")

    cohort = Cohort(tmp_path, on_event=on_event)
    plan = cohort.plan(rounds=1)
    grid = InProcessGrid(cohort.app(), cohort.size)
    cohort.train(plan, grid)
    asked = [message for message in grid.requests if message.metadata.message_type == "query.unmask"]
    request, blobs = unpack(asked[1].content, UnmaskRequest, max_blob_bytes=10**7)
    last = cohort.last_receipt("m1")
    assert last is not None and last.head.statement.moment == "answered"
    fewer = request.model_copy(update={"survivors": request.survivors[:3], "receipt": last})
    few = {name: blobs[name] for name in ("box-1", "box-2", "box-3")}
    _backup(tmp_path / "backup", tmp_path / "m1")
    cohort.restart("m1")
    merchant = cohort.merchants["m1"]
    assert not merchant.ledger.has_answer(plan.training_id, 1)
    # Without a receipt it answers nothing, and with the last one it learns what happened.
    with pytest.raises(RefusedError, match="brings no ledger receipt"):
        merchant.unmask(fewer.model_copy(update={"receipt": None}), few)
    with pytest.raises(LedgerError, match="restored to an older state"):
        merchant.unmask(fewer, few)
    with pytest.raises(LedgerError, match="restored to an older state"):
        merchant.unmask(request, blobs)


def test_a_server_that_lost_its_receipts_has_one_again_from_the_next_join(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=2)
    cohort.train(plan)
    (tmp_path / "receipts.sqlite").unlink()
    _, records = cohort.train(cohort.plan(rounds=1))
    assert [record.contributors for record in records] == [4]


def test_a_join_s_head_never_replaces_a_receipt(tmp_path: Path) -> None:
    """Else a merchant that was put back would have its older head countersigned, and go on."""
    cohort = Cohort(tmp_path)
    cohort.train(cohort.plan(rounds=1))
    _backup(tmp_path / "m1", tmp_path / "backup")
    cohort.train(cohort.plan(rounds=1))
    before = cohort.last_receipt("m1")
    _backup(tmp_path / "backup", tmp_path / "m1")
    cohort.restart("m1")
    plan = cohort.plan(rounds=1)
    coordinator, records = cohort.coordinator(plan)
    coordinator.run()
    assert records[0].contributors == 3 and cohort.last_receipt("m1") == before
    assert "round 1, m1" in coordinator.refusals


def test_a_request_without_a_receipt_is_refused_once_the_ledger_has_begun(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    coordinator, records = cohort.coordinator(cohort.plan(rounds=3))
    coordinator.receipts.last = lambda merchant: None  # type: ignore[method-assign]
    coordinator.run()
    # The first round's uploads are given (nothing had begun), its answers not any more.
    assert [record.contributors for record in records] == [4, 0, 0]
    assert not any(record.opened for record in records)
    assert all(len(cohort.charges(name)) == 1 for name in cohort.names)


def _stranger(cohort: Cohort, reply: TrainReply) -> SignedLedgerHead:
    head = reply.head
    assert head is not None
    signature = SigningIdentity.generate().sign(head.statement.canonical_bytes(), context=LEDGER_HEAD_CONTEXT)
    return head.model_copy(update={"signature": signature.hex()})


def _restated(cohort: Cohort, reply: TrainReply, **changes: Any) -> SignedLedgerHead:
    assert reply.head is not None
    stated = LedgerHead(**(reply.head.statement.model_dump() | changes))
    signature = cohort.identities["m0"].sign(stated.canonical_bytes(), context=LEDGER_HEAD_CONTEXT)
    return SignedLedgerHead(statement=stated, signature=signature.hex())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cohort, reply: None, "without a signed ledger head"),
        (_stranger, "not signed by its merchant"),
        (lambda cohort, reply: _restated(cohort, reply, round_number=2), "another training, round"),
        (lambda cohort, reply: _restated(cohort, reply, merchant="m1"), "another training, round"),
        (lambda cohort, reply: _restated(cohort, reply, training_id="0" * 64), "another training, round"),
        (lambda cohort, reply: _restated(cohort, reply, moment="answered"), "another training, round"),
    ],
)
def test_an_upload_with_a_bad_head_does_not_count(tmp_path: Path, change: object, reason: str) -> None:
    cohort = Cohort(tmp_path)

    def tamper(reply: Message, index: int) -> Message:
        if index == 0 and reply.metadata.message_type == "train":
            body, blobs = unpack(reply.content, TrainReply, max_blob_bytes=10**7)
            reply.content = pack(body.model_copy(update={"head": change(cohort, body)}), blobs)  # type: ignore[operator]
        return reply

    coordinator, records = cohort.coordinator(
        cohort.plan(rounds=1), InProcessGrid(cohort.app(), cohort.size, tamper=tamper)
    )
    coordinator.run()
    assert (records[0].opened, records[0].contributors) == (True, 3)
    assert reason in coordinator.refusals["round 1, m0"]
    charged = [r for r in read_receipts(tmp_path / "receipts.sqlite") if r.head.statement.moment == "charged"]
    assert len(charged) == 3


def test_a_receipt_of_another_server_is_refused_before_anything_is_charged(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    cohort.train(cohort.plan(rounds=1))
    # The same heads, countersigned by somebody else.
    other = SigningIdentity.generate()
    coordinator, records = cohort.coordinator(cohort.plan(rounds=1))
    forged = []
    for name in cohort.names:
        last = cohort.last_receipt(name)
        assert last is not None
        signature = other.sign(last.head.canonical_bytes(), context=RECEIPT_CONTEXT).hex()
        forged.append(Receipt(head=last.head, server_key=other.public.hex(), signature=signature))
    coordinator.receipts.keep(forged)
    coordinator.run()
    assert records[0].contributors == 0
    assert "another server" in coordinator.refusals["round 1, m0"]
    assert len(cohort.charges("m0")) == 1


def test_a_truncated_or_damaged_receipt_book_is_refused_in_one_line(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    cohort.train(cohort.plan(rounds=1))
    path = tmp_path / "receipts.sqlite"
    whole = path.read_bytes()
    for content in (b'{"head": 1}\n' + whole, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="can't be used"):
            ReceiptBook(path, identity=cohort.server).last("m0")
    path.write_bytes(whole)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE receipt SET body = '{}' WHERE merchant = 'm1'")
    book = ReceiptBook(path, identity=cohort.server)
    assert book.last("m0") is not None
    with pytest.raises(TrainingError, match="invalid receipt"):
        book.last("m1")
    with pytest.raises(TrainingError, match="invalid receipt"):
        list(read_receipts(path))


def test_a_crash_while_receipts_are_kept_leaves_all_of_a_round_or_none(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    cohort.train(cohort.plan(rounds=1))
    path = tmp_path / "receipts.sqlite"
    again = list(read_receipts(path))
    program = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "for n in range(5000):\n"
        "    db.execute('INSERT INTO receipt (merchant, training_id, round_number, moment, body)'"
        " ' VALUES (?, ?, ?, ?, ?)',"
        " ('m0', 'x' * 64, n, 'charged', '{}' * 100))\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 9
    assert path.with_name("receipts.sqlite-journal").exists()
    mine = [receipt for receipt in again if receipt.head.statement.merchant == "m0"]
    assert ReceiptBook(path, identity=cohort.server).last("m0") == mine[-1]
    assert list(read_receipts(path)) == again


def test_a_receipt_book_opens_as_fast_whatever_its_length(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    cohort.train(cohort.plan(rounds=1))
    path = tmp_path / "receipts.sqlite"
    first = next(read_receipts(path))
    body = first.canonical_bytes().decode()
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM receipt")
        db.executemany(
            "INSERT INTO receipt (merchant, training_id, round_number, moment, body)"
            " VALUES (?, 't', ?, 'charged', ?)",
            ((f"m{n % 50}", n // 50, body) for n in range(50_000)),
        )
    tracemalloc.start()
    started = time.process_time()
    book = ReceiptBook(path, identity=cohort.server)
    assert all(book.last(f"m{n}") for n in range(50))
    assert rounds_with_receipt(path, training_id="t") == {f"m{n}": 1000 for n in range(50)}
    assert sum(1 for _ in zip(read_receipts(path), range(1000), strict=False)) == 1000
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 38 MB of receipts.
    assert peak < 2_000_000 and is_within(seconds, limit=2)


def test_an_older_receipt_never_replaces_a_newer_one(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    cohort.train(cohort.plan(rounds=3))
    mine = [r for r in read_receipts(tmp_path / "receipts.sqlite") if r.head.statement.merchant == "m1"]
    ledger = cohort.merchants["m1"].ledger
    head_file = tmp_path / "m1" / _LEDGER_FILES[1]
    newest = mine[-1].signature.encode()
    assert newest in head_file.read_bytes()
    for older in mine[:-1]:
        ledger.accept_receipt(older)
        assert newest in head_file.read_bytes()


def test_only_a_known_merchant_s_head_is_countersigned(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    book = ReceiptBook(tmp_path / "book.sqlite", identity=cohort.server)
    plan = cohort.plan()
    head = cohort.merchants["m0"].ledger.signed_head(
        training_id=plan.training_id, round_number=1, merchant="stranger", moment="charged"
    )
    with pytest.raises(ProtocolError, match="not on the roster"):
        book.sign(head, plan=plan, merchant="stranger", round_number=1, moment="charged")
