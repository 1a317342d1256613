"""Read the parts of a party's store that may be shown, even while a daemon writes to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from fedrec.clients.photo_counts import PhotoCounts
from fedrec.clients.store_types import (
    CountedSet,
    FixedSet,
    read_counted,
    read_fixed_set,
    read_photo_counts,
)
from fedrec.errors import LedgerError
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex

_GIVEN_UP: Final = timedelta(days=3)


@dataclass(frozen=True)
class StoredRefusal:
    """A refused request, as the store keeps it.

    Attributes:
        at: time of the last refusal, UTC.
        times: how many times it was refused.
        kind: Flower's type of the request.
        reason: the reason.
        plan: canonical bytes of the refused plan, if the request was a join.
        uploaded_since: whether the party made an upload later: the server has gone on.
        answered_since: whether it helped to open a sum later.
    """

    at: str
    times: int
    kind: str
    reason: str
    plan: bytes | None
    uploaded_since: bool
    answered_since: bool

    def is_old(self, now: datetime) -> bool:
        """Return whether the server has given up: it asks every few seconds while it wants an answer."""
        return now - datetime.fromisoformat(self.at) > _GIVEN_UP


@dataclass(frozen=True)
class StoreView:
    """The contents of a store that may be shown; no secrets.

    Attributes:
        plans: canonical plans of all trainings that were joined, the oldest first.
        open_plan: plan of the open training, if there is one.
        refusals: the last refusals, the oldest first.
        photo_summary: which photos the open training used when they were fixed; None before that.
        photo_counts: what became of the photos since; None before that, and of a store of an older version.
        counted: the records that count as charged; None before the first charge.
        forgotten: number of photos that the merchant leaves out of every step.
        sent: by training and by kind (upload, answer), how many were made and their bytes.
        without_photos: the trainings whose last step used no photo.
    """

    plans: tuple[bytes, ...] = ()
    open_plan: bytes | None = None
    refusals: tuple[StoredRefusal, ...] = ()
    photo_summary: str | None = None
    photo_counts: PhotoCounts | None = None
    counted: CountedSet | None = None
    forgotten: int = 0
    sent: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    without_photos: frozenset[str] = frozenset()


def readable_plan(raw: bytes) -> TrainingPlan | None:
    """Return a stored plan; None if another version of this program stored it in another form."""
    try:
        return TrainingPlan.model_validate_json(raw)
    except ValueError:
        return None


def read_store(path: Path) -> StoreView:
    """Read the parts of a store that may be shown.

    Returns:
        The view; empty if there is no such file.

    Raises:
        LedgerError: the store can't be read.
    """
    if not path.is_file():
        return StoreView()
    with _opened(path) as db:
        trainings = db.execute("SELECT plan, closed FROM training ORDER BY rowid").fetchall()
        open_plan: bytes | None = next((plan for plan, closed in reversed(trainings) if not closed), None)
        fixed = None if open_plan is None else read_fixed_set(db, sha256_hex(open_plan))
        # A store of an older version gets the other tables when its daemon starts.
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        has_counts = open_plan is not None and "photo_counts" in tables
        refusals = _refusals(db) if "refused_after" in tables else ()
        return StoreView(
            plans=tuple(plan for plan, _ in trainings),
            open_plan=open_plan,
            refusals=refusals,
            photo_summary=None if fixed is None else fixed.photo_summary,
            photo_counts=read_photo_counts(db, sha256_hex(open_plan or b"")) if has_counts else None,
            counted=read_counted(db),
            sent=_sent(db) if "sent" in tables else {},
            without_photos=_without_photos(db) if "photo_counts" in tables else frozenset(),
            forgotten=db.execute("SELECT count(*) FROM forgotten").fetchone()[0],
        )


def _refusals(db: sqlite3.Connection) -> tuple[StoredRefusal, ...]:
    rows = db.execute(
        "SELECT at, times, kind, reason, plan, uploads, answers"
        " FROM refusal JOIN refused_after USING (number) ORDER BY number"
    ).fetchall()
    made = {"upload": 0, "answer": 0}
    for by_kind in _sent(db).values():
        for kind, (times, _) in by_kind.items():
            made[kind] += times
    return tuple(
        StoredRefusal(
            at=at,
            times=times,
            kind=kind,
            reason=reason,
            plan=plan,
            uploaded_since=made["upload"] > uploads,
            answered_since=made["answer"] > answers,
        )
        for at, times, kind, reason, plan, uploads, answers in rows
    )


def _sent(db: sqlite3.Connection) -> dict[str, dict[str, tuple[int, int]]]:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for training_id, kind, times, size in db.execute("SELECT training_id, kind, times, bytes FROM sent"):
        found.setdefault(training_id, {})[kind] = (times, size)
    return found


def _without_photos(db: sqlite3.Connection) -> frozenset[str]:
    rows = db.execute("SELECT training_id, counts FROM photo_counts")
    return frozenset(name for name, counts in rows if not PhotoCounts.model_validate_json(counts).used)


@dataclass(frozen=True)
class StoredTags:
    """What decides which photos the open training uses.

    Attributes:
        plan: canonical bytes of the open training's plan; None without one.
        fixed: its fixed set; None before it is fixed.
        forgotten: tags of the photos that the merchant has forgotten.
    """

    plan: bytes | None = None
    fixed: FixedSet | None = None
    forgotten: frozenset[bytes] = frozenset()


def read_tags(path: Path) -> StoredTags:
    """Read what decides which photos the open training uses.

    Returns:
        The tags; none if there is no such file.

    Raises:
        LedgerError: the store can't be read.
    """
    if not path.is_file():
        return StoredTags()
    with _opened(path) as db:
        row = db.execute("SELECT plan FROM training WHERE closed = 0 ORDER BY rowid DESC LIMIT 1").fetchone()
        plan: bytes | None = None if row is None else row[0]
        return StoredTags(
            plan=plan,
            fixed=None if plan is None else read_fixed_set(db, sha256_hex(plan)),
            forgotten=frozenset(tag for (tag,) in db.execute("SELECT tag FROM forgotten")),
        )


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            yield db
    except sqlite3.Error as error:
        raise LedgerError(f"the store {path} can't be read: {error}") from None
