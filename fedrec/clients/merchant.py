"""Define a merchant: it joins trainings, takes a step in each round, and helps to open sums only."""

from __future__ import annotations

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
from fedrec.protocol.transport import Blobs


class Merchant:
    """A merchant's side of all its trainings. Joining, training and opening share one context."""

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
        """Accepts the requests of the merchant's own server, and no others."""
        return self.context.gate

    @property
    def policy(self) -> MerchantPolicy:
        """The rules in force."""
        return self.context.policy

    def close(self) -> None:
        """Close the ledger and the store."""
        self.context.abstentions.end()
        self.ledger.close()
        self.store.close()

    def use_policy(self, policy: MerchantPolicy) -> None:
        """Check later plans, rounds and charges against this policy. It also ends a suspension."""
        self.ledger.set_cap(
            epsilon_lifetime=policy.lifetime_epsilon,
            delta_lifetime=policy.lifetime_delta,
        )
        self.context.policy = policy
        self.context.suspended = None

    def suspend(self, reason: str) -> None:
        """Refuse every plan and every new round with this reason, until :meth:`use_policy` is called."""
        self.context.suspended = RefusedError(reason, code="paused")

    def join(self, request: JoinRequest) -> tuple[JoinReply, dict[str, bytes]]:
        """Join a training; see :func:`fedrec.clients.joining.join`."""
        reply = joining.join(self.context, request)
        self._unfixed = request.plan
        return reply

    def fix_records(self) -> None:
        """Fix the records of the last joined training; call it after the reply to the join was sent."""
        plan, self._unfixed = self._unfixed, None
        if plan is not None:
            self.context.sets.fix(plan, policy=self.policy)

    def load_records(self) -> None:
        """Load the records of a training that is open since before a restart and still has rounds to come."""
        still_open = self.store.open_trainings()
        if not still_open:
            return
        plan = self.store.training(still_open[-1]).read_plan()
        if not self.ledger.has_charge(plan.training_id, plan.last_round):
            self.context.sets.load(plan, self.context.sets.fix(plan, policy=self.policy))

    def train(self, request: TrainRequest, blobs: Blobs) -> tuple[TrainReply, dict[str, bytes]]:
        """Take the step of a round; see :func:`fedrec.clients.training_step.train`.

        Args:
            request: the server's request.
            blobs: the blobs of the request, by name.

        Returns:
            The reply and its blobs.
        """
        return training_step.train(self.context, request, blobs)

    def unmask(self, request: UnmaskRequest, blobs: Blobs) -> tuple[UnmaskReply, dict[str, bytes]]:
        """Help to open a sum; see :func:`fedrec.clients.unmasking.unmask`.

        Args:
            request: the server's request.
            blobs: the blobs of the request, by name.

        Returns:
            The reply and its blobs.
        """
        return unmasking.unmask(self.context, request, blobs)

    def close_training(self, request: CloseRequest) -> CloseReply:
        """Delete the private keys and the stored replies of a training."""
        stored = self.store.training(request.training_id)
        if request.receipt is not None:
            self.context.accept_receipt(stored.read_plan(), request.receipt)
        self.store.finish(request.training_id)
        self.context.release_training(request.training_id)
        return CloseReply(merchant=self.name)

    def derived_of_open_training(self) -> Derived:
        """Return the parameters derived from the open training's plan; ``RefusedError`` if none is open."""
        return self.context.derived_of_open_training()

    def expire(self) -> list[str]:
        """Close inactive trainings; see :meth:`fedrec.clients.context.MerchantContext.expire`."""
        return self.context.expire()
