"""Keep a ledger's entries in memory and answer queries about them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from fedrec._internal.moments import iso_text
from fedrec.privacy.accounting.accountant_registry import ledger_accountants
from fedrec.privacy.accounting.entry_contents import Answer, Charge, Count, answer_key
from fedrec.privacy.accounting.key_rotation import KeyRotation
from fedrec.privacy.accounting.ledger_entries import (
    AnswerEntry,
    ChargeEntry,
    CountEntry,
    Entry,
    Epsilons,
    RotationEntry,
    charges,
    last_count,
)
from fedrec.privacy.accounting.lifetime_spend import Lifetime


class History:
    """All entries of a ledger and what they spent.

    Attributes:
        entries: the entries, in order.
        lifetime: what they spent, as input of the lifetime filter.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.lifetime = Lifetime()
        self._charges: dict[str, ChargeEntry] = {}
        self._answers: set[str] = set()
        self._version: str | None = None

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        """Build the history of entries, given in their order."""
        history = cls()
        for entry in entries:
            history.add(entry)
        return history

    def add(self, entry: Entry, *, version: str | None = None) -> None:
        """Add an entry that was written.

        Args:
            entry: the entry.
            version: name of the dataset version that a charge commits to; None where it is unknown.
        """
        self.entries.append(entry)
        if isinstance(entry, ChargeEntry):
            self._charges[entry.charge.key] = entry
            self._version = version
        elif isinstance(entry, AnswerEntry):
            self._answers.add(entry.answer.key)
            return
        elif isinstance(entry, RotationEntry):
            return
        self.lifetime.add(entry.cost)

    def charge(self, key: str) -> ChargeEntry | None:
        """Return the entry of a charge by its key; None if there is none."""
        return self._charges.get(key)

    def has_answer(self, training_id: str, round_number: int) -> bool:
        """Tell whether a round was answered.

        Args:
            training_id: the training.
            round_number: the round.

        Returns:
            Whether an answer was written.
        """
        return answer_key(training_id, round_number) in self._answers

    @property
    def begun(self) -> bool:
        """Whether there is any entry besides releases of a count."""
        return bool(self._charges or self._answers)

    @property
    def count(self) -> Count | None:
        """The last released count, which is the valid one."""
        return last_count(self.entries)

    @property
    def version(self) -> str | None:
        """Name of the dataset version of the last charge."""
        return self._version

    def last_round(self, training_id: str) -> int:
        """Return the last charged round of a training; 0 if none was."""
        done = (entry.charge for entry in self._charges.values())
        return max((charge.round_number for charge in done if charge.training_id == training_id), default=0)

    def rounds_since(self, moment: datetime) -> int:
        """Count the rounds charged at ``moment`` (with a time zone) or later."""
        start = iso_text(moment.astimezone(UTC))
        late: Iterable[ChargeEntry] = (e for e in charges(self.entries) if e.created_at >= start)
        return len({(entry.charge.training_id, entry.charge.round_number) for entry in late})

    def new_charge(self, charge: Charge, epsilons: Epsilons, *, data: str) -> ChargeEntry:
        """Build the unsigned entry of a charge.

        Args:
            charge: the charge.
            epsilons: the epsilons before and after it.
            data: commitment to the dataset version.

        Returns:
            The entry, next in the chain.
        """
        return ChargeEntry(
            *self._next_position(),
            charge=charge,
            data=data,
            accountants=ledger_accountants(),
            epsilons=epsilons,
        )

    def new_count(self, count: Count, epsilons: Epsilons) -> CountEntry:
        """Build the unsigned entry of a released count.

        Args:
            count: the release.
            epsilons: the epsilons before and after it.

        Returns:
            The entry, next in the chain.
        """
        return CountEntry(
            *self._next_position(), count=count, accountants=ledger_accountants(), epsilons=epsilons
        )

    def new_answer(self, answer: Answer) -> AnswerEntry:
        """Build the unsigned entry of an answer."""
        return AnswerEntry(*self._next_position(), answer=answer)

    def new_rotation(self, rotation: KeyRotation) -> RotationEntry:
        """Build the unsigned entry of an exchange of keys."""
        return RotationEntry(*self._next_position(), rotation=rotation)

    def _next_position(self) -> tuple[int, str, bytes, bytes]:
        """Return the next position in the chain, dated no earlier than the last entry.

        The clock may be behind the last entry.

        Auditors take an entry that is older than the one before it as a sign of tampering.
        """
        now = iso_text(datetime.now(UTC))
        at = max(now, self.entries[-1].created_at) if self.entries else now
        return len(self.entries) + 1, at, b"", b""
