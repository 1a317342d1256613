"""Who of the cohort has joined a training, from which node and with which keys; who is away may come back."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from fedrec._internal.text import listed
from fedrec.errors import ProtocolError, TrainingError
from fedrec.privacy.aggregation.committee import (
    check_encryption_key,
    check_sealing_key,
    check_sealing_keys,
)
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, Scheme
from fedrec.privacy.identity import verify
from fedrec.protocol.messages import JoinReply, JoinRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import JOINED_CONTEXT, Joined, SignedEncryptionKey, SignedSealingKey
from fedrec.protocol.transport import pack
from fedrec.server.message_exchange import Answer, Exchange
from fedrec.server.receipts import ReceiptBook
from fedrec.server.request_signing import RequestSigner

OPENING_SECONDS, LATE_SECONDS = 30.0, 2.0
"""How long the start of a training waits for who doesn't answer, once enough have joined; and how long a
round waits for one who is asked between two rounds. Who answers later is let in before the next round."""
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0
_PAUSE = 0.02


class CohortIncompleteError(TrainingError):
    """Too few merchants are there, or one whose key the committee needs: they may come yet."""


@dataclass
class _Asked:
    """When a node that hasn't joined is asked again, and the pause after that."""

    due: float
    pause: float


@dataclass
class Attendance:
    """The cohort of one training, as it is there now.

    ``timeout`` is in seconds: how long the start of a training waits for as many as it needs, and with
    ``patient`` for everybody. ``refusals`` collects why a merchant didn't join; ``receipts`` is the
    server's book.

    Attributes:
        nodes: of the merchants that have joined, by name; a merchant stays here while it is away.
        seeded: whether any merchant said, when it joined, that its noise comes from a seed.
        encryption_key: signed by the holder, of ``encryption_key_bytes``; None in schemes without one.

    """

    grid: Grid
    plan: TrainingPlan
    scheme: Scheme
    signer: RequestSigner
    timeout: float
    refusals: dict[str, str]
    receipts: ReceiptBook
    patient: bool = True
    nodes: dict[str, int] = field(default_factory=dict)
    seeded: bool = False
    encryption_key: SignedEncryptionKey | None = None
    encryption_key_bytes: bytes = b""
    _keys: dict[str, SignedSealingKey] = field(default_factory=dict)
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _open: list[Exchange[JoinReply]] = field(default_factory=list)

    @property
    def sealing_keys(self) -> tuple[SignedSealingKey, ...]:
        """The committee's keys that are known, in the committee's order."""
        return tuple(self._keys[name] for name in self.plan.committee if name in self._keys)

    def present(self) -> set[int]:
        """The nodes that are connected now."""
        return set(self.grid.get_node_ids())

    def open(self, kept: Iterable[SignedSealingKey]) -> None:
        """Let whoever is there join; ``kept`` are the sealing keys of an earlier start.

        Raises ``CohortIncompleteError`` when they are too few, or the committee lacks a key.
        """
        # A committee member that was there once and is away now, at a restart, is missed at openings alone.
        self._keys = {key.statement.merchant: key for key in kept}
        present = self.present()
        failed = self._ask(sorted(present), present=present, seconds=OPENING_SECONDS, most=self.timeout)
        if len(self.nodes) < self.plan.min_contributors:
            told = [f"{name}: {reason}" for name, reason in self.refusals.items()] + failed
            silent = sorted({peer.name for peer in self.plan.roster} - {*self.nodes, *self.refusals})
            raise CohortIncompleteError(
                f"{len(self.nodes)} of {self.plan.cohort} merchants joined, "
                f"{self.plan.min_contributors} are needed"
                + (f" ({told[0]})" if told else "")
                + (f"; not there: {listed(silent)}" if silent else "")
            )
        try:
            self._check_keys()
        except ProtocolError as error:
            told = [f"{name}: {self.refusals[name]}" for name in self.plan.committee if name in self.refusals]
            raise CohortIncompleteError(
                f"the committee is not complete: {told[0] if told else error}"
            ) from None

    def _check_keys(self) -> None:
        """Raise ``ProtocolError`` where a key is missing that uploads are made under."""
        if isinstance(self.scheme, CommitteeScheme):
            check_sealing_keys(self.sealing_keys, plan=self.plan)
        elif isinstance(self.scheme, HolderScheme):
            check_encryption_key(self.encryption_key, self.encryption_key_bytes, plan=self.plan)

    def _enough(self) -> bool:
        """Whether a training could begin with who has joined."""
        try:
            self._check_keys()
        except ProtocolError:
            return False
        return len(self.nodes) >= self.plan.min_contributors

    def refresh(self, *, excluded: Collection[str]) -> set[str]:
        """Before a round: let in who has come since, and look whether enough are there for it; return them.

        A node that didn't join when it was asked (it was killed just then, or its rules refused) is asked
        again, after pauses that grow from 10 s to 10 minutes; nobody waits long for it.

        Raises ``CohortIncompleteError`` before a round that can't have enough contributors is charged.
        """
        present = self.present()
        self._hear(present)
        if len(self._there(present)) < self.plan.cohort:
            now, joined = time.monotonic(), set(self.nodes.values())
            due = [
                node
                for node in sorted(present - joined)
                if node not in self._asked or self._asked[node].due <= now
            ]
            if due:
                self._ask(due, present=present, seconds=LATE_SECONDS, most=LATE_SECONDS)
        there = self._there(present)
        if len(there - set(excluded)) < self.plan.min_contributors:
            away = sorted({peer.name for peer in self.plan.roster} - there)
            raise CohortIncompleteError(
                f"{len(there)} merchants are connected, {self.plan.min_contributors} are needed"
                + (f"; away: {listed(away)}" if away else "")
                + (f"; left out: {listed(sorted(excluded))}" if excluded else "")
            )
        return there

    def _there(self, present: set[int]) -> set[str]:
        return {name for name, node in self.nodes.items() if node in present}

    def _ask(self, asked: list[int], *, present: set[int], seconds: float, most: float) -> list[str]:
        """Ask nodes to join, and note who does; returns why others didn't answer.

        Who hasn't answered after ``seconds`` is waited for no longer, if enough have joined, nor after
        ``most``.
        """
        names, shared = self.signer.names(), pack(JoinRequest(plan=self.plan))
        roster = {peer.name for peer in self.plan.roster}
        now = time.monotonic()
        for node in asked:
            pause = self._asked[node].pause if node in self._asked else _FIRST_PAUSE
            self._asked[node] = _Asked(due=now + pause, pause=min(_LONGEST_PAUSE, 2 * pause))
        exchange: Exchange[JoinReply] = Exchange(
            self.grid,
            {
                node: self.signer.sign(
                    shared,
                    kind="query.join",
                    training_id=self.plan.training_id,
                    recipient=names[node],
                )
                for node in asked
                if names.get(node) in roster
            },
            message_type="query.join",
            reply_type=JoinReply,
            max_blob_bytes=self.scheme.public_key_bytes if isinstance(self.scheme, HolderScheme) else 0,
            timeout=self.timeout,
            group_id="join",
        )
        # An older question to the same nodes is dropped: the answer would be the same.
        self._open = [other for other in self._open if not other.waiting & set(asked)] + [exchange]
        waited = 0.0
        while exchange.waiting and waited < most:
            self._hear(present)
            waited = time.monotonic() - now
            if waited >= seconds and not self.patient and self._enough():
                break
            if exchange.waiting:
                time.sleep(_PAUSE)
        silent = dict.fromkeys(exchange.waiting, f"no reply within {waited:.0f} s")
        return list((exchange.failed | silent).values())

    def _hear(self, present: set[int]) -> None:
        """Let in who has answered since, in the order of their nodes."""
        for exchange in self._open:
            answers = [answer for answer in exchange.pull() if answer is not None]
            for answer in sorted(answers, key=lambda answer: answer.node_id):
                self._take(answer, present=present)
        self._open = [exchange for exchange in self._open if exchange.waiting]

    def _take(self, answer: Answer[JoinReply], *, present: set[int]) -> None:
        """Let a merchant in; one that is in already joins from another node only once its own has gone."""
        reply = answer.body
        name = reply.merchant
        if name not in {peer.name for peer in self.plan.roster} or self.nodes.get(name) in present:
            return
        if reply.refused is not None:
            self.refusals[name] = str(reply.refused)
            return
        if not self._joins(reply):
            # Another node may have taken the name; the one that it belongs to can still answer.
            self.refusals[name] = "a reply under this name is not signed by its merchant"
            return
        try:
            self._keep_sealing_key(reply)
            self._keep_first_receipt(reply)
        except ProtocolError as error:
            self.refusals[name] = str(error)
            return
        self.refusals.pop(name, None)
        self.nodes[name] = answer.node_id
        self.seeded |= reply.seeded
        if (
            self.encryption_key is None
            and reply.encryption_key is not None
            and name == self.plan.committee[0]
        ):
            self.encryption_key = reply.encryption_key
            self.encryption_key_bytes = answer.blobs.get("encryption-key", b"")

    def _keep_sealing_key(self, reply: JoinReply) -> None:
        """Keep a member's first sealing key; ``ProtocolError`` for one that the cohort would refuse."""
        key = reply.sealing_key
        if key is None or reply.merchant in self._keys:
            return
        if key.statement.merchant != reply.merchant:
            raise ProtocolError("a sealing key is of another merchant than the reply that brings it")
        check_sealing_key(key, plan=self.plan)
        self._keys[reply.merchant] = key

    def _keep_first_receipt(self, reply: JoinReply) -> None:
        """Countersign a head where there is no receipt; a newer one is never replaced by that of a join."""
        if self.receipts.last(reply.merchant) is None:
            receipt = self.receipts.sign(
                reply.head, plan=self.plan, merchant=reply.merchant, round_number=0, moment="joined"
            )
            self.receipts.keep([receipt])

    def _joins(self, reply: JoinReply) -> bool:
        """Whether a join reply comes from the merchant that it names."""
        joined = Joined(training_id=self.plan.training_id, merchant=reply.merchant, seeded=reply.seeded)
        return reply.signature is not None and verify(
            self.plan.key_of(reply.merchant),
            joined.canonical_bytes(),
            bytes.fromhex(reply.signature),
            context=JOINED_CONTEXT,
        )
