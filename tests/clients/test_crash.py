"""A merchant's process killed at its worst moments: one charge never stands for two different uploads."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from fedrec.clients.store import MerchantStore
from fedrec.errors import LedgerError, RefusedError
from fedrec.privacy.accounting.privacy_filter import FilterReading
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.messages import JoinRequest, TrainReply, TrainRequest
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.reply_encoding import decode_reply, encode_reply
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import Receipt, SignedSealingKey
from fedrec.protocol.training_report.round_line import RoundRecord
from tests.support.cohort import DIMENSION, Cohort

MODEL = {"model": np.zeros(DIMENSION, "<f4").tobytes()}
OTHER_MODEL = {"model": np.ones(DIMENSION, "<f4").tobytes()}


def _train_and_die(
    folder: Path, private: bytes, server: bytes, request: bytes, die_at: str, sent: Path
) -> None:
    """The merchant's process: brought up from its folder, it answers one request and is killed on the way."""

    def on_event(name: str, event: str) -> None:
        if event == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    # A cohort of nobody: this process holds one merchant's folder and no other.
    cohort = Cohort(folder, size=0, seed=None, on_event=on_event)
    cohort.names.append("m0")
    cohort.server = SigningIdentity.from_private_bytes(server)
    cohort.identities["m0"] = SigningIdentity.from_private_bytes(private)
    reply, blobs = cohort.start("m0").train(TrainRequest.model_validate_json(request), MODEL)
    sent.write_bytes(encode_reply(reply, blobs))
    os.kill(os.getpid(), signal.SIGKILL)


class Killed:
    """A cohort that joined a plan, and its merchant m0 killed while it answered round 1."""

    def __init__(self, folder: Path, die_at: str) -> None:
        # Unseeded: whatever is computed anew has other noise, keys and bytes.
        self.cohort = Cohort(folder, seed=None)
        self.plan: TrainingPlan = self.cohort.plan()
        replies = [
            merchant.join(JoinRequest(plan=self.plan))[0] for merchant in self.cohort.merchants.values()
        ]
        self.sealing: tuple[SignedSealingKey, ...] = tuple(
            reply.sealing_key for reply in replies if reply.sealing_key is not None
        )
        assert len(self.sealing) == 4
        self.receipt: Receipt = self.cohort.first_receipt(replies[0], self.plan)
        self.sent_file = folder / "sent"
        merchant = self.cohort.merchants["m0"]
        merchant.ledger.close()
        merchant.store.close()
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(["tests.support.cohort"])
        process = server.Process(
            target=_train_and_die,
            args=(
                folder,
                self.cohort.identities["m0"].private_bytes(),
                self.cohort.server.private_bytes(),
                self.request(1).canonical_bytes(),
                die_at,
                self.sent_file,
            ),
        )
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        self.stored_body = self._stored_body()
        self.merchant = self.cohort.merchants["m0"] = self.cohort.start("m0")

    def request(self, round_number: int, blobs: dict[str, bytes] = MODEL) -> TrainRequest:
        return TrainRequest(
            training_id=self.plan.training_id,
            round_number=round_number,
            model_hash=sha256_hex(blobs["model"]),
            sealing_keys=self.sealing,
            receipt=self.receipt,
        )

    def another_request(self, round_number: int) -> TrainRequest:
        """A request that asks for the same in other words."""
        return self.request(round_number).model_copy(update={"sealing_keys": self.sealing[::-1]})

    def charged_rounds(self) -> list[int]:
        assert self.merchant.ledger.verify().ok
        return [entry.charge.round_number for entry in self.cohort.charges("m0")]

    def _stored_body(self) -> bytes | None:
        with sqlite3.connect(self.cohort.folder / "m0" / "store.sqlite") as db:
            row = db.execute("SELECT body FROM reply WHERE kind = 'upload'").fetchone()
        return None if row is None else bytes(row[0])

    def goes_on(self) -> None:
        """The next round is charged and answered as if nothing had happened."""
        reply, blobs = self.merchant.train(self.request(2), MODEL)
        assert reply.signed is not None
        assert reply.signed.commitment.ciphertext_hash == sha256_hex(blobs["ciphertext"])
        assert self.charged_rounds() == [1, 2]


def test_a_round_killed_after_its_charge_is_never_uploaded(tmp_path: Path) -> None:
    killed = Killed(tmp_path, "charged")
    assert killed.stored_body is None
    assert not killed.sent_file.exists()
    for _ in range(2):
        with pytest.raises(RefusedError, match="stays dropped"):
            killed.merchant.train(killed.request(1), MODEL)
    with pytest.raises(RefusedError, match="stays dropped"):
        killed.merchant.train(killed.another_request(1), MODEL)
    with pytest.raises((RefusedError, LedgerError)):
        killed.merchant.train(killed.request(1, OTHER_MODEL), OTHER_MODEL)
    assert killed.charged_rounds() == [1]
    killed.goes_on()


@pytest.mark.parametrize("die_at", ["stored", "sent"])
def test_a_round_killed_after_its_upload_was_stored_resends_the_same_bytes(
    tmp_path: Path, die_at: str
) -> None:
    killed = Killed(tmp_path, die_at)
    assert killed.stored_body is not None
    assert killed.sent_file.exists() == (die_at == "sent")
    if die_at == "sent":
        assert killed.sent_file.read_bytes() == killed.stored_body
    for _ in range(2):
        reply, blobs = killed.merchant.train(killed.request(1), MODEL)
        assert encode_reply(reply, blobs) == killed.stored_body
        assert reply == decode_reply(killed.stored_body, TrainReply)[0]
        assert set(blobs) == {"ciphertext", "box-1", "box-2", "box-3", "box-4"}
    with pytest.raises(RefusedError, match="different request"):
        killed.merchant.train(killed.another_request(1), MODEL)
    with pytest.raises((RefusedError, LedgerError)):
        killed.merchant.train(killed.request(1, OTHER_MODEL), OTHER_MODEL)
    assert killed.charged_rounds() == [1]
    killed.goes_on()


