"""The lifetime ledger: durable, append-only, signed, one writer, capped."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from fedrec.errors import BudgetExceededError, LedgerError, ProtocolError, RefusedError
from fedrec.privacy.accounting import ledger_history
from fedrec.privacy.accounting.entry_contents import Answer, Charge
from fedrec.privacy.accounting.entry_encoding import SIGNING_CONTEXT, check_rows, payload_of
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_creation import create_ledger
from fedrec.privacy.accounting.ledger_entries import CountEntry, charges, last_count
from fedrec.privacy.accounting.ledger_head import head_of, write_head
from fedrec.privacy.accounting.ledger_reader import (
    check_not_in_use,
    ends_with_key,
    in_use,
    read_entries,
    read_openings,
)
from fedrec.privacy.accounting.lifetime_cap import NOMINAL_EPSILON
from fedrec.privacy.accounting.loss_composition import LossSum
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.privacy_filter import TrainingCost, read_filter
from fedrec.privacy.accounting.privacy_loss import Losses
from fedrec.privacy.endorsements import sign_rotation
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.statements import RECEIPT_CONTEXT, Receipt
from tests.support.layout import ROOT
from tests.support.ledgers import (
    CHARGE,
    COUNT,
    COUNTED,
    VERSION,
    MacIdentity,
    head_path,
    made_ledger,
    open_ledger,
    verify_mac,
)


def _database(ledger: Ledger) -> sqlite3.Connection:
    connection = ledger._chain._file.connection
    assert connection is not None
    return connection


def _charges(ledger: Ledger) -> list[Charge]:
    return [entry.charge for entry in charges(ledger.entries())]


def _fill(path: Path, count: int = 5) -> None:
    with open_ledger(path) as ledger:
        for i in range(count):
            ledger.charge(replace(CHARGE, round_number=i), version=VERSION)


STEP = Event(0.1, 2.0, 1)


def _filtered(charged: Sequence[int], *, epsilon: float = NOMINAL_EPSILON, broken: bool = False) -> float:
    """What the filter reads after one count and trainings of so many charges like CHARGE, at delta 1e-5."""
    step = replace(STEP, noise_multiplier=0.7) if broken else STEP
    trainings = [TrainingCost(step, planned=CHARGE.rounds, charged=steps, beta=1e-12) for steps in charged]
    return read_filter(trainings, releases=[COUNTED], epsilon=epsilon, delta=1e-5).spent


def test_charges_survive_and_count_by_the_filter(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    _fill(path, 4)
    with open_ledger(path) as ledger:
        last = ledger.charge(replace(CHARGE, training_id="11" * 32, round_number=4), version=VERSION)
        assert [entry.sequence for entry in ledger.entries()] == [1, 2, 3, 4, 5, 6]
        assert ledger.reading().spent == last.epsilons.spent_after == pytest.approx(_filtered([4, 1]))
        assert last.epsilons.spent_before == pytest.approx(_filtered([4]))
        broken = _filtered([4, 1], broken=True)
        assert ledger.reading(view="aggregation_broken").spent == pytest.approx(broken)
        assert ledger.verify().ok


def test_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    old = os.umask(0)
    try:
        _fill(path, 1)
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert path.name in modes and set(modes.values()) == {0o600}


def test_a_repeated_charge_changes_nothing(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l") as ledger:
        first = ledger.charge(CHARGE, version=VERSION)
        again = ledger.charge(CHARGE, version=VERSION)
        assert again.already_charged
        assert not first.already_charged
        assert again.hash == first.hash
        assert len(_charges(ledger)) == 1
        with pytest.raises(LedgerError, match="charged with other values"):
            ledger.charge(replace(CHARGE, guaranteed_noise_multiplier=3.0), version=VERSION)
        assert (
            ledger.charge(replace(CHARGE, code="fedrec 1", policy_hash="00" * 32), version=VERSION).charge
            == CHARGE
        )
        ledger.charge(replace(CHARGE, step=1), version=VERSION)
        ledger.charge(replace(CHARGE, training_id="00" * 32), version=VERSION)
        assert len(_charges(ledger)) == 3
    with open_ledger(tmp_path / "l") as ledger:
        assert ledger.charge(CHARGE, version=VERSION).already_charged


def test_a_training_that_exceeds_the_cap_is_refused_before_its_first_charge(tmp_path: Path) -> None:
    cap = 2.0

    def fits(planned: int, charged: int, *others: int) -> bool:
        each = [(planned, charged), *((other, other) for other in others)]
        trainings = [TrainingCost(STEP, planned=n, charged=k, beta=1e-12) for n, k in each]
        return read_filter(trainings, releases=[COUNTED], epsilon=cap, delta=1e-5).fits

    most = max(n for n in range(1, 60) if fits(n, n))
    cost = replace(CHARGE, round_number=1, rounds=most)
    with open_ledger(tmp_path / "l", cap, 1e-5) as ledger:
        assert most > 3
        ledger.check_ahead(cost)
        with pytest.raises(BudgetExceededError, match=f"lifetime_epsilon': the {most + 1} rounds left"):
            ledger.check_ahead(replace(cost, rounds=most + 1))
        assert _charges(ledger) == []
        # What was charged, and what was passed over, is not asked for again.
        for number in (1, 3):
            ledger.charge(replace(cost, round_number=number), version=VERSION)
        ledger.check_ahead(cost)
        # Another training finds the budget that these two left.
        other = max(n for n in range(1, 60) if fits(most, 2, n))
        another = replace(cost, training_id="11" * 32, rounds=other)
        ledger.check_ahead(another)
        with pytest.raises(BudgetExceededError, match="over the cap"):
            ledger.check_ahead(replace(another, rounds=other + 1))
        with pytest.raises(RefusedError, match="protects"):
            ledger.check_ahead(replace(cost, unit="product"))
        assert len(_charges(ledger)) == 2


def test_the_cap_is_never_passed_and_a_step_is_refused_just_when_the_filter_says_so(tmp_path: Path) -> None:
    path, cap = tmp_path / "l", 2.0
    with open_ledger(path, cap, 1e-5) as ledger:
        done = 0
        with pytest.raises(BudgetExceededError, match="over the cap"):
            while True:
                ledger.charge(replace(CHARGE, round_number=done), version=VERSION)
                done += 1
        assert len(_charges(ledger)) == done > 3
        assert _filtered([done], epsilon=cap) <= cap < _filtered([done + 1], epsilon=cap)
        with pytest.raises(BudgetExceededError, match="over the cap"):
            ledger.charge(
                replace(CHARGE, training_id="99" * 32, mode="off", guaranteed_noise_multiplier=0.0),
                version=VERSION,
            )
        assert ledger.charge(CHARGE, version=VERSION).already_charged
    # It spans restarts and trainings.
    with open_ledger(path, cap, 1e-5) as ledger, pytest.raises(BudgetExceededError, match="over the cap"):
        ledger.charge(replace(CHARGE, training_id="11" * 32), version=VERSION)
    assert read_entries(path, public=b"p" * 32, verify=verify_mac)[0].entries == done + 1


def test_a_server_that_chooses_plans_after_seeing_results_gets_less_than_composing_would_give(
    tmp_path: Path,
) -> None:
    """After a first training it may pick among continuations, each of which composes to (8, 1e-5) by PLD.

    Together with the choice that is delta 1.4e-5 (test_filter.py); the ledger refuses every one of them at
    the join, and lets in such as together keep within the cap.
    """
    first = replace(
        CHARGE, sample_rate=0.05, guaranteed_noise_multiplier=1.0, broken_noise_multiplier=0.4, rounds=1,
        steps=300, beta=1e-14,
    )  # fmt: skip
    done = Event(0.05, 1.0, 300)
    choices = [(0.02, 0.6), (0.05, 1.0), (0.2, 3.0)]
    with open_ledger(tmp_path / "l", 8.0, 1e-5) as ledger:
        ledger.charge(first, version=VERSION)
        for rate, noise in choices:

            def next_plan(rounds: int, rate: float = rate, noise: float = noise) -> Charge:
                return replace(
                    first, training_id="22" * 32, sample_rate=rate, guaranteed_noise_multiplier=noise,
                    rounds=rounds, steps=1,
                )  # fmt: skip

            def fits(plan: Charge) -> bool:
                try:
                    ledger.check_ahead(plan)
                except BudgetExceededError:
                    return False
                return True

            low, high = 0, 1500
            while low < high:
                middle = (low + high + 1) // 2
                within = epsilon_pld([done, Event(rate, noise, middle)], delta=1e-5) <= 8.0
                low, high = (middle, high) if within else (low, middle - 1)
            assert low > 1 and not fits(next_plan(low))
            taken = next(n for n in (low // 2, low // 4, low // 8, 1) if fits(next_plan(n)))
            trainings = [
                TrainingCost(Event(0.05, 1.0, 1), planned=300, charged=300, beta=1e-14),
                TrainingCost(Event(rate, noise, 1), planned=taken, charged=taken, beta=1e-14),
            ]
            assert read_filter(trainings, releases=[COUNTED], epsilon=8.0, delta=1e-5).fits


def test_a_training_s_charges_are_alike_and_no_more_than_were_planned(tmp_path: Path) -> None:
    """What the filter counts for a training is fixed when it starts: nothing may change after results."""
    with open_ledger(tmp_path / "l") as ledger:
        ledger.charge(replace(CHARGE, rounds=2), version=VERSION)
        for change in (
            {"guaranteed_noise_multiplier": 1.9}, {"broken_noise_multiplier": 0.6}, {"sample_rate": 0.2},
            {"rounds": 3}, {"beta": 1e-13}, {"delta": 1e-6}, {"steps": 2},
        ):  # fmt: skip
            with pytest.raises(LedgerError, match="began with another"):
                ledger.charge(replace(CHARGE, **({"rounds": 2, "round_number": 1} | change)), version=VERSION)
        ledger.charge(replace(CHARGE, rounds=2, round_number=1), version=VERSION)
        with pytest.raises(LedgerError, match="has charged all of its"):
            ledger.charge(replace(CHARGE, rounds=2, round_number=2), version=VERSION)
        assert len(_charges(ledger)) == 2


def test_an_entry_says_that_its_noise_was_seeded(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l") as ledger:
        ledger.charge(replace(CHARGE, seeded=True), version=VERSION)
        with pytest.raises(LedgerError, match="other values"):
            ledger.charge(CHARGE, version=VERSION)
        ledger.charge(replace(CHARGE, round_number=1), version=VERSION)
    with open_ledger(tmp_path / "l") as ledger:
        assert [charge.seeded for charge in _charges(ledger)] == [True, False]


def _row(path: Path, sequence: int) -> tuple[Any, ...]:
    with sqlite3.connect(path) as db:
        found: tuple[Any, ...] = db.execute(
            "SELECT sequence, key, payload, hash, signature FROM entries WHERE sequence = ?", (sequence,)
        ).fetchone()
    return found


@pytest.mark.parametrize(
    ("was", "put", "reason"),
    [
        # Booleans and numbers are not interchangeable.
        ('"seeded":false', '"seeded":0', "wrong type"),
        ('"steps":1', '"steps":true', "wrong type"),
        ('"steps":1', '"steps":1,"free":true', "unknown fields"),
        ('"seeded":false,', "", "missing or unknown fields"),
        ('"sequence":2', '"sequence":3', "columns and payload differ"),
        ('"round_number":0', '"round_number":1', "columns and payload differ"),
    ],
)
def test_an_entry_of_another_form_is_refused_though_it_is_signed(
    tmp_path: Path, was: str, put: str, reason: str
) -> None:
    with open_ledger(tmp_path / "l") as ledger:
        previous = ledger.head()[1]
        payload = payload_of(ledger.charge(CHARGE, version=VERSION))
    assert was in payload
    before = _row(tmp_path / "l", 1)
    digest = hashlib.sha256(b"fedrec/ledger/entry/1" + previous + payload.encode()).digest()
    row = (2, CHARGE.key, payload, digest, MacIdentity().sign(digest, context=SIGNING_CONTEXT))
    assert check_rows([before, row], public=b"p" * 32, verify=verify_mac)[0].ok
    changed = payload.replace(was, put)
    digest = hashlib.sha256(b"fedrec/ledger/entry/1" + previous + changed.encode()).digest()
    row = (2, CHARGE.key, changed, digest, MacIdentity().sign(digest, context=SIGNING_CONTEXT))
    assert reason in check_rows([before, row], public=b"p" * 32, verify=verify_mac)[0].reason


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"step": -1}, {"round_number": -1}, {"beta": 1.0}, {"beta": -1e-12}]
)
def test_a_charge_of_no_step_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with open_ledger(tmp_path / "l") as ledger:
        with pytest.raises(LedgerError, match="a charge needs steps"):
            ledger.charge(replace(CHARGE, **change), version=VERSION)
        assert not _charges(ledger)


@pytest.mark.parametrize(
    ("epsilon", "delta", "reason"),
    [
        (8.0, None, "both epsilon and delta"),
        (None, 1e-5, "both epsilon and delta"),
        (0.0, 1e-5, "must be positive"),
        (math.nan, 1e-5, "must be positive"),
        (8.0, 0.0, "is outside"),
        (8.0, 1.0, "is outside"),
        (8.0, math.nan, "is outside"),
    ],
)
def test_a_cap_that_bounds_nothing_is_refused(
    tmp_path: Path, epsilon: float | None, delta: float | None, reason: str
) -> None:
    with open_ledger(tmp_path / "l") as ledger, pytest.raises(LedgerError, match=reason):
        ledger.set_cap(epsilon_lifetime=epsilon, delta_lifetime=delta)
    with pytest.raises(LedgerError, match=reason):
        open_ledger(tmp_path / "l", epsilon, delta)


def test_a_charge_without_noise_is_recorded_without_a_guarantee(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l") as ledger:
        entry = ledger.charge(replace(CHARGE, mode="off", guaranteed_noise_multiplier=0.0), version=VERSION)
        assert (entry.epsilons.spent_after, entry.epsilons.own_epsilon) == (None, None)
        assert ledger.reading().spent == math.inf


def test_sql_refuses_to_change_history(tmp_path: Path) -> None:
    _fill(tmp_path / "l", 2)
    raw = sqlite3.connect(tmp_path / "l")
    for statement in ("DELETE FROM entries WHERE sequence = 2", "UPDATE entries SET payload = ''"):
        with pytest.raises(sqlite3.IntegrityError):
            raw.execute(statement)
    raw.close()


TAMPERINGS = [
    ("UPDATE entries SET payload = replace(payload, '\"steps\":1', '\"steps\":0') WHERE sequence = 3", 3),
    ("UPDATE entries SET payload = replace(payload, '\"sample_rate\":0.1', '\"sample_rate\":0.01')", 2),
    ("UPDATE entries SET signature = zeroblob(64) WHERE sequence = 4", 4),
    ("UPDATE entries SET hash = zeroblob(32) WHERE sequence = 2", 2),
    ("DELETE FROM entries WHERE sequence = 2", 2),
    ("DELETE FROM entries WHERE sequence = 1", 1),
    ("UPDATE entries SET key = 'charge/77' WHERE sequence = 5", 5),
    ("UPDATE entries SET payload = replace(payload, '\"size\":750', '\"size\":751')", 1),
    ('UPDATE entries SET payload = replace(payload, \'"kind":"charge"\', \'"kind":"other"\')', 2),
    ("UPDATE entries SET payload = 'no json' WHERE sequence = 5", 5),
    ("UPDATE entries SET payload = '{}' WHERE sequence = 5", 5),
]


@pytest.mark.parametrize(("statement", "first"), TAMPERINGS)
def test_tampering_is_caught_and_named(tmp_path: Path, statement: str, first: int) -> None:
    path = tmp_path / "l"
    _fill(path, 5)
    ledger = open_ledger(path)
    assert ledger.verify().ok
    raw = sqlite3.connect(path)
    raw.executescript("DROP TRIGGER entries_no_update; DROP TRIGGER entries_no_delete;")
    assert raw.execute(statement).rowcount >= 1
    raw.commit()
    raw.close()
    for outcome in (ledger.verify(), read_entries(path, public=b"p" * 32, verify=verify_mac)[0]):
        assert not outcome.ok
        assert outcome.first_failure == first
        assert outcome.entries == first - 1
        assert str(first) in outcome.reason
    ledger.close()
    with pytest.raises(LedgerError, match="broken"):
        open_ledger(path)


def test_a_ledger_truncated_while_it_is_open_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "l"
    _fill(path, 3)
    with open_ledger(path) as ledger:
        raw = sqlite3.connect(path)
        raw.executescript("DROP TRIGGER entries_no_delete; DELETE FROM entries WHERE sequence = 3;")
        raw.close()
        assert ledger.verify().first_failure == 3


def test_rewriting_the_whole_chain_needs_the_key(tmp_path: Path) -> None:
    _fill(tmp_path / "l", 2)
    outcome, _ = read_entries(tmp_path / "l", public=b"q" * 32, verify=verify_mac)
    assert outcome.first_failure == 1
    with pytest.raises(LedgerError, match=r"entry 1|not signed"):
        Ledger(tmp_path / "l", signer=MacIdentity(b"q" * 32), verify=verify_mac)


_CHILD = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from tests.support.ledgers import open_ledger, CHARGE, VERSION
ledger = open_ledger(Path({path!r}))
ledger.charge(CHARGE, version=VERSION)
print("charged", flush=True)
import time; time.sleep(60)
"""


