"""Define a witness: it joins trainings as a member of the committee, and helps to open sums only.

It checks what a merchant checks before it answers, by the same code, and its own rules once more at each
opening. It has no photos, no model and no ledger; nothing is charged to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

from fedrec.clients import unmasking
from fedrec.clients.joining import check_terms, join_reply, make_secrets
from fedrec.clients.request_gate import RequestGate
from fedrec.clients.store import MerchantStore
from fedrec.clients.witness.openings import LOST, Openings
from fedrec.clients.witness.policy import WitnessPolicy
from fedrec.errors import AggregationError, ConfigError, LedgerError, RefusedError
from fedrec.privacy.derived_parameters import Derived, derive
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.messages import (
    CloseReply,
    CloseRequest,
    JoinReply,
    JoinRequest,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import Receipt
from fedrec.protocol.transport import Blobs

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WitnessedTraining:
    """A training that this witness joined: its plan, and the parameters derived from it."""

    plan: TrainingPlan
    derived: Derived


@dataclass
class Witness:
    """A witness's side of all its trainings.

    Attributes:
        name: its name among the plan's witnesses.
        identity: its signing key.
        store: its open store of plans, keys and answers.
        openings: its open record of openings.
        gate: accepts the requests of the witness's own server, and no others.
        policy: the rules in force.
        on_event: called after each durable step, with the step's name; tests interrupt there.
        now: returns the time, with a time zone.

    Raises:
        LedgerError: the store has an answer that the record of openings lacks.
    """

    name: str
    identity: SigningIdentity
    store: MerchantStore
    openings: Openings
    gate: RequestGate
    policy: WitnessPolicy
    on_event: Callable[[str], None] = lambda event: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _suspended: RefusedError | None = field(init=False, default=None)
    _last: WitnessedTraining | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for kind, training_id, round_number in self.store.replies():
            if kind == "answer" and not self.openings.has(training_id, round_number):
                raise LedgerError(
                    f"the record of openings lacks round {round_number} of training {training_id[:16]}, "
                    f"whose answer the store has: {LOST}"
                )

    def close(self) -> None:
        """Close the store and the record of openings."""
        self.store.close()
        self.openings.close()

    def use_policy(self, policy: WitnessPolicy) -> None:
        """Check later plans and openings against this policy. It also ends a suspension."""
        self.policy = policy
        self._suspended = None

    def suspend(self, reason: str) -> None:
        """Refuse every plan and every opening with this reason, until :meth:`use_policy` is called."""
        self._suspended = RefusedError(reason, code="paused")

    def join(self, request: JoinRequest) -> tuple[JoinReply, dict[str, bytes]]:
        """Join a training as a member of the committee.

        Args:
            request: the server's proposal.

        Returns:
            The signed reply with this witness's sealing key, and no blobs.

        Raises:
            RefusedError: the plan breaks a rule, which the message names, or the training is closed.
        """
        plan = request.plan
        self._check(plan)
        derived = self._prepare(plan).derived
        self.expire()
        if self.store.is_closed(plan.training_id):
            raise RefusedError("this training was closed", code="training")
        # One training at a time: otherwise the last one's private key would stay on disk.
        self.store.finish_others(plan.training_id)
        stored = self.store.join(
            plan.training_id,
            plan=plan.canonical_bytes(),
            seeded=False,
            make_secrets=lambda: make_secrets(plan, derived.scheme, merchant=self.name),
        )
        return join_reply(
            plan, stored.secrets, merchant=self.name, identity=self.identity, seeded=False, head=None
        )

    def train(self, request: TrainRequest, blobs: Blobs) -> NoReturn:
        """Refuse: a witness has no photos.

        Args:
            request: the server's request.
            blobs: its blobs.

        Raises:
            RefusedError: always.
        """
        raise RefusedError("a witness has no photos: it takes part in no step")

    def unmask(self, request: UnmaskRequest, blobs: Blobs) -> tuple[UnmaskReply, dict[str, bytes]]:
        """Help to open a sum; see :func:`fedrec.clients.unmasking.unmask`.

        Args:
            request: the server's request.
            blobs: the blobs of the request, by name.

        Returns:
            The reply and its blobs.
        """
        return unmasking.unmask(self, request, blobs)

    def close_training(self, request: CloseRequest) -> CloseReply:
        """Delete the private key and the stored answers of a training."""
        self.store.training(request.training_id)
        self.store.finish(request.training_id)
        return CloseReply(merchant=self.name)

    def training(self, training_id: str) -> WitnessedTraining:
        """Return a training that was joined and is open, and that the rules in force allow.

        Raises:
            RefusedError: the training was not joined, is closed, or breaks a rule, which the message names.
        """
        self.expire()
        stored = self.store.training(training_id)
        if stored.closed:
            raise RefusedError("this training was closed", code="training")
        self.store.mark_active(training_id, now=self.now())
        last = self._last
        if last is None or last.plan.training_id != training_id:
            last = self._prepare(stored.read_plan())
        self._check(last.plan)
        return last

    def mark_answer(
        self, plan: TrainingPlan, *, round_number: int, request_hash: str, receipt: Receipt | None
    ) -> None:
        """Check that a sum may be opened, and record durably that it is.

        Args:
            plan: the training's plan.
            round_number: the round.
            request_hash: hash of the request.
            receipt: not used: a witness has no ledger that a receipt could be of.

        Raises:
            RefusedError: a rule limits the number of openings, or a request of this round was recorded
                before.
        """
        now = self.now()
        self.policy.check_opening(today=self.openings.on_day(now.astimezone(UTC)))
        self.openings.mark(plan.training_id, round_number, request_hash=request_hash, now=now)

    def answered_head(self, plan: TrainingPlan, round_number: int) -> None:
        """Return None: a witness has no ledger.

        Args:
            plan: the training's plan.
            round_number: the round.
        """
        return

    def derived_of_open_training(self) -> Derived:
        """Return the parameters derived from the open training's plan; ``RefusedError`` if none is open."""
        found = self.store.open_trainings()
        if not found:
            raise RefusedError(
                "no training is open at this witness: it was closed, or never joined", code="training"
            )
        if self._last is not None and self._last.plan.training_id == found[-1]:
            return self._last.derived
        return derive(self.store.training(found[-1]).read_plan())

    def expire(self) -> list[str]:
        """Close the trainings without a request for longer than the policy allows; return their ids."""
        finished = self.store.finish_inactive(now=self.now(), days=self.policy.training_expires_days)
        for training_id in finished:
            _log.warning("training %s expired: its key is deleted", training_id[:16])
        return finished

    def _check(self, plan: TrainingPlan) -> None:
        """Check a plan against the rules of all parties, and this witness's own."""
        if self._suspended is not None:
            raise self._suspended
        if plan.server_key != self.gate.server_key:
            raise RefusedError("the plan's server key is not that of the witness's join file")
        self.policy.check(plan)
        check_terms(plan)
        if plan.witness_keys.get(self.name) != self.identity.public.hex():
            raise RefusedError(
                "the plan doesn't name this witness, or has another key under its name", code="plan"
            )
        if self.name not in plan.committee:
            raise RefusedError("the plan has no seat for this witness", code="plan")

    def _prepare(self, plan: TrainingPlan) -> WitnessedTraining:
        """Derive the parameters of a plan; the last one is kept in memory."""
        if self._last is not None and self._last.plan.training_id == plan.training_id:
            return self._last
        try:
            derived = derive(plan)
        except (ConfigError, AggregationError) as error:
            raise RefusedError(f"the plan can't be carried out: {error}", code="plan") from None
        self._last = WitnessedTraining(plan=plan, derived=derived)
        return self._last
