"""What every answer of a merchant stands on: its name and keys, what it keeps, its rules, its trainings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from torch import nn

from fedrec.clients.charging import check_replies, round_charge
from fedrec.clients.plan_resources import check_plan_model
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.records import TrainingData
from fedrec.clients.request_gate import RequestGate
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_types import StoredTraining
from fedrec.clients.training_set import TrainingSets
from fedrec.errors import AggregationError, ConfigError, MissingExtraError, ProtocolError, RefusedError
from fedrec.privacy.accounting.entry_contents import Charge
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.derived_parameters import Derived, derive
from fedrec.privacy.dp.vectors import count_from_shapes
from fedrec.privacy.identity import SigningIdentity
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import HeadMoment, Receipt, SignedLedgerHead

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalResources:
    """How a merchant comes by records, models and chance, and where it computes.

    Attributes:
        data_for: reads the records as a plan's model takes them.
        build_model: makes that model.
        randomness_for: a fresh stream per (training, round), from the operating system unless the merchant
            itself asked for a simulation's.
        device: where models are trained.

    """

    data_for: Callable[[TrainingPlan], TrainingData]
    build_model: Callable[[TrainingPlan], nn.Module]
    randomness_for: Callable[[TrainingPlan, int], Randomness]
    device: torch.device


@dataclass(frozen=True)
class OpenTraining:
    """A training that this merchant joined: its plan, what follows from it, and the model."""

    plan: TrainingPlan
    derived: Derived
    model: nn.Module


@dataclass
class MerchantContext:
    """The state that joining, training and opening share.

    Attributes:
        name: the merchant's name on the roster.
        identity: its signing key.
        ledger: its open lifetime ledger.
        store: its open store.
        gate: accepts the requests of the merchant's own server, and no others.
        policy: the rules in force.
        resources: loads records, builds models and draws randomness.
        on_event: called after each durable step, with the step's name; tests interrupt there.
        now: returns the time, with a time zone.
        precomputes_costs: compose the epsilons of all rounds of a training once. Not worth it for a merchant
            that handles a single message.
        seconds_train: CPU seconds spent on training. Only the merchant sees them: a reply to the server never
            contains a timing.
        seconds_encrypt: CPU seconds spent on encryption, likewise.
        suspended: why plans and rounds are refused for now; None while they are not.
        sets: the records that each training uses.

    """

    name: str
    identity: SigningIdentity
    ledger: Ledger
    store: MerchantStore
    gate: RequestGate
    policy: MerchantPolicy
    resources: LocalResources
    on_event: Callable[[str], None] = lambda event: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    precomputes_costs: bool = True
    seconds_train: float = 0.0
    seconds_encrypt: float = 0.0
    suspended: RefusedError | None = None
    sets: TrainingSets = field(init=False)
    _joined: dict[str, OpenTraining] = field(init=False, default_factory=dict)
    _precomputed_for: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        check_replies(self.ledger, self.store)
        self.sets = TrainingSets(
            store=self.store,
            identity=self.identity,
            data_for=lambda plan: self.resources.data_for(plan),
            declared=self.ledger.declared,
            device=self.resources.device,
        )

    def check_not_suspended(self) -> None:
        """Raise ``RefusedError`` while the merchant takes part in nothing new."""
        if self.suspended is not None:
            raise self.suspended

    def check_server(self, plan: TrainingPlan) -> None:
        """Take plans of the merchant's own server alone: a plan may name any key."""
        if plan.server_key != self.gate.server_key:
            raise RefusedError("the plan names another server's key than the merchant's join file")

    def is_seeded(self, plan: TrainingPlan) -> bool:
        """Whether this merchant's noise of a training comes from a seed."""
        return self.resources.randomness_for(plan, 1).is_seeded

    def check_seeded(self, stored: StoredTraining, plan: TrainingPlan) -> None:
        """Keep to what was said at the join: a report that calls noise unseeded must stay true."""
        if stored.seeded != self.is_seeded(plan):
            said = "from a seed" if stored.seeded else "without one"
            raise RefusedError(f"this merchant joined that training with its noise {said}: it stays so")

    def training(self, training_id: str) -> OpenTraining:
        """Return a training that was joined and is open.

        Raises ``RefusedError`` when it isn't, or its server or the merchant's chance are others than then.
        """
        self.expire()
        stored = self.store.training(training_id)
        if stored.closed:
            raise RefusedError("this training was closed", code="training")
        self.store.mark_active(training_id, now=self.now())
        plan = TrainingPlan.model_validate_json(stored.plan)
        self.check_server(plan)
        self.check_seeded(stored, plan)
        return self.prepare_training(plan)

    def prepare_training(self, plan: TrainingPlan) -> OpenTraining:
        """Derive what a plan means here; ``RefusedError`` when it can't be carried out."""
        if plan.training_id in self._joined:
            return self._joined[plan.training_id]
        try:
            # From shapes alone, before anything of the plan's sizes is allocated: those passed the policy.
            parameters = count_from_shapes(lambda: self.resources.build_model(plan))
            if parameters != plan.dimension:
                raise RefusedError(
                    f"model '{plan.model}' has {parameters} parameters, not {plan.dimension}", code="plan"
                )
            derived = derive(plan)
            check_plan_model(plan)
            model = self.resources.build_model(plan).to(self.resources.device)
        except (ConfigError, AggregationError, MissingExtraError) as error:
            raise RefusedError(f"the plan can't be carried out: {error}", code="plan") from None
        joined = OpenTraining(plan=plan, derived=derived, model=model)
        self._joined = {plan.training_id: joined}
        return joined

    def open_derived(self) -> Derived:
        """Return what follows from the plan of the training that is open, the last one joined.

        Raises ``RefusedError`` when none is.
        """
        found = self.store.open_trainings()
        if not found:
            raise RefusedError(
                "no training is open at this merchant: it was closed, or never joined", code="training"
            )
        joined = self._joined.get(found[-1])
        if joined is not None:
            return joined.derived
        return derive(TrainingPlan.model_validate_json(self.store.training(found[-1]).plan))

    def expire(self) -> list[str]:
        """Finish the trainings that the server has left alone for longer than the policy allows; return them.

        A server that sends neither a close nor another training would else keep their keys on disk for ever.
        """
        finished = self.store.finish_inactive(now=self.now(), days=self.policy.training_expires_days)
        for training_id in finished:
            self.release_training(training_id)
            _log.warning("training %s expired: its keys are deleted", training_id[:16])
        return finished

    def release_training(self, training_id: str) -> None:
        """Forget what is in memory of a training."""
        self._joined.pop(training_id, None)
        self.sets.close(training_id)

    def cost(self, joined: OpenTraining, round_number: int, *, model_hash: str, seeded: bool) -> Charge:
        """Return what a round is charged under the policy of now."""
        return round_charge(
            joined.plan,
            joined.derived,
            round_number=round_number,
            model_hash=model_hash,
            policy_hash=self.policy.hash,
            seeded=seeded,
        )

    def first_cost(self, joined: OpenTraining) -> Charge:
        """Return what the first round costs, and so any of them."""
        plan = joined.plan
        return self.cost(joined, 1, model_hash=plan.initial_model_hash, seeded=self.is_seeded(plan))

    def precompute_costs(self, joined: OpenTraining) -> None:
        """Have the ledger compose the training's rounds, once a life: each charge is then a look-up."""
        if joined.plan.training_id != self._precomputed_for and self.precomputes_costs:
            self._precomputed_for = joined.plan.training_id
            self.ledger.prepare(self.first_cost(joined))

    def signed_head(self, plan: TrainingPlan, round_number: int, moment: HeadMoment) -> SignedLedgerHead:
        """Return the ledger's head, signed for the server."""
        return self.ledger.signed_head(
            training_id=plan.training_id, round_number=round_number, merchant=self.name, moment=moment
        )

    def accept_receipt(self, plan: TrainingPlan, receipt: Receipt | None) -> None:
        """Hold the ledger against what this merchant had signed before; raises as ``accept_receipt`` does.

        Every server has a receipt of this merchant, from its join on: one that brings none is refused once
        anything was charged or answered. (A server that keeps an older one back is a stated limit.)
        """
        if receipt is None:
            if self.ledger.begun:
                raise RefusedError(
                    "the request brings no ledger receipt, and this merchant's ledger has begun"
                )
            return
        if receipt.server_key != plan.server_key:
            raise ProtocolError("a ledger receipt comes from another server than the plan names")
        self.ledger.accept_receipt(receipt)