def test_kill_9_after_a_charge_and_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "l"
    code = textwrap.dedent(_CHILD.format(tests=str(ROOT), path=str(path)))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "charged\n"
        with pytest.raises(LedgerError, match="another process"):
            open_ledger(path)
        outcome, entries = read_entries(path, public=b"p" * 32, verify=verify_mac)
        assert outcome.ok
        assert len(charges(entries)) == 1
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with open_ledger(path) as ledger:
        assert ledger.charge(CHARGE, version=VERSION).already_charged
        with pytest.raises(LedgerError, match="another process"):
            open_ledger(path)


@pytest.fixture
def compositions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was composed afresh, in order."""
    done: list[str] = []
    real = LossSum.composed

    def counted(self: LossSum) -> Losses:
        done.append("composed")
        return real(self)

    monkeypatch.setattr(LossSum, "composed", counted)
    return done


def test_a_prepared_charge_needs_no_composition(tmp_path: Path, compositions: list[str]) -> None:
    path = tmp_path / "l"
    with open_ledger(path, 1e6, 1e-5) as ledger:
        for i in range(4):
            ledger.charge(
                replace(CHARGE, training_id=f"3{i}" * 32, guaranteed_noise_multiplier=2.0 + i / 10),
                version=VERSION,
            )
    other = replace(CHARGE, training_id="22" * 32, guaranteed_noise_multiplier=1.7, rounds=31)
    with open_ledger(path, 1e6, 1e-5) as ledger:
        ledger.check_ahead(other)
        ledger.prepare(other)
        assert compositions
        ledger.charge(replace(other, round_number=0), version=VERSION)
        del compositions[:]
        entry = [ledger.charge(replace(other, round_number=i), version=VERSION) for i in range(1, 31)][-1]
        assert compositions == []
        # What was looked up is what composing everything afresh gives.
        exact = epsilon_pld([Event(0.1, 1.7, 31)], delta=1e-5 - 31e-12)
        assert entry.epsilons.own_epsilon == pytest.approx(exact, rel=1e-3)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"hello" * 1000)
    with pytest.raises(LedgerError, match="cannot be opened"):
        open_ledger(tmp_path / "l")
    with pytest.raises(LedgerError, match="cannot be read as a ledger"):
        read_entries(tmp_path / "l", public=b"p" * 32, verify=verify_mac)
    with pytest.raises(LedgerError, match="does not exist"):
        read_entries(tmp_path / "absent", public=b"p" * 32, verify=verify_mac)
    with open_ledger(tmp_path / "good") as ledger, pytest.raises(LedgerError, match="can't be encoded"):
        ledger.charge(replace(CHARGE, clip=math.nan), version=VERSION)


def test_a_ledger_of_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l"
    _fill(path, 1)
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 9")
    raw.close()
    with pytest.raises(LedgerError, match="has format 9"):
        open_ledger(path)


def test_a_ledger_put_back_to_an_older_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l"
    _fill(path, 2)
    older, older_head = path.read_bytes(), head_path(path).read_bytes()
    _fill(path, 5)
    newest = path.read_bytes()
    path.write_bytes(older)
    with pytest.raises(LedgerError, match="older state"):
        open_ledger(path)
    path.write_bytes(newest)
    kept = head_path(path).read_bytes()
    head_path(path).unlink()
    with pytest.raises(LedgerError, match=r"head file beside .* is missing"):
        open_ledger(path)
    head_path(path).write_bytes(kept.replace(b'"entries":6', b'"entries":2'))
    with pytest.raises(LedgerError, match="not signed by this merchant"):
        open_ledger(path)
    # A crash between the entry and its head leaves an older head: that one is brought up to date.
    head_path(path).write_bytes(older_head)
    with open_ledger(path) as ledger:
        assert ledger.head()[0] == 6
    assert head_path(path).read_bytes() == kept


def _receipt(ledger: Ledger, server: SigningIdentity, round_number: int = 1) -> Receipt:
    head = ledger.signed_head(
        training_id="ab" * 32, round_number=round_number, merchant="m0", moment="charged"
    )
    signature = server.sign(head.canonical_bytes(), context=RECEIPT_CONTEXT)
    return Receipt(head=head, server_key=server.public.hex(), signature=signature.hex())


def _open_real(path: Path, identity: SigningIdentity) -> Ledger:
    made_ledger(path, identity)
    return Ledger(path, signer=identity, verify=verify)


def test_a_receipt_detects_a_restored_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, identity, server = tmp_path / "l", SigningIdentity.generate(), SigningIdentity.generate()
    with _open_real(path, identity) as ledger:
        ledger.accept_receipt(_receipt(ledger, server))
        ledger.charge(CHARGE, version=VERSION)
    whole_disk = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with _open_real(path, identity) as ledger:
        ledger.charge(replace(CHARGE, round_number=2), version=VERSION)
        receipt = _receipt(ledger, server, 2)
        ledger.accept_receipt(receipt)
        ledger.charge(replace(CHARGE, round_number=3), version=VERSION)
        ledger.accept_receipt(receipt)
    for file, content in whole_disk.items():
        file.write_bytes(content)
    with _open_real(path, identity) as ledger:
        with pytest.raises(LedgerError, match="receipt of round 2"):
            ledger.accept_receipt(receipt)
        charge = replace(CHARGE, round_number=4)
        for write in (
            lambda: ledger.charge(charge, version=VERSION),
            lambda: ledger.charge(CHARGE, version=VERSION),
            lambda: ledger.check_ahead(charge),
            lambda: ledger.release(COUNT),
            lambda: ledger.answer(Answer(CHARGE.training_id, round_number=1, request_hash="00" * 32)),
            lambda: ledger.accept_receipt(receipt),
            ledger.verify,
        ):
            with pytest.raises(LedgerError, match="receipt of round 2"):
                write()
    with pytest.raises(LedgerError, match="receipt of round 2"):
        _open_real(path, identity)
    # Also where the disk is too full to write down what was learnt.
    for file, content in whole_disk.items():
        file.write_bytes(content)
    with _open_real(path, identity) as ledger, monkeypatch.context() as patch:
        patch.setattr(ledger._chain, "_write_head", _raise_full)
        with pytest.raises(LedgerError, match="full"):
            ledger.accept_receipt(receipt)
        assert not ledger.usable
        with pytest.raises(LedgerError, match="receipt of round 2"):
            ledger.charge(replace(CHARGE, round_number=4), version=VERSION)


def _raise_full() -> None:
    raise LedgerError("the disk is full")


def test_a_closed_ledger_takes_no_receipt_and_writes_nothing(tmp_path: Path) -> None:
    """Another process may have it open by then."""
    path, server = tmp_path / "l", SigningIdentity.generate()
    ledger = _open_real(path, SigningIdentity.generate())
    receipt = _receipt(ledger, server)
    ledger.close()
    files = path.read_bytes(), head_path(path).read_bytes()
    for use in (
        lambda: ledger.accept_receipt(receipt),
        lambda: ledger.charge(CHARGE, version=VERSION),
        lambda: ledger.check_ahead(CHARGE),
        ledger.verify,
    ):
        with pytest.raises(LedgerError, match="is closed"):
            use()
    assert (path.read_bytes(), head_path(path).read_bytes()) == files


def test_a_clock_that_is_set_back_dates_no_entry_before_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = [datetime(2026, 3, 1, hour, tzinfo=UTC) for hour in (8, 9, 12, 10, 13)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return moments.pop(0)

    monkeypatch.setattr(ledger_history, "datetime", Clock)
    _fill(tmp_path / "l", 4)
    _, entries = read_entries(tmp_path / "l", public=MacIdentity().public, verify=verify_mac)
    assert [entry.created_at[11:16] for entry in entries] == ["08:00", "09:00", "12:00", "12:00", "13:00"]


def test_a_server_cannot_forge_a_receipt(tmp_path: Path) -> None:
    identity, server = SigningIdentity.generate(), SigningIdentity.generate()
    with _open_real(tmp_path / "l", identity) as ledger:
        good = _receipt(ledger, server)
        statement = good.head.statement.model_copy(update={"head_hash": "77" * 32})
        forged = good.head.model_copy(update={"statement": statement})
        signature = server.sign(forged.canonical_bytes(), context=RECEIPT_CONTEXT).hex()
        with pytest.raises(ProtocolError, match="didn't sign"):
            ledger.accept_receipt(good.model_copy(update={"head": forged, "signature": signature}))
        with pytest.raises(ProtocolError, match="not signed by the key"):
            ledger.accept_receipt(good.model_copy(update={"signature": "00" * 64}))
        ledger.charge(CHARGE, version=VERSION)


def test_units_are_never_added_up(tmp_path: Path) -> None:
    for first, second in (("record", "product"), ("product", "record")):
        path = tmp_path / first
        # No epsilon would be of either unit.
        made_ledger(path, unit=first)
        with Ledger(path, signer=MacIdentity(), verify=verify_mac) as ledger:
            ledger.charge(replace(CHARGE, unit=first), version=VERSION)
            with pytest.raises(RefusedError, match=f"protects a {second}"):
                ledger.charge(replace(CHARGE, round_number=1, unit=second), version="b2" * 32)
            with pytest.raises(RefusedError, match="its unit is not"):
                ledger.release(replace(COUNT, unit=second))
            ledger.charge(replace(CHARGE, round_number=1, unit=first), version=VERSION)
            assert len(_charges(ledger)) == 2


def test_charges_of_every_dataset_version_count_together(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l") as ledger:
        ledger.charge(CHARGE, version=VERSION)
        ledger.charge(replace(CHARGE, round_number=1), version="a2" * 32)
        assert ledger.reading().spent == pytest.approx(_filtered([2]))


def test_entries_hold_what_was_spent_before_and_after_and_their_training_s_own(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l", 7.0, 1e-5) as ledger:
        count = ledger.entries()[0]
        entries = [ledger.charge(replace(CHARGE, round_number=i), version=VERSION) for i in range(3)]
    assert isinstance(count, CountEntry)
    assert count.epsilons.own_epsilon == pytest.approx(epsilon_pld([COUNTED], delta=1e-5))
    assert count.epsilons.spent_after == pytest.approx(epsilon_pld([COUNTED], delta=1e-5 / 32))
    assert (count.epsilons.cap_epsilon, count.epsilons.delta) == (NOMINAL_EPSILON, 1e-5)
    for number, entry in enumerate(entries, start=1):
        found = entry.epsilons
        assert (found.cap_epsilon, found.delta) == (7.0, 1e-5)
        assert found.spent_before == pytest.approx(_filtered([number - 1] if number > 1 else [], epsilon=7.0))
        assert found.spent_after == pytest.approx(_filtered([number], epsilon=7.0))
        own = epsilon_pld([Event(0.1, 2.0, number)], delta=1e-5 - number * 1e-12)
        assert found.own_epsilon == pytest.approx(own, rel=1e-6)


_DIES = """
import os, signal, sys; sys.path.insert(0, {tests!r})
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from fedrec.privacy.accounting.entry_contents import Answer
from tests.support.ledgers import CHARGE, Ledger, VERSION, MacIdentity, made_ledger, verify_mac
for point in range({first}, {first} + 100):
    if os.fork() == 0:
        left = [point]
        def on_event(event):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        path = made_ledger(Path({folder!r}) / str(point))
        ledger = Ledger(path, signer=MacIdentity(), verify=verify_mac, on_event=on_event)
        for i in range(2):
            if i:
                ledger.answer(Answer("ab" * 32, i, "cd" * 32))
            else:
                ledger.charge(replace(CHARGE, round_number=i), version=VERSION)
            (Path({folder!r}) / f"{{point}}.told").write_text(str(i + 1))
        os._exit(0)
    if os.wait()[1] == 0:
        break
