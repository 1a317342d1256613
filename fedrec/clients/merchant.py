"""One merchant: it joins trainings, takes its step of each round, and helps to open only a sum."""

from __future__ import annotations

from collections.abc import Mapping

from fedrec.clients import joining, training_step, unmasking
from fedrec.clients.context import MerchantContext
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.request_gate import RequestGate
from fedrec.clients.store import MerchantStore
from fedrec.errors import RefusedError
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.derived_parameters import Derived
from fedrec.protocol.messages import (
    CloseReply,
    CloseRequest,
    JoinReply,
    JoinRequest,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrec.protocol.plan import TrainingPlan

Blobs = Mapping[str, bytes]
PAUSED = "the merchant has paused: it takes part in no new round until it resumes"


class Merchant:
    """A merchant's side of every training, over the one context that its parts share."""

    def __init__(self, context: MerchantContext) -> None:
        self.context = context
        self._unfixed: TrainingPlan | None = None

    @property
    def name(self) -> str:
        """The merchant's name on the roster."""
        return self.context.name

    @property
    def ledger(self) -> Ledger:
        """The open ledger."""
        return self.context.ledger

    @property
    def store(self) -> MerchantStore:
        """The open store."""
        return self.context.store

    @property
    def gate(self) -> RequestGate:
        """What takes the server's requests, and no other's."""
        return self.context.gate

    @property
    def policy(self) -> MerchantPolicy:
        """The rules that are in force."""
        return self.context.policy

    def close(self) -> None:
        """Close ledger and store."""
        self.ledger.close()
        self.store.close()

    def use_policy(self, policy: MerchantPolicy) -> None:
        """Hold plans, rounds and charges to come against another policy of the merchant's own."""
        self.ledger.set_cap(
            epsilon_lifetime=policy.lifetime_epsilon,
            delta_lifetime=policy.lifetime_delta,
        )
        self.context.policy = policy
        self.context.suspended = None

    def suspend(self, reason: str) -> None:
        """Refuse every plan and every new round with this reason, until there is a policy to follow."""
        self.context.suspended = RefusedError(reason, code="paused")

    def join(self, request: JoinRequest) -> tuple[JoinReply, dict[str, bytes]]:
        """Join a training, as :func:`fedrec.clients.joining.join` does."""
        reply = joining.join(self.context, request)
        self._unfixed = request.plan
        return reply

    def fix_records(self) -> None:
        """Fix the records of the training that was joined last, once the answer to its join is sent."""
        plan, self._unfixed = self._unfixed, None
        if plan is not None:
            self.context.sets.fix(plan, policy=self.policy)

    def train(self, request: TrainRequest, blobs: Blobs) -> tuple[TrainReply, dict[str, bytes]]:
        """Take the step of a round, as :func:`fedrec.clients.training_step.train` does."""
        return training_step.train(self.context, request, blobs)

    def unmask(self, request: UnmaskRequest, blobs: Blobs) -> tuple[UnmaskReply, dict[str, bytes]]:
        """Help to open a sum, as :func:`fedrec.clients.unmasking.unmask` does."""
        return unmasking.unmask(self.context, request, blobs)

    def close_training(self, request: CloseRequest) -> CloseReply:
        """Delete the training's sealing key and stored bodies."""
        stored = self.store.training(request.training_id)
        if request.receipt is not None:
            self.context.accept_receipt(TrainingPlan.model_validate_json(stored.plan), request.receipt)
        self.store.finish(request.training_id)
        self.context.release_training(request.training_id)
        return CloseReply(merchant=self.name)

    def open_derived(self) -> Derived:
        """Return what follows from the plan of the open training; ``RefusedError`` when none is open."""
        return self.context.open_derived()

    def expire(self) -> list[str]:
        """Finish the trainings that the server has left alone for longer than the policy allows."""
        return self.context.expire()