def test_a_power_cut_in_the_middle_of_a_store_leaves_no_answer(tmp_path: Path) -> None:
    """The merchant's store: durable when a call returns, and whole after a cut between two pages."""
    here, cut = tmp_path / "here", tmp_path / "cut"
    here.mkdir()
    store = MerchantStore(here / "store.sqlite")
    # 3 is EXTRA: FULL, and the folder is synced once the journal is gone.
    assert store._db.execute("PRAGMA synchronous").fetchone() == (3,)
    store.put_upload("a" * 64, 1, request_hash="1" * 64, body=b"first")
    before = (here / "store.sqlite").read_bytes()

    def trace(statement: str) -> None:
        if statement == "COMMIT":
            shutil.copytree(here, cut)

    store._db.execute("PRAGMA cache_spill = 1")
    store._db.set_trace_callback(trace)
    store.put_upload("a" * 64, 2, request_hash="2" * 64, body=bytes(400_000))
    store.close()
    assert (cut / "store.sqlite").read_bytes() != before
    assert (cut / "store.sqlite-journal").stat().st_size > 0
    again = MerchantStore(cut / "store.sqlite")
    assert again.reply("upload", "a" * 64, 2, request_hash="2" * 64) is None
    assert again.reply("upload", "a" * 64, 1, request_hash="1" * 64) == b"first"
    again.close()


def test_replies_are_kept_for_their_round_and_their_training_alone(tmp_path: Path) -> None:
    path, bodies = tmp_path / "store.sqlite", {1: b"first" * 100, 2: b"second" * 100}
    store = MerchantStore(path)
    for number, body in bodies.items():
        store.put_upload("a" * 64, number, request_hash=f"{number:064}", body=body)
        store.put_answer("a" * 64, number, request_hash=f"{number:064}", body=body)
    for kind in ("upload", "answer"):
        with pytest.raises(RefusedError, match=f"its {kind} was deleted"):
            store.reply(kind, "a" * 64, 1, request_hash=f"{1:064}")
        assert store.reply(kind, "a" * 64, 2, request_hash=f"{2:064}") == bodies[2]
    store.finish("a" * 64)
    for kind, number in (("upload", 1), ("answer", 1), ("upload", 2), ("answer", 2)):
        with pytest.raises(RefusedError, match="was deleted"):
            store.reply(kind, "a" * 64, number, request_hash=f"{number:064}")  # type: ignore[arg-type]
    store.close()
    assert not any(body[:20] in path.read_bytes() for body in bodies.values())


FIVE = 5


def _one_life(folder: Path, keys: list[bytes], plan: bytes, last_round: int) -> None:
    """A server and its merchants, brought up from the disk; all are killed once a round is over."""
    cohort = _cohort(folder, keys)
    coordinator, _ = cohort.coordinator(TrainingPlan.model_validate_json(plan))

    def after(record: RoundRecord) -> None:
        if record.round == last_round:
            os.kill(os.getpid(), signal.SIGKILL)

    coordinator.on_round = after
    coordinator.run()


def _cohort(folder: Path, keys: list[bytes]) -> Cohort:
    cohort = Cohort(folder, size=0, seed=None)
    cohort.size = len(keys) - 1
    cohort.server = SigningIdentity.from_private_bytes(keys[0])
    for number, key in enumerate(keys[1:]):
        cohort.names.append(f"m{number}")
        cohort.identities[f"m{number}"] = SigningIdentity.from_private_bytes(key)
    cohort.merchants = {name: cohort.start(name) for name in cohort.names}
    return cohort


def _ledgers(cohort: Cohort) -> dict[str, tuple[FilterReading, FilterReading]]:
    return {
        name: (
            merchant.ledger.reading(),
            merchant.ledger.reading(view="aggregation_broken"),
        )
        for name, merchant in cohort.merchants.items()
    }


@pytest.mark.slow
def test_five_rounds_in_five_lives_cost_what_they_cost_in_one(tmp_path: Path) -> None:
    """Server and merchants are killed after every round: ledgers end at the epsilons of a run in one life."""
    whole = Cohort(tmp_path / "one", seed=None)
    _, records = whole.train(whole.plan(rounds=FIVE))
    assert [record.opened for record in records] == [True] * FIVE
    keys = [SigningIdentity.generate().private_bytes() for _ in range(5)]
    cohort = _cohort(tmp_path / "lives", keys)
    roster = tuple(Peer(name=name, signing_key=key.public.hex()) for name, key in cohort.identities.items())
    plan = cohort.plan(rounds=FIVE, roster=roster, records_total=40 * 4, threshold=3)
    for merchant in cohort.merchants.values():
        merchant.ledger.close()
        merchant.store.close()
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.support.cohort"])
    for life in range(1, FIVE + 1):
        process = server.Process(
            target=_one_life, args=(tmp_path / "lives", keys, plan.canonical_bytes(), life)
        )
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    lives = _cohort(tmp_path / "lives", keys)
    for name in lives.names:
        entries = lives.charges(name)
        assert [entry.charge.round_number for entry in entries] == [1, 2, 3, 4, 5]
        # The cost of each life's round stands in its entry on top of those before.
        for one, other in zip(whole.charges(name), entries, strict=True):
            assert other.epsilons.spent_after == one.epsilons.spent_after
            assert other.epsilons.own_epsilon == pytest.approx(one.epsilons.own_epsilon, rel=2e-3)
    assert _ledgers(lives) == _ledgers(whole)