"""


def test_killed_at_every_write_point(tmp_path: Path) -> None:
    code = _DIES.format(tests=str(ROOT), folder=str(tmp_path), first=0)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
    points = [file for file in tmp_path.iterdir() if file.name.isdigit()]
    # A charge and an answer have 7 steps each: all were stopped at, and one more child came through.
    assert len(points) == 2 * 7 + 1
    seen = set()
    for path in points:
        told = path.with_name(path.name + ".told")
        returned = int(told.read_text()) if told.exists() else 0
        with open_ledger(path) as ledger:
            assert ledger.verify().ok
            # Nothing that was returned is lost, and at most the one under way stands besides.
            before = len(ledger.entries()) - 1
            assert before in (returned, returned + 1)
            seen.add((returned, before))
            assert ledger.charge(CHARGE, version=VERSION).already_charged == (before > 0)
            assert ledger.has_answer("ab" * 32, 1) == (before > 1)
            ledger.charge(replace(CHARGE, round_number=9), version=VERSION)
            assert ledger.verify().ok
    assert seen == {(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)}


def test_a_commit_is_durable_when_it_returns(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l") as ledger:
        connection = _database(ledger)
        # 3 is EXTRA: FULL, and the folder is synced once the journal is gone.
        assert connection.execute("PRAGMA synchronous").fetchone() == (3,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_power_cut_during_a_charge_leaves_the_previous_state(tmp_path: Path) -> None:
    """The disk as a power cut would leave it: pages half written, and the journal that takes them back."""
    path, cut = tmp_path / "here" / "l", tmp_path / "cut"
    path.parent.mkdir()
    _fill(path, 5)
    before = path.read_bytes()

    def on_event(event: str) -> None:
        if event == "begun":
            # So small a cache that pages go to the disk before the commit.
            _database(ledger).execute("PRAGMA cache_size = 1")
        if event == "inserted":
            assert path.read_bytes() != before
            shutil.copytree(path.parent, cut)

    with Ledger(path, signer=MacIdentity(), verify=verify_mac, on_event=on_event) as ledger:
        ledger.charge(replace(CHARGE, round_number=50, duplicate_policy="x" * 400_000), version=VERSION)
    assert (cut / "l-journal").stat().st_size > 0
    with open_ledger(cut / "l") as ledger:
        assert ledger.verify().ok
        assert [charge.round_number for charge in _charges(ledger)] == [0, 1, 2, 3, 4]
        assert not ledger.charge(replace(CHARGE, round_number=50), version=VERSION).already_charged


def test_a_failing_disk_is_a_ledger_error_and_the_disk_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with open_ledger(path) as ledger:
        ledger.charge(CHARGE, version=VERSION)
        # Another program holds the file locked.
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        _database(ledger).execute("PRAGMA busy_timeout = 10")
        with pytest.raises(LedgerError, match=r"cannot be written .*locked"):
            ledger.charge(replace(CHARGE, round_number=1), version=VERSION)
        blocker.execute("ROLLBACK")
        blocker.close()
        ledger.charge(replace(CHARGE, round_number=1), version=VERSION)
        # The disk is full: SQLite says so once the file may not grow.
        pages = _database(ledger).execute("PRAGMA page_count").fetchone()[0]
        _database(ledger).execute(f"PRAGMA max_page_count = {pages}")
        done = 2
        with pytest.raises(LedgerError, match=r"cannot be written .*full"):
            while True:
                ledger.charge(replace(CHARGE, round_number=done), version=VERSION)
                done += 1
        _database(ledger).execute("PRAGMA max_page_count = 1000000")
        assert not ledger.charge(replace(CHARGE, round_number=done), version=VERSION).already_charged
        assert ledger.verify().entries == done + 2


_MAKING = """
import os, signal, sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from tests.support.ledgers import COUNT, create_ledger, MacIdentity
for point in range(100):
    if os.fork() == 0:
        left = [point]
        def on_event(event):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        create_ledger(Path({folder!r}) / str(point), signer=MacIdentity(), count=COUNT, on_event=on_event)
        os._exit(0)
    if os.wait()[1] == 0:
        break
