"""The lifetime ledger: durable, append-only, signed, one writer, capped."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedrec.errors import BudgetExceededError, LedgerError
from fedrec.privacy.accounting.accountants import Event, epsilon_pld, epsilon_rdp
from fedrec.privacy.accounting.ledger import Charge, Ledger, read_entries, verify_file


class _Identity:
    """A stand-in with the interface of a signing identity; a MAC serves as the signature."""

    def __init__(self, public: bytes = b"p" * 32) -> None:
        self.public = public

    def sign(self, message: bytes, *, context: bytes) -> bytes:
        return hmac.new(b"secret" + self.public, context + b"|" + message, hashlib.sha512).digest()


def _verify(public: bytes, message: bytes, signature: bytes, *, context: bytes) -> bool:
    return hmac.compare_digest(_Identity(public).sign(message, context=context), signature)


CHARGE = Charge(
    training_id="ab" * 32, round_number=0, model_hash="cd" * 32, mode="distributed", unit="record",
    adjacency="add-remove", duplicate_policy="drop", sample_rate=0.1, clip=1.0, planned_noise_multiplier=2.0,
    guaranteed_noise_multiplier=2.0, broken_noise_multiplier=0.7, beta=1e-12, scale=2048, sensitivity=2085.0,
    min_contributors=8, colluders=1, delta=1e-5,
)  # fmt: skip


def _open(path: Path, epsilon: float | None = None, delta: float | None = None) -> Ledger:
    return Ledger(path, signer=_Identity(), verify=_verify, epsilon_lifetime=epsilon, delta_lifetime=delta)


def _fill(path: Path, count: int = 5) -> None:
    with _open(path) as ledger:
        for i in range(count):
            ledger.charge(replace(CHARGE, round_number=i))


def test_charges_survive_and_compose(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    _fill(path, 4)
    with _open(path) as ledger:
        last = ledger.charge(replace(CHARGE, round_number=4, guaranteed_noise_multiplier=1.0, steps=3))
        assert [entry.sequence for entry in ledger.entries()] == [1, 2, 3, 4, 5]
        left = 1e-5 - 7e-12
        events = [Event(0.1, 2.0, 4), Event(0.1, 1.0, 3)]
        assert ledger.epsilon(delta=1e-5) == pytest.approx(epsilon_pld(events, delta=left), rel=1e-9)
        assert ledger.epsilon_rdp(delta=1e-5) == pytest.approx(epsilon_rdp(events, delta=left), rel=1e-9)
        assert last.epsilon_rdp == pytest.approx(epsilon_rdp(events, delta=left), rel=1e-9)
        broken = epsilon_pld([Event(0.1, 0.7, 7)], delta=left)
        assert ledger.epsilon(delta=1e-5, view="aggregation_broken") == pytest.approx(broken, rel=1e-9)
        assert ledger.epsilon(delta=1e-12) == math.inf
        assert ledger.verify().ok


def test_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    old = os.umask(0)
    try:
        _fill(path, 1)
    finally:
        os.umask(old)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_idempotent_by_key(tmp_path: Path) -> None:
    with _open(tmp_path / "l") as ledger:
        first = ledger.charge(CHARGE)
        again = ledger.charge(CHARGE)
        assert again.already_charged
        assert not first.already_charged
        assert again.hash == first.hash
        assert len(ledger.entries()) == 1
        with pytest.raises(LedgerError):
            ledger.charge(replace(CHARGE, guaranteed_noise_multiplier=3.0))
        ledger.charge(replace(CHARGE, step=1))
        ledger.charge(replace(CHARGE, training_id="00" * 32))
        assert len(ledger.entries()) == 3
    with _open(tmp_path / "l") as ledger:
        assert ledger.charge(CHARGE).already_charged


def test_cap_is_never_passed(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with _open(path, 2.0, 1e-5) as ledger:
        done = 0
        with pytest.raises(BudgetExceededError):
            while True:
                ledger.charge(replace(CHARGE, round_number=done))
                done += 1
        assert len(ledger.entries()) == done > 3
        left = 1e-5 - (done + 1) * 1e-12
        assert epsilon_rdp([Event(0.1, 2.0, done)], delta=left) <= 2.0
        assert epsilon_rdp([Event(0.1, 2.0, done + 1)], delta=left) > 2.0
        with pytest.raises(BudgetExceededError):
            ledger.charge(replace(CHARGE, round_number=9999, mode="off", guaranteed_noise_multiplier=0.0))
        assert ledger.charge(CHARGE).already_charged
    # It spans restarts and trainings.
    with _open(path, 2.0, 1e-5) as ledger, pytest.raises(BudgetExceededError):
        ledger.charge(replace(CHARGE, training_id="11" * 32))
    assert verify_file(path, public=b"p" * 32, verify=_verify).entries == done


def test_no_noise_is_written_as_no_guarantee(tmp_path: Path) -> None:
    with _open(tmp_path / "l") as ledger:
        entry = ledger.charge(replace(CHARGE, mode="off", guaranteed_noise_multiplier=0.0))
        assert entry.epsilon_rdp is None
        assert ledger.epsilon(delta=1e-5) == math.inf


def test_sql_refuses_to_change_history(tmp_path: Path) -> None:
    _fill(tmp_path / "l", 2)
    raw = sqlite3.connect(tmp_path / "l")
    for statement in ("DELETE FROM entries WHERE sequence = 2", "UPDATE entries SET payload = ''"):
        with pytest.raises(sqlite3.IntegrityError):
            raw.execute(statement)
    raw.close()


TAMPERINGS = [
    ("UPDATE entries SET payload = replace(payload, '\"steps\":1', '\"steps\":0') WHERE sequence = 3", 3),
    ("UPDATE entries SET payload = replace(payload, '\"sample_rate\":0.1', '\"sample_rate\":0.01')", 1),
    ("UPDATE entries SET signature = zeroblob(64) WHERE sequence = 4", 4),
    ("UPDATE entries SET hash = zeroblob(32) WHERE sequence = 2", 2),
    ("DELETE FROM entries WHERE sequence = 2", 2),
    ("DELETE FROM entries WHERE sequence = 1", 1),
    ("UPDATE entries SET round_number = 77 WHERE sequence = 5", 5),
    ("UPDATE entries SET payload = 'no json' WHERE sequence = 5", 5),
    ("UPDATE entries SET payload = '{}' WHERE sequence = 5", 5),
]


@pytest.mark.parametrize(("statement", "first"), TAMPERINGS)
def test_tampering_is_caught_and_named(tmp_path: Path, statement: str, first: int) -> None:
    path = tmp_path / "l"
    _fill(path, 5)
    ledger = _open(path)
    assert ledger.verify().ok
    raw = sqlite3.connect(path)
    raw.executescript("DROP TRIGGER entries_no_update; DROP TRIGGER entries_no_delete;")
    assert raw.execute(statement).rowcount >= 1
    raw.commit()
    raw.close()
    for outcome in (ledger.verify(), verify_file(path, public=b"p" * 32, verify=_verify)):
        assert not outcome.ok
        assert outcome.first_failure == first
        assert outcome.entries == first - 1
        assert str(first) in outcome.reason
    ledger.close()
    with pytest.raises(LedgerError, match="broken"):
        _open(path)


def test_a_cut_tail_is_caught_while_open(tmp_path: Path) -> None:
    path = tmp_path / "l"
    _fill(path, 3)
    with _open(path) as ledger:
        raw = sqlite3.connect(path)
        raw.executescript("DROP TRIGGER entries_no_delete; DELETE FROM entries WHERE sequence = 3;")
        raw.close()
        assert ledger.verify().first_failure == 3


def test_rewriting_the_whole_chain_needs_the_key(tmp_path: Path) -> None:
    _fill(tmp_path / "l", 2)
    outcome = verify_file(tmp_path / "l", public=b"q" * 32, verify=_verify)
    assert outcome.first_failure == 1
    with pytest.raises(LedgerError):
        Ledger(tmp_path / "l", signer=_Identity(b"q" * 32), verify=_verify)


_CHILD = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from test_ledger import _open, CHARGE
ledger = _open(Path({path!r}))
ledger.charge(CHARGE)
print("charged", flush=True)
import time; time.sleep(60)
"""


