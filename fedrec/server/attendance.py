"""Track which merchants and witnesses have joined a training, from which node and with which keys.

A party that goes away keeps its place and may come back. Witnesses sit on the committee; nothing that counts
merchants counts them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from fedrec._internal.text import counted, listed
from fedrec.errors import ProtocolError, TrainingError
from fedrec.privacy.aggregation.committee import (
    check_encryption_key,
    check_sealing_key,
    check_sealing_keys,
)
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, Scheme
from fedrec.protocol.messages import JoinReply, JoinRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.roster_statements import RosterUpdate
from fedrec.protocol.statements import SignedEncryptionKey, SignedSealingKey
from fedrec.protocol.transport import pack
from fedrec.server.join_replies import is_signed, keep_first_receipt
from fedrec.server.message_exchange import Answer, Exchange, ExchangeSettings
from fedrec.server.pauses import Pauses
from fedrec.server.receipts import ReceiptBook
from fedrec.server.reply_board import ReplyBoard
from fedrec.server.request_signing import RequestSigner

OPENING_SECONDS, LATE_SECONDS = 30.0, 2.0
"""How long the start of a training waits for nodes without an answer once enough have joined, and how long a
round waits for nodes that are asked between two rounds. Later answers are taken before the next round."""
_PAUSE = 0.02


class CohortIncompleteError(TrainingError):
    """Too few merchants are connected, or a needed key is missing. The merchants may still come."""


@dataclass
class Attendance:
    """The merchants and witnesses of one training that are connected now.

    Args:
        grid: the Flower Grid that messages go over.
        plan: the training's plan.
        scheme: the aggregation scheme of the plan.
        signer: signs the requests, and knows which merchant is at which node.
        timeout: in seconds, how long the start of a training waits for as many merchants as it needs.
        refusals: collects why a merchant didn't join, or takes part in no more rounds, by name.
        receipts: the server's book of receipts.
        patient: whether the start waits for the whole cohort, up to ``timeout``.
        board: shows whose answers are waited for.
        roster_update: returns the operator's roster and the merchants' statements; None without one.

    Attributes:
        nodes: node ids of the merchants and witnesses that have joined, by name; one stays here while it is
            away.
        seeded: whether any merchant said, when it joined, that its noise comes from a seed.
        abstaining: merchants that joined and whose own rules have allowed no more rounds since; they only
            answer about sums.
        closed_by: merchants that have closed the training on their side; they never join it again.
        encryption_key: the holder's signed statement of ``encryption_key_bytes``; None in schemes without
            one.
        encryption_key_bytes: the public key that updates are encrypted under; empty in schemes without one.
    """

    grid: Grid
    plan: TrainingPlan
    scheme: Scheme
    signer: RequestSigner
    timeout: float
    refusals: dict[str, str]
    receipts: ReceiptBook
    patient: bool = True
    board: ReplyBoard = field(default_factory=ReplyBoard)
    roster_update: Callable[[], RosterUpdate | None] = lambda: None
    nodes: dict[str, int] = field(default_factory=dict)
    seeded: bool = False
    abstaining: set[str] = field(default_factory=set)
    closed_by: set[str] = field(default_factory=set)
    encryption_key: SignedEncryptionKey | None = None
    encryption_key_bytes: bytes = b""
    _keys: dict[str, SignedSealingKey] = field(default_factory=dict)
    _pauses: Pauses[int] = field(default_factory=Pauses[int])
    _open: list[Exchange[JoinReply]] = field(default_factory=list)

    @property
    def merchant_nodes(self) -> dict[str, int]:
        """Node ids of the merchants that have joined, by name, without the witnesses."""
        return {name: node for name, node in self.nodes.items() if name in self.plan.signing_keys}

    @property
    def _contributors(self) -> set[str]:
        """The merchants that have joined and whose rules allow the training's rounds."""
        return set(self.merchant_nodes) - self.abstaining

    @property
    def rules_forbid_rounds(self) -> bool:
        """Whether so many merchants' own rules refuse that no round can have enough contributors."""
        return self.plan.cohort - len(self.abstaining) < self.plan.min_contributors

    def spares(self, excluded: Collection[str]) -> bool:
        """Tell whether a round can do without one of the merchants that are there, beside ``excluded``."""
        there = self._connected(self.present()) & self._contributors
        return len(there.difference(excluded)) > self.plan.min_contributors

    @property
    def sealing_keys(self) -> tuple[SignedSealingKey, ...]:
        """The sealing keys of the committee that are known, in the committee's order."""
        return tuple(self._keys[name] for name in self.plan.committee if name in self._keys)

    def present(self) -> set[int]:
        """Return the ids of the nodes that are connected now."""
        return set(self.grid.get_node_ids())

    def open(self, kept: Iterable[SignedSealingKey]) -> None:
        """Let every merchant join that is connected; ``kept`` are the sealing keys of an earlier start.

        Raises:
            CohortIncompleteError: too few merchants joined, or a key of the committee is missing.
        """
        self.use_sealing_keys(kept)
        present = self.present()
        failed = self._ask(sorted(present), present=present, seconds=OPENING_SECONDS, most=self.timeout)
        if len(self._contributors) < self.plan.min_contributors:
            told = [f"{name}: {reason}" for name, reason in self.refusals.items()]
            told += failed.values()
            silent = sorted({peer.name for peer in self.plan.roster} - {*self.nodes, *self.refusals})
            raise CohortIncompleteError(
                f"{len(self._contributors)} of {self.plan.cohort} merchants joined, "
                f"{self.plan.min_contributors} are needed"
                + (f" ({told[0]})" if told else "")
                + (f"; not there: {listed(silent)}" if silent else "")
            )
        missing = self.missing_keys()
        if missing is not None:
            raise CohortIncompleteError(f"the committee is not complete: {missing}")

    def use_sealing_keys(self, kept: Iterable[SignedSealingKey]) -> None:
        """Use the sealing keys of an earlier start: members that are away are missing at openings only."""
        self._keys = {key.statement.merchant: key for key in kept}

    def missing_keys(self) -> str | None:
        """Return why uploads can't be encrypted or dealt yet; None if every needed key is known."""
        try:
            self._check_keys()
        except ProtocolError as error:
            told = [f"{name}: {self.refusals[name]}" for name in self.plan.committee if name in self.refusals]
            missing = [name for name in self.plan.committee if name not in self._keys]
            if told:
                return told[0]
            return f"those of {listed(missing)} are missing" if self._keys else str(error)
        return None

    def _check_keys(self) -> None:
        """Raise ``ProtocolError`` where a key is missing that uploads are encrypted or dealt under."""
        if isinstance(self.scheme, CommitteeScheme):
            check_sealing_keys(self.sealing_keys, plan=self.plan)
        elif isinstance(self.scheme, HolderScheme):
            check_encryption_key(self.encryption_key, self.encryption_key_bytes, plan=self.plan)

    def _can_begin(self) -> bool:
        """Return whether a training could begin with the merchants that have joined."""
        return self.missing_keys() is None and len(self._contributors) >= self.plan.min_contributors

    def admit(self, names: Collection[str]) -> set[str]:
        """Let merchants in that come and go, without waiting for any: an answer is taken by a later call.

        A merchant that didn't join when it was asked is asked again after pauses, or at once when it has been
        away.

        Args:
            names: the merchants and witnesses that are asked.

        Returns:
            The names of those that have joined and are connected.
        """
        present = self.present()
        self._take_answers(present)
        self._pauses.keep(present)
        at, wanted = self.signer.names(), set(names)
        due = [node for node in self._due(present) if at.get(node) in wanted]
        if due:
            self._ask(due, present=present, seconds=0.0, most=0.0)
        return self._connected(present)

    def ask_again(self) -> None:
        """Ask those that have joined once more, so that a merchant whose rules have changed says so.

        Before a round for which the others may be charged in vain. Flower takes a merchant that was killed
        for connected for a while: one that doesn't answer isn't there.

        Raises:
            CohortIncompleteError: too few answer, though enough merchants' rules allow the round.
        """
        present, before = self.present(), self.merchant_nodes
        joined = sorted(set(before.values()) & present)
        failed = self._ask(joined, present=present, seconds=OPENING_SECONDS, most=OPENING_SECONDS)
        gone = before.keys() - self.merchant_nodes.keys()
        silent = gone | {name for name, node in before.items() if node not in present or node in failed}
        there = self._contributors - silent
        if len(there) < self.plan.min_contributors and not self.rules_forbid_rounds:
            raise CohortIncompleteError(
                f"{counted(len(there), 'merchant answers', plural='merchants answer')}, "
                f"{self.plan.min_contributors} are needed"
                + (f"; no answer from {listed(sorted(silent))}" if silent else "")
                + self._abstentions()
            )

    def refresh(self, *, excluded: Collection[str]) -> set[str]:
        """Let in who has come since the last round, and check that enough are connected.

        A node that didn't join when it was asked (it was killed just then, or its rules refused) is asked
        again, after pauses that grow from 10 s to 10 minutes. A round doesn't wait long for it.

        Returns:
            The names of the merchants that are connected, those of ``excluded`` among them.

        Raises:
            CohortIncompleteError: the next round can't have enough contributors, or its sum not enough
                members that answer; it is not charged then.
        """
        present = self.present()
        self._take_answers(present)
        if len(self._connected(present)) < len(self._expected) or self.abstaining:
            due = self._due(present)
            if due:
                self._ask(due, present=present, seconds=LATE_SECONDS, most=LATE_SECONDS)
        everybody = self._connected(present)
        self._check_members(everybody)
        connected = everybody.intersection(self.plan.signing_keys)
        if len(connected - {*excluded, *self.abstaining}) < self.plan.min_contributors:
            away = sorted({peer.name for peer in self.plan.roster} - connected)
            raise CohortIncompleteError(
                f"{counted(len(connected), 'merchant is', plural='merchants are')} connected, "
                f"{self.plan.min_contributors} are needed"
                + (f"; away: {listed(away)}" if away else "")
                + (f"; left out: {listed(sorted(excluded))}" if excluded else "")
                + self._abstentions()
            )
        return connected

    def _abstentions(self) -> str:
        return "".join(
            f"; {name} takes part in no round now: {self.refusals[name]}" for name in sorted(self.abstaining)
        )

    def _check_members(self, connected: set[str]) -> None:
        """Raise ``CohortIncompleteError`` if too few of the committee are connected to open a sum."""
        members = self.plan.committee if self.plan.trust.opened_by == "committee" else ()
        away = [name for name in members if name not in connected]
        if len(members) - len(away) < self.plan.threshold and members:
            raise CohortIncompleteError(
                f"{counted(len(members) - len(away), 'committee member is', plural='committee members are')} "
                f"connected, {self.plan.threshold} are needed to open a sum; away: {listed(away)}"
            )

    @property
    def _expected(self) -> frozenset[str]:
        """The names of all merchants, and of the witnesses with a seat."""
        return frozenset(peer.name for peer in self.plan.roster + self.plan.seated_witnesses)

    def _request(self) -> JoinRequest:
        """Return the request to join, with the operator's roster if that is still the plan's."""
        update = self.roster_update()
        if update is not None and (update.roster, update.witnesses) != (
            self.plan.roster,
            self.plan.witnesses,
        ):
            update = None
        return JoinRequest(plan=self.plan, update=update)

    def _due(self, present: set[int]) -> list[int]:
        """Return the nodes that haven't joined, or whose rules refuse, and are to be asked now."""
        settled = {node for name, node in self.nodes.items() if name not in self.abstaining}
        return [node for node in sorted(present - settled) if self._pauses.is_due(node)]

    def _connected(self, present: set[int]) -> set[str]:
        return {name for name, node in self.nodes.items() if node in present}

    def _ask(self, asked: list[int], *, present: set[int], seconds: float, most: float) -> dict[int, str]:
        """Ask nodes to join, and note which do.

        After ``seconds`` nodes without an answer are waited for only while too few have joined, and never
        longer than ``most`` seconds.

        Returns:
            Why the others didn't answer, by node.
        """
        names, shared = self.signer.names(), pack(self._request())
        expected = self._expected
        now = time.monotonic()
        for node in asked:
            self._pauses.asked(node)
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
                if names.get(node) in expected
            },
            ExchangeSettings(
                message_type="query.join",
                reply_type=JoinReply,
                max_blob_bytes=self.scheme.public_key_bytes if isinstance(self.scheme, HolderScheme) else 0,
                timeout=self.timeout,
                group_id="join",
                board=self.board,
            ),
        )
        # An older request to the same nodes is given up: the answer would be the same.
        for other in self._open:
            other.give_up(asked)
        self._open = [other for other in self._open if other.waiting] + [exchange]
        waited = 0.0
        with self.board.waiting("query.join", "join", lambda: exchange.waiting):
            while exchange.waiting and waited < most:
                self._take_answers(present)
                waited = time.monotonic() - now
                if waited >= seconds and not self.patient and self._can_begin():
                    break
                if exchange.waiting:
                    time.sleep(_PAUSE)
        silent = dict.fromkeys(exchange.waiting, f"no reply within {waited:.0f} s")
        return exchange.failed | silent

    def _take_answers(self, present: set[int]) -> None:
        """Let in the merchants that have answered since the last call, in the order of their node ids."""
        for exchange in self._open:
            answers = [answer for answer in exchange.pull() if answer is not None]
            for answer in sorted(answers, key=lambda answer: answer.node_id):
                self._take_answer(answer, present=present)
        self._open = [exchange for exchange in self._open if exchange.waiting]

    def _take_answer(self, answer: Answer[JoinReply], *, present: set[int]) -> None:
        """Let one merchant in.

        One that has joined before can join from another node only once its first node has gone.
        """
        reply = answer.body
        name = reply.merchant
        known = self.nodes.get(name)
        if name not in self._expected or (known in present and known != answer.node_id):
            return
        if reply.refused is not None and reply.signature is None:
            # Without a signature anybody could refuse in another's name: it counts from its own node alone.
            if self.signer.names().get(answer.node_id) == name:
                self.refusals[name] = str(reply.refused)
                # One that joined before, and can't now, would only cost the others a round.
                self.nodes.pop(name, None)
                if reply.refused.code == "training":
                    self.closed_by.add(name)
            return
        if not is_signed(reply, plan=self.plan):
            # Another node may have used the name; the real merchant can still answer.
            self.refusals[name] = "a reply under this name is not signed by its merchant"
            return
        try:
            self._keep_sealing_key(reply)
            keep_first_receipt(reply, plan=self.plan, receipts=self.receipts)
        except ProtocolError as error:
            self.refusals[name] = str(error)
            return
        if reply.refused is None:
            self.refusals.pop(name, None)
            self.abstaining.discard(name)
        else:
            self.refusals[name] = str(reply.refused)
            self.abstaining.add(name)
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
        """Keep a member's first sealing key; raise ``ProtocolError`` for one that the cohort would refuse."""
        key = reply.sealing_key
        if key is None or reply.merchant in self._keys:
            return
        if key.statement.merchant != reply.merchant:
            raise ProtocolError("a sealing key is of another merchant than the reply that brings it")
        check_sealing_key(key, plan=self.plan)
        self._keys[reply.merchant] = key
