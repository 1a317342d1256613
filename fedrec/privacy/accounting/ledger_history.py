"""A ledger's entries in memory, and what is asked of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from fedrec.privacy.accounting.accountant_registry import ledger_accountants
from fedrec.privacy.accounting.entry_contents import Answer, Charge, Count, answer_key
from fedrec.privacy.accounting.ledger_entries import (
    AnswerEntry,
    ChargeEntry,
    CountEntry,
    Entry,
    Epsilons,
    charges,
    last_count,
)
from fedrec.privacy.accounting.lifetime_spend import Lifetime


class History:
    """All entries, in order, and what was spent in the accountants' terms."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.lifetime = Lifetime()
        self._charges: dict[str, ChargeEntry] = {}
        self._answers: set[str] = set()
        self._version: str | None = None

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        """Return the history of these entries, in their order."""
        history = cls()
        for entry in entries:
            history.add(entry)
        return history

    def add(self, entry: Entry, *, version: str | None = None) -> None:
        """Take in an entry that was written; ``version`` is the one that a charge commits to."""
        self.entries.append(entry)
        if isinstance(entry, ChargeEntry):
            self._charges[entry.charge.key] = entry
            self._version = version
        elif not isinstance(entry, CountEntry):
            self._answers.add(entry.answer.key)
            return
        self.lifetime.add(entry.cost)

    def charge(self, key: str) -> ChargeEntry | None:
        """Return the charge of this key, if it was written."""
        return self._charges.get(key)

    def has_answer(self, training_id: str, round_number: int) -> bool:
        """Whether an answer of this round was written."""
        return answer_key(training_id, round_number) in self._answers

    @property
    def begun(self) -> bool:
        """Whether anything was done besides declaring a size."""
        return bool(self._charges or self._answers)

    @property
    def count(self) -> Count | None:
        """The release that holds."""
        return last_count(self.entries)

    @property
    def version(self) -> str | None:
        """The name of the dataset version of the last charge."""
        return self._version

    def last_round(self, training_id: str) -> int:
        """Return the last round of a training that was charged, 0 if none."""
        done = (entry.charge for entry in self._charges.values())
        return max((charge.round_number for charge in done if charge.training_id == training_id), default=0)

    def rounds_since(self, moment: datetime) -> int:
        """Return how many rounds were charged at ``moment`` (with a time zone) or later."""
        start = moment.astimezone(UTC).isoformat(timespec="seconds")
        late: Iterable[ChargeEntry] = (e for e in charges(self.entries) if e.created_at >= start)
        return len({(entry.charge.training_id, entry.charge.round_number) for entry in late})

    def new_charge(self, charge: Charge, epsilons: Epsilons, *, data: str) -> ChargeEntry:
        """Return a charge's entry to be signed; ``data`` is its commitment."""
        return ChargeEntry(
            *self._place(), charge=charge, data=data, accountants=ledger_accountants(), epsilons=epsilons
        )

    def new_count(self, count: Count, epsilons: Epsilons) -> CountEntry:
        """Return a release's entry to be signed."""
        return CountEntry(*self._place(), count=count, accountants=ledger_accountants(), epsilons=epsilons)

    def new_answer(self, answer: Answer) -> AnswerEntry:
        """Return an answer's entry to be signed."""
        return AnswerEntry(*self._place(), answer=answer)

    def _place(self) -> tuple[int, str, bytes, bytes]:
        """The next place in the chain, dated no earlier than the last one, also where a clock ran ahead.

        Readers take an entry that is older than the one before it for tampering.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        at = max(now, self.entries[-1].created_at) if self.entries else now
        return len(self.entries) + 1, at, b"", b""