def test_kill_9_after_a_charge_and_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "l"
    code = textwrap.dedent(_CHILD.format(tests=str(Path(__file__).parent), path=str(path)))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "charged\n"
        with pytest.raises(LedgerError, match="another process"):
            _open(path)
        outcome, entries = read_entries(path, public=b"p" * 32, verify=_verify)
        assert outcome.ok
        assert len(entries) == 1
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with _open(path) as ledger:
        assert ledger.charge(CHARGE).already_charged
        with pytest.raises(LedgerError):
            _open(path)


def test_a_charge_is_fast_after_a_thousand(tmp_path: Path) -> None:
    with _open(tmp_path / "l", 1e6, 1e-5) as ledger:
        for i in range(1000):
            ledger.charge(replace(CHARGE, round_number=i))
        start = time.process_time()
        for i in range(1000, 1020):
            ledger.charge(replace(CHARGE, round_number=i))
        assert (time.process_time() - start) / 20 < 0.01


def test_not_a_ledger(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"hello" * 1000)
    with pytest.raises(LedgerError):
        _open(tmp_path / "l")
    with pytest.raises(LedgerError):
        verify_file(tmp_path / "l", public=b"p" * 32, verify=_verify)
    with pytest.raises(LedgerError):
        verify_file(tmp_path / "absent", public=b"p" * 32, verify=_verify)
    with _open(tmp_path / "good") as ledger, pytest.raises(LedgerError):
        ledger.charge(replace(CHARGE, clip=math.nan))