"""


def test_a_ledger_whose_making_was_killed_is_refused_and_never_begun_anew(tmp_path: Path) -> None:
    code = _MAKING.format(tests=str(ROOT), folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
    points = sorted((file for file in tmp_path.iterdir() if file.name.isdigit()), key=lambda p: int(p.name))
    assert len(points) > 5
    opened = 0
    for path in points:
        try:
            with Ledger(path, signer=MacIdentity(), verify=verify_mac) as ledger:
                # Only with its count in it, and its head.
                assert len(ledger.entries()) == 1
                opened += 1
        except LedgerError as error:
            assert "never replaced" in str(error)
        with pytest.raises(LedgerError, match="created once"):
            create_ledger(path, signer=MacIdentity(), count=COUNT)
    assert 1 <= opened < len(points)


@pytest.mark.parametrize("gone", ["database", "head", "both", "emptied", "emptied, and no head"])
def test_a_ledger_that_is_gone_is_not_begun_anew(tmp_path: Path, gone: str) -> None:
    path = tmp_path / "l"
    _fill(path, 2)
    if gone in ("database", "both"):
        path.unlink()
    if gone in ("head", "both", "emptied, and no head"):
        head_path(path).unlink()
    if gone.startswith("emptied"):
        path.write_bytes(b"")
    here = sorted(file.name for file in tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"missing|is empty") as refused:
            Ledger(path, signer=MacIdentity(), verify=verify_mac)
        assert "never replaced" in str(refused.value) and "A lost ledger" in str(refused.value)
        if gone != "head":
            with pytest.raises(LedgerError, match="never replaced"):
                read_entries(path, public=MacIdentity().public, verify=verify_mac)
    assert sorted(file.name for file in tmp_path.iterdir()) == here


def test_a_ledger_without_entries_is_refused(tmp_path: Path) -> None:
    """Whoever empties the table by hand, and the head with it, opens nothing at zero."""
    path = tmp_path / "l"
    _fill(path, 1)
    raw = sqlite3.connect(path)
    raw.executescript(
        "DROP TRIGGER entries_no_delete; DROP TRIGGER opening_no_delete;"
        " DELETE FROM opening; DELETE FROM entries;"
    )
    raw.close()
    write_head(head_path(path), head_of([], public=MacIdentity().public, receipt=None), signer=MacIdentity())
    with pytest.raises(LedgerError, match="no release"):
        Ledger(path, signer=MacIdentity(), verify=verify_mac)
    with pytest.raises(LedgerError, match="holds no entry"):
        read_entries(path, public=MacIdentity().public, verify=verify_mac)


def test_a_release_is_charged_each_time_and_the_last_one_holds(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l", 1.5, 1e-5) as ledger:
        total = ledger.reading().spent
        assert total == pytest.approx(epsilon_pld([COUNTED], delta=1e-5 / 32))
        for number in (2, 3):
            entry = ledger.release(replace(COUNT, size=700 + number))
            assert entry.count.number == number
            total += epsilon_pld([COUNTED], delta=1e-5 / 16 / (number * (number + 1)))
            assert entry.epsilons.spent_after == pytest.approx(total)
        assert ledger.reading() == ledger.reading(view="aggregation_broken")
        assert not ledger.begun
        done = 3
        with pytest.raises(BudgetExceededError, match="over the cap"):
            while True:
                ledger.release(COUNT)
                done += 1
        assert len(ledger.entries()) == done
        # A charge finds what the counts have spent.
        with pytest.raises(BudgetExceededError, match="over the cap"):
            ledger.charge(replace(CHARGE, sample_rate=1.0), version=VERSION)
    with Ledger(tmp_path / "l", signer=MacIdentity(), verify=verify_mac) as ledger:
        assert last_count(ledger.entries()) == replace(COUNT, number=done)


def test_a_first_release_over_the_cap_makes_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(BudgetExceededError, match="over the cap"):
        create_ledger(
            tmp_path / "l", signer=MacIdentity(), count=COUNT, epsilon_lifetime=0.01, delta_lifetime=1e-5
        )
    assert list(tmp_path.iterdir()) == []


def test_a_round_is_answered_once_whatever_the_request(tmp_path: Path) -> None:
    first = Answer(training_id="ab" * 32, round_number=1, request_hash="11" * 32)
    with open_ledger(tmp_path / "l") as ledger:
        spent = ledger.reading()
        ledger.answer(first)
        for again in (first, replace(first, request_hash="22" * 32)):
            with pytest.raises(RefusedError, match="already has an answer"):
                ledger.answer(again)
        ledger.answer(replace(first, round_number=2))
        ledger.answer(replace(first, training_id="cd" * 32))
        assert ledger.reading() == spent
        assert ledger.begun
        with pytest.raises(LedgerError, match="request_hash has a wrong type"):
            ledger.answer(replace(first, round_number=3, request_hash=7))  # type: ignore[arg-type]
    with open_ledger(tmp_path / "l") as ledger:
        assert ledger.verify().entries == 4
        with pytest.raises(RefusedError, match="already has an answer"):
            ledger.answer(replace(first, request_hash="33" * 32))


def test_entries_reveal_nothing_about_changes_of_the_photos(tmp_path: Path) -> None:
    same, other = "5a" * 32, "6b" * 32
    with Ledger(made_ledger(tmp_path / "l"), signer=MacIdentity(), verify=verify_mac) as ledger:
        versions = [same, same, other, same]
        entries = [
            ledger.charge(replace(CHARGE, round_number=i), version=version)
            for i, version in enumerate(versions)
        ]
    assert len({entry.data for entry in entries}) == 4
    for entry in entries:
        payload = payload_of(entry)
        assert same not in payload and other not in payload
        # Without the salt, a right guess is not told from a wrong one.
        guesses = (version + context for version in versions for context in ("", "fedrec/ledger/data/1"))
        assert entry.data not in {hashlib.sha256(guess.encode()).hexdigest() for guess in guesses}
    opened = read_openings(tmp_path / "l")
    assert [opened[entry.sequence].version for entry in entries] == versions
    assert all(opened[entry.sequence].opens(entry.data) for entry in entries)
    assert len({opening.salt for opening in opened.values()}) == 4
    assert not opened[entries[0].sequence].opens(entries[1].data)


def test_a_changed_opening_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "l"
    _fill(path, 2)
    for statement in (
        "UPDATE opening SET version = 'another' WHERE sequence = 3",
        "DELETE FROM opening WHERE sequence = 3",
    ):
        raw = sqlite3.connect(path)
        with pytest.raises(sqlite3.IntegrityError):
            raw.execute(statement)
        raw.executescript(
            f"DROP TRIGGER opening_no_update; DROP TRIGGER opening_no_delete; {statement};"
            "CREATE TRIGGER opening_no_update BEFORE UPDATE ON opening BEGIN SELECT RAISE(ABORT, ''); END;"
            "CREATE TRIGGER opening_no_delete BEFORE DELETE ON opening BEGIN SELECT RAISE(ABORT, ''); END;"
        )
        raw.close()
        with pytest.raises(LedgerError, match="opening of entry 3"):
            open_ledger(path)


def test_a_ledger_is_in_use_while_it_is_open(tmp_path: Path) -> None:
    path = made_ledger(tmp_path / "ledger.sqlite")
    check_not_in_use(path)
    with open_ledger(path):
        assert in_use(path)
        with pytest.raises(LedgerError, match="in use by another process"):
            check_not_in_use(path)
    check_not_in_use(path)


def test_a_ledger_ends_with_the_key_of_its_last_exchange_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    first, second, third = (SigningIdentity.generate() for _ in range(3))
    assert not ends_with_key(path, first.public)
    create_ledger(path, signer=first, count=COUNT)
    # A ledger begins with a key, and has exchanged none for it.
    assert not ends_with_key(path, first.public)
    for old, new in ((first, second), (second, third)):
        with Ledger(path, signer=old, verify=verify) as ledger:
            ledger.rotate(sign_rotation("shop", old=old, new=new), signer=new)
    assert ends_with_key(path, third.public)
    assert not ends_with_key(path, second.public)
