"""What a person may see of a merchant's store, also while a daemon writes it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from fedrec.clients.stored import CountedSet, read_counted
from fedrec.errors import LedgerError
from fedrec.protocol.schema import sha256_hex


@dataclass(frozen=True)
class Refusal:
    """What was refused, so many times, the last ``at`` (UTC); why, and the plan if it was one."""

    at: str
    times: int
    kind: str
    reason: str
    plan: bytes | None


@dataclass(frozen=True)
class StoreView:
    """A store's plans, the open one if there is one, and its last refusals; nothing secret.

    ``told`` says what became of the photos in the open training, None before its set is fixed; ``forgotten``
    is how many photos the merchant leaves out of every step.
    """

    plans: tuple[bytes, ...] = ()
    open_plan: bytes | None = None
    refusals: tuple[Refusal, ...] = ()
    told: str | None = None
    counted: CountedSet | None = None
    forgotten: int = 0


def read_store(path: Path) -> StoreView:
    """Read what a person may see of a store that a daemon may be writing; empty where there is none.

    Raises ``LedgerError`` when it can't be read.
    """
    if not path.is_file():
        return StoreView()
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            trainings = db.execute("SELECT plan, closed FROM training ORDER BY rowid").fetchall()
            rows = db.execute("SELECT at, times, kind, reason, plan FROM refusal ORDER BY number")
            open_plan: bytes | None = next((plan for plan, closed in reversed(trainings) if not closed), None)
            told = (
                None
                if open_plan is None
                else db.execute(
                    "SELECT told FROM fixed_set WHERE training_id = ?", (sha256_hex(open_plan),)
                ).fetchone()
            )
            return StoreView(
                plans=tuple(plan for plan, _ in trainings),
                open_plan=open_plan,
                refusals=tuple(Refusal(*row) for row in rows),
                told=None if told is None else told[0],
                counted=read_counted(db),
                forgotten=db.execute("SELECT count(*) FROM forgotten").fetchone()[0],
            )
        finally:
            db.close()
    except sqlite3.Error as error:
        raise LedgerError(f"the merchant's store {path} can't be read: {error}") from None
