"""Keep what merchants state about keys, for the roster: vouches for others, and exchanges of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

from pydantic import FailFast, Field

from fedrec._internal.files import write_atomically
from fedrec.errors import ConfigError, ServiceError
from fedrec.privacy.endorsements import rotation_holds, vouch_holds
from fedrec.protocol.enrolment import Enrolment, Statement
from fedrec.protocol.plan import Peer
from fedrec.protocol.roster_statements import (
    MAX_ROTATIONS,
    MAX_VOUCHES,
    RosterUpdate,
    SignedRotation,
    SignedVouch,
    key_chain,
)
from fedrec.protocol.schema import Strict, sha256_hex
from fedrec.protocol.stored_record import read_record

_MOST = 100_000


class StatementBook(Strict):
    """All vouches and exchanges of keys that the operator accepted, in the order in which they came.

    Exchanges are kept for good: an old key is never enrolled again. Vouches go when either merchant does.
    """

    vouches: Annotated[tuple[SignedVouch, ...], FailFast(), Field(max_length=_MOST)] = ()
    rotations: Annotated[tuple[SignedRotation, ...], FailFast(), Field(max_length=_MOST)] = ()

    @classmethod
    def read(cls, path: Path) -> StatementBook:
        """Read the file; an empty book if there is none, ``ServiceError`` if it can't be used."""
        return read_record(path, cls, error=ServiceError)

    def write(self, path: Path) -> None:
        """Replace the file."""
        write_atomically(path, self.canonical_bytes())

    def earlier_keys(self, key: str) -> frozenset[str]:
        """Return the keys that a merchant had before a key, 64 hexadecimal digits each."""
        return _earlier([key], self.rotations)

    def check_key(self, enrolment: Enrolment) -> None:
        """Raise ``ConfigError`` if an enrolment's key was exchanged before, or follows from such a key."""
        name, key = enrolment.statement.name, enrolment.statement.signing_key
        following = {signed.statement.old_key: signed.statement.new_key for signed in self.rotations}
        if key in following:
            raise ConfigError(
                f"the identity key in this file of '{name}' was exchanged for another, and is never enrolled "
                "again: ask for the merchant's newest file"
            )
        for signed in enrolment.rotations:
            stated = signed.statement
            if following.get(stated.old_key, stated.new_key) != stated.new_key:
                raise ConfigError(
                    f"this file of '{name}' exchanges a key that was exchanged for another key before: the "
                    "earlier key may be stolen; ask the merchant by another channel"
                )

    def exchange(self, enrolment: Enrolment, before: Statement) -> StatementBook:
        """Add the exchanges that lead from a merchant's enrolled key to a new one.

        Args:
            enrolment: the merchant's new enrolment.
            before: its statement that is enrolled.

        Returns:
            The book with the exchanges.

        Raises:
            ConfigError: they don't lead there, or aren't signed by both keys.
        """
        name = before.name
        chain = key_chain(
            [signed for signed in enrolment.rotations if rotation_holds(signed)],
            merchant=name,
            start=before.signing_key,
            end=enrolment.statement.signing_key,
        )
        if chain is None:
            raise ConfigError(
                f"'{name}' is enrolled with another key, which didn't sign an exchange for the one in this "
                "file: revoke it first, if the merchant says so"
            )
        new = tuple(signed for signed in chain if signed not in self.rotations)
        return self.model_copy(update={"rotations": self.rotations + new})

    def with_vouch(
        self,
        signed: SignedVouch,
        *,
        enrolled: Sequence[Statement],
        roster: Sequence[Peer],
        federation: str,
        today: date,
    ) -> StatementBook:
        """Add a vouch in the place of an earlier one by the same merchant for the same one.

        Args:
            signed: the vouch.
            enrolled: the statements of all enrolled merchants.
            roster: their entries of the roster.
            federation: what identifies this operator's federation.
            today: the day in UTC.

        Returns:
            The book with the vouch.

        Raises:
            ConfigError: the vouch can't count.
        """
        vouch, who = signed.statement, signed.statement.peer.name
        by_name = {entry.name: entry for entry in enrolled}
        entry, voucher = by_name.get(who), by_name.get(vouch.voucher)
        if entry is None:
            raise ConfigError(f"'{who}' is not enrolled here: enrol its enrolment file first")
        if vouch.peer not in roster or vouch.node_key_hash != sha256_hex(entry.node_key.encode()):
            raise ConfigError(
                f"this vouch is for another enrolment file of '{who}' than the one that is enrolled: "
                f"'{vouch.voucher}' must vouch for the newest file"
            )
        if voucher is None or voucher.signing_key != vouch.voucher_key:
            raise ConfigError(f"the key that signed this vouch is not that of '{vouch.voucher}' here")
        if not vouch_holds(signed, federation=federation, today=today):
            raise ConfigError(
                f"this vouch by '{vouch.voucher}' is not valid here: it ended on {vouch.last_day}, is for "
                "another federation, or was changed after it was signed"
            )
        others = tuple(
            other
            for other in self.vouches
            if (other.statement.voucher, other.statement.peer.name) != (vouch.voucher, who)
        )
        return self.model_copy(update={"vouches": (*others, signed)})

    def without(self, name: str) -> StatementBook:
        """Return the book without the vouches for and by a merchant."""
        left = tuple(
            signed
            for signed in self.vouches
            if name not in (signed.statement.voucher, signed.statement.peer.name)
        )
        return self.model_copy(update={"vouches": left})

    def update(self, roster: Sequence[Peer], witnesses: Sequence[Peer] = ()) -> RosterUpdate:
        """Return a roster with the statements that can count for it; of too many, the newest.

        Args:
            roster: the enrolled merchants.
            witnesses: the enrolled witnesses.

        Returns:
            The roster, the witnesses and the statements.
        """
        today = datetime.now(UTC).date()
        keys = {peer.name: peer.signing_key for peer in roster}
        used = {*keys.values(), *_earlier(keys.values(), self.rotations)}
        peers = frozenset(roster)
        vouches = [
            signed
            for signed in self.vouches
            if signed.statement.peer in peers
            and keys.get(signed.statement.voucher) == signed.statement.voucher_key
            and date.fromisoformat(signed.statement.last_day) >= today
        ]
        rotations = [signed for signed in self.rotations if signed.statement.new_key in used]
        return RosterUpdate(
            roster=tuple(roster),
            witnesses=tuple(witnesses),
            vouches=tuple(vouches[-MAX_VOUCHES:]),
            rotations=tuple(rotations[-MAX_ROTATIONS:]),
        )


def _earlier(keys: Iterable[str], rotations: Sequence[SignedRotation]) -> frozenset[str]:
    """Return the keys that some keys were exchanged for, through any number of exchanges."""
    before = {signed.statement.new_key: signed.statement.old_key for signed in rotations}
    found: set[str] = set()
    for key in keys:
        while key in before and before[key] not in found:
            key = before[key]
            found.add(key)
    return frozenset(found)
