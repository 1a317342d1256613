"""Decide which rosters a merchant accepts without a meeting, from what it approved by hand before.

A merchant that a person approved, by comparing a fingerprint, may vouch for new ones. One that was accepted
by vouches may not, so that every merchant on the roster was met by this merchant, or by as many merchants
that this one approved by hand as its policy says. Nothing here reads or writes a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Literal

from pydantic import FailFast, Field

from fedrec._internal.look_alikes import look_alikes
from fedrec._internal.text import listed
from fedrec.privacy.endorsements import rotation_holds, vouch_holds
from fedrec.protocol.plan import Peer
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from fedrec.protocol.roster_statements import RosterUpdate, key_chain
from fedrec.protocol.schema import MAX_PEERS, Hash, PartyName, Strict

_MOST = 100_000


class ApprovedPeer(Strict):
    """A merchant that was accepted: by hand if ``vouchers`` is empty, else on their word.

    ``earlier_keys`` are keys that it had before, none of which is accepted again.
    """

    peer: Peer
    vouchers: Annotated[tuple[PartyName, ...], FailFast(), Field(max_length=MAX_PEERS)] = ()
    earlier_keys: Annotated[tuple[Hash, ...], FailFast(), Field(max_length=_MOST)] = ()

    @property
    def keys(self) -> frozenset[str]:
        """Its key and all earlier ones."""
        return frozenset((self.peer.signing_key, *self.earlier_keys))


class RemovedPeer(Strict):
    """A merchant that left the roster; no statement brings it back, only an approval by hand."""

    name: PartyName
    keys: Annotated[tuple[Hash, ...], FailFast(), Field(max_length=_MOST)]


class Approvals(Strict):
    """Whom a merchant accepted in one federation, and how.

    ``whole_by_hand`` is the fingerprint of the roster that was last approved by hand as a whole.
    """

    version: Literal[1] = 1
    federation: Hash
    whole_by_hand: Hash | None = None
    peers: Annotated[tuple[ApprovedPeer, ...], FailFast(), Field(max_length=_MOST)] = ()
    removed: Annotated[tuple[RemovedPeer, ...], FailFast(), Field(max_length=_MOST)] = ()

    @property
    def vouched(self) -> tuple[ApprovedPeer, ...]:
        """The merchants that were accepted by vouches."""
        return tuple(entry for entry in self.peers if entry.vouchers)

    def by_hand(
        self, roster: Sequence[Peer], witnesses: Sequence[Peer] = (), *, federation: str
    ) -> Approvals:
        """Approve a whole roster, which a person compared with somebody by its fingerprint.

        Args:
            roster: the roster.
            witnesses: its witnesses.
            federation: what identifies its federation; in another one everything begins anew.

        Returns:
            The approvals, in which every merchant of the roster was approved by hand.
        """
        before = self if federation == self.federation else Approvals(federation=federation)
        known = {entry.peer.name: entry for entry in before.peers}
        peers = tuple(
            ApprovedPeer(
                peer=peer,
                earlier_keys=tuple(sorted(known[peer.name].keys - {peer.signing_key}))
                if peer.name in known
                else (),
            )
            for peer in roster
        )
        whole = roster_fingerprint(roster, witnesses)
        return before.with_peers(peers).model_copy(update={"whole_by_hand": whole})

    def with_peers(self, peers: tuple[ApprovedPeer, ...]) -> Approvals:
        """Replace the peers; remember those that are gone, and forget that the others ever were."""
        names = {entry.peer.name for entry in peers}
        keys = {entry.peer.signing_key for entry in peers}
        gone = tuple(
            RemovedPeer(name=entry.peer.name, keys=tuple(sorted(entry.keys)))
            for entry in self.peers
            if entry.peer.name not in names
        )
        removed = tuple(
            entry for entry in (*self.removed, *gone) if entry.name not in names and not keys & {*entry.keys}
        )
        return self.model_copy(update={"peers": peers, "removed": removed})


@dataclass(frozen=True)
class Rules:
    """What a merchant's policy says about rosters.

    Attributes:
        least_vouchers: vouches by merchants approved by hand that a new merchant needs; None if no number
            is enough.
        follow_rotations: whether a merchant's new key is accepted that its old one signed.
    """

    least_vouchers: int | None
    follow_rotations: bool


@dataclass
class Review:
    """What accepting a roster would mean.

    Attributes:
        approvals: the approvals with this roster; they hold only where there are no problems.
        changes: what changed, a line each.
        problems: what nothing but an approval by hand settles, a line each.
    """

    approvals: Approvals
    changes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def review(approvals: Approvals, update: RosterUpdate, *, own: Peer, rules: Rules, today: date) -> Review:
    """Decide whether a roster follows from what was approved, by the statements that come with it.

    Every vouch is weighed against the approvals before this roster: nobody counts on the word of somebody who
    comes with it. A voucher counts once, by its present key, while it is on the roster.

    Args:
        approvals: what was approved so far.
        update: the roster and its statements.
        own: this merchant's name and present key. Its own vouch is an approval by hand.
        rules: what its policy says.
        today: the day in UTC.

    Returns:
        The outcome.
    """
    return _Reviewing(approvals, update, own=own, rules=rules, today=today).outcome()


class _Reviewing:
    """The decision about one roster; see :func:`review`."""

    def __init__(
        self, approvals: Approvals, update: RosterUpdate, *, own: Peer, rules: Rules, today: date
    ) -> None:
        self._before, self._update, self._own, self._rules = approvals, update, own, rules
        self._known = {entry.peer.name: entry for entry in approvals.peers}
        self._rotations = [signed for signed in update.rotations if rotation_holds(signed)]
        self._review = Review(approvals)
        self._vouchers: dict[Peer, set[str]] = {}
        for signed in update.vouches:
            if vouch_holds(signed, federation=approvals.federation, today=today):
                self._vouchers.setdefault(signed.statement.peer, set()).add(signed.statement.voucher_key)
        # Each key that is or was somebody's; a roster can't give it to somebody else.
        self._owners = {key: entry.peer.name for entry in approvals.peers for key in entry.keys}
        self._owners |= {key: entry.name for entry in approvals.removed for key in entry.keys}

    def outcome(self) -> Review:
        if self._own not in self._update.roster:
            self._review.problems.append("the roster doesn't list this merchant with its present key")
        staying = {
            peer.name: entry
            for peer in self._update.roster
            if peer.name in self._known and (entry := self._staying(peer)) is not None
        }
        new = [peer for peer in self._update.roster if peer.name not in self._known]
        added = [entry for peer in new if (entry := self._added(peer, staying)) is not None]
        self._check_look_alikes([peer.name for peer in new])
        gone = sorted(self._known.keys() - {peer.name for peer in self._update.roster})
        self._review.changes += [f"{name} left the roster" for name in gone]
        self._review.approvals = self._before.with_peers((*staying.values(), *added))
        return self._review

    def _check_look_alikes(self, new: Sequence[str]) -> None:
        groups = look_alikes(peer.name for peer in self._update.roster)
        self._review.problems += [
            f"the names {listed(group)} look alike" for group in groups if set(group) & set(new)
        ]

    def _staying(self, peer: Peer) -> ApprovedPeer | None:
        """Return the entry of a known merchant, with its new key if it may have one."""
        entry = self._known[peer.name]
        if peer == entry.peer:
            return entry
        old, new = entry.peer.signing_key, peer.signing_key
        if peer == self._own:
            chain_keys: tuple[str, ...] | None = (old,)
        else:
            chain = key_chain(self._rotations, merchant=peer.name, start=old, end=new)
            chain_keys = None if chain is None else tuple(signed.statement.old_key for signed in chain)
        if chain_keys is None:
            self._review.problems.append(f"{peer.name} has another key, which the approved one didn't sign")
        elif peer != self._own and not self._rules.follow_rotations:
            self._review.problems.append(f"{peer.name} exchanged its key (policy 'rotated_keys')")
        elif {*chain_keys, new} - {old} & self._owners.keys():
            self._review.problems.append(f"{peer.name} has a key that was a merchant's before")
        else:
            self._review.changes.append(f"{peer.name} exchanged its key, signed with the approved one")
            return entry.model_copy(update={"peer": peer, "earlier_keys": (*entry.earlier_keys, *chain_keys)})
        return None

    def _added(self, peer: Peer, staying: dict[str, ApprovedPeer]) -> ApprovedPeer | None:
        """Return the entry of a new merchant if enough merchants vouch for it."""
        if peer.signing_key in self._owners or any(peer.name == gone.name for gone in self._before.removed):
            self._review.problems.append(
                f"{peer.name}, or its key, was on the roster before: vouches don't bring it back"
            )
            return None
        keys = self._vouchers.get(peer, set())
        if self._own.signing_key in keys:
            self._review.changes.append(f"{peer.name} is new; this merchant vouched for it itself")
            return ApprovedPeer(peer=peer)
        vouchers = tuple(sorted(self._counting(keys, staying)))
        least = self._rules.least_vouchers
        if least is None:
            self._review.problems.append(
                f"{peer.name} is new, and no vouches count (policy 'least_vouchers' isn't set)"
            )
            return None
        if len(vouchers) < least:
            by = f" ({listed(vouchers)})" if vouchers else ""
            # The number alone doesn't tell a person why a vouch that the operator added isn't in it.
            others = [name for name, entry in staying.items() if entry.vouchers and self._signed(keys, entry)]
            uncounted = f"; not counted: {listed(sorted(others))}, accepted by vouches" if others else ""
            self._review.problems.append(
                f"{peer.name} is new; {len(vouchers)} of {least} merchants approved by hand vouch for it{by}"
                f"{uncounted}"
            )
            return None
        self._review.changes.append(f"{peer.name} is new; {listed(vouchers)} vouch for it")
        return ApprovedPeer(peer=peer, vouchers=vouchers)

    def _counting(self, keys: set[str], staying: dict[str, ApprovedPeer]) -> Iterator[str]:
        """Yield the names of those with these present keys that were approved by hand and are still there."""
        for name, entry in staying.items():
            if not entry.vouchers and self._signed(keys, entry) and name != self._own.name:
                yield name

    @staticmethod
    def _signed(keys: set[str], entry: ApprovedPeer) -> bool:
        """Return whether a merchant's present key is among those that signed a vouch."""
        return entry.peer.signing_key in keys
