"""Hold the state that a merchant's answers share: name, keys, ledger, store, policy and open training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import torch
from torch import nn

from fedrec._internal.shared_results import SHARED
from fedrec.clients.charging import check_replies, figures_charge, round_charge
from fedrec.clients.plan_resources import check_plan_model
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.records import TrainingData
from fedrec.clients.request_gate import RequestGate
from fedrec.clients.roster_updates import RosterFollower
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_types import StoredTraining
from fedrec.clients.training_set import TrainingSets
from fedrec.errors import AggregationError, ConfigError, MissingExtraError, ProtocolError, RefusedError
from fedrec.observability.deduplicated_log import DeduplicatedLog
from fedrec.privacy.accounting.entry_contents import Answer, Charge
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.derived_parameters import Derived, derive
from fedrec.privacy.dp.vectors import count_from_shapes
from fedrec.privacy.identity import SigningIdentity
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import HeadMoment, Receipt, SignedLedgerHead

_log = logging.getLogger(__name__)
_COUNT_BYTES = 256
"""Memory of a kept number of parameters and its key."""


@dataclass(frozen=True)
class LocalResources:
    """A merchant's sources of records, models and randomness, and its device.

    Attributes:
        data_for: loads the records in the form that a plan's model takes.
        build_model: builds the model of a plan.
        randomness_for: returns a fresh stream for a plan and a round. It comes from the operating system,
            except in simulations with a seed.
        device: the device on which models are trained.
    """

    data_for: Callable[[TrainingPlan], TrainingData]
    build_model: Callable[[TrainingPlan], nn.Module]
    randomness_for: Callable[[TrainingPlan, int], Randomness]
    device: torch.device


@dataclass(frozen=True)
class OpenTraining:
    """A training that this merchant joined: its plan, the parameters derived from it, and the model."""

    plan: TrainingPlan
    derived: Derived
    model: nn.Module

    def in_round(self, round_number: int) -> OpenTraining:
        """Return the training with the parameters of one of its rounds, which may be its site figures'."""
        return replace(self, derived=self.derived.of_round(round_number))


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
        rosters: accepts rosters that follow from the approved one; None if each is approved by hand.
        on_event: called after each durable step, with the step's name; tests interrupt there.
        now: returns the time, with a time zone.
        precomputes_costs: whether the epsilons of all rounds are composed once per training. Not worth it for
            a merchant that handles a single message.
        seconds_train: CPU seconds spent on training. Only the merchant sees them: a reply to the server never
            contains a timing.
        seconds_encrypt: CPU seconds spent on encryption, likewise.
        suspended: the refusal of all plans and rounds; None while they are accepted.
        sets: fixes and loads the records of each training.
        abstentions: logs why no round of a training that was joined is allowed now; the topic is its id.
    """

    name: str
    identity: SigningIdentity
    ledger: Ledger
    store: MerchantStore
    gate: RequestGate
    policy: MerchantPolicy
    resources: LocalResources
    rosters: RosterFollower | None = None
    on_event: Callable[[str], None] = lambda event: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    precomputes_costs: bool = True
    seconds_train: float = 0.0
    seconds_encrypt: float = 0.0
    suspended: RefusedError | None = None
    sets: TrainingSets = field(init=False)
    abstentions: DeduplicatedLog = field(init=False, default_factory=lambda: DeduplicatedLog(_log))
    _joined: dict[str, OpenTraining] = field(init=False, default_factory=dict)
    _precomputed_for: str | None = field(init=False, default=None)
    _allowed: tuple[MerchantPolicy, str, MerchantPolicy] | None = field(init=False, default=None)

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
        """Raise ``RefusedError`` while the merchant is suspended."""
        if self.suspended is not None:
            raise self.suspended

    def check_server(self, plan: TrainingPlan) -> None:
        """Raise ``RefusedError`` unless the plan names the key of the merchant's own server."""
        if plan.server_key != self.gate.server_key:
            raise RefusedError("the plan's server key is not that of the merchant's join file")

    def follow_roster(self, request: JoinRequest) -> None:
        """Accept a plan's roster that follows from the approved one; raise ``RefusedError`` if it doesn't."""
        if self.rosters is not None:
            self.policy = self.rosters.follow(request, policy=self.policy)

    def allow(self, joined: OpenTraining) -> MerchantPolicy:
        """Check an open training against the rules in force, which may be stricter than when it was joined.

        A training is checked again only after the policy was replaced.

        Args:
            joined: the training.

        Returns:
            The rules that its rounds are charged under. They are those in force, but a roster that was
            approved as the training was joined stays approved for it.

        Raises:
            RefusedError: the plan breaks a rule, which the message names.
        """
        policy, plan, last = self.policy, joined.plan, self._allowed
        if last is not None and last[0] is policy and last[1] == plan.training_id:
            return last[2]
        rules = policy if self.rosters is None else self.rosters.rules_for(plan, policy=policy)
        rules.check(plan)
        rules.check_cost(plan, joined.derived)
        if self.name in plan.committee:
            rules.check_window(plan)
        self._allowed = policy, plan.training_id, rules
        return rules

    def is_seeded(self, plan: TrainingPlan) -> bool:
        """Return whether this merchant's noise in a training comes from a seed."""
        return self.resources.randomness_for(plan, 1).is_seeded

    def check_seeded(self, stored: StoredTraining, plan: TrainingPlan) -> None:
        """Check that the noise is seeded, or not, as the merchant declared when it joined.

        Otherwise the report's statement about the noise would become false.

        Args:
            stored: the training as it was joined.
            plan: its plan.

        Raises:
            RefusedError: the noise is seeded now and was not then, or the other way round.
        """
        if stored.seeded != self.is_seeded(plan):
            source = "a seed" if stored.seeded else "the operating system"
            raise RefusedError(
                f"this merchant joined the training with noise from {source}, and can't change it"
            )

    def training(self, training_id: str) -> OpenTraining:
        """Return a training that was joined and is open.

        Raises:
            RefusedError: the training was not joined, is closed or can't be carried out, or its server's key
                or the source of the merchant's noise has changed since.
        """
        self.expire()
        stored = self.store.training(training_id)
        if stored.closed:
            raise RefusedError("this training was closed", code="training")
        self.store.mark_active(training_id, now=self.now())
        joined = self._joined.get(training_id)
        plan = stored.read_plan() if joined is None else joined.plan
        self.check_server(plan)
        self.check_seeded(stored, plan)
        return self.prepare_training(plan)

    def prepare_training(self, plan: TrainingPlan) -> OpenTraining:
        """Derive the parameters of a plan and build its model.

        Returns:
            The training; the last one prepared is kept in memory.

        Raises:
            RefusedError: the plan can't be carried out.
        """
        if plan.training_id in self._joined:
            return self._joined[plan.training_id]
        # The merchants that a process hosts share one copy: a roster of 1,000 takes a megabyte.
        plan = SHARED.of(
            ("plan", plan.training_id), lambda: plan, size=lambda kept: 8 * len(kept.canonical_bytes())
        )
        try:
            # The count uses shapes only: nothing of the plan's size is allocated before the plan is checked.
            parameters = SHARED.of(
                ("parameters", plan.training_id),
                lambda: count_from_shapes(lambda: self.resources.build_model(plan)),
                size=lambda count: _COUNT_BYTES,
            )
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

    def derived_of_open_training(self) -> Derived:
        """Return the parameters derived from the plan of the open training, the last one joined.

        Raises:
            RefusedError: no training is open, or another version of this program stored its plan.
        """
        found = self.store.open_trainings()
        if not found:
            raise RefusedError(
                "no training is open at this merchant: it was closed, or never joined", code="training"
            )
        joined = self._joined.get(found[-1])
        if joined is not None:
            return joined.derived
        return derive(self.store.training(found[-1]).read_plan())

    def expire(self) -> list[str]:
        """Close the trainings without a request for longer than the policy allows.

        Otherwise a server that sends neither a close nor another training would keep their keys on disk for
        ever.

        Returns:
            The ids of the trainings that were closed.
        """
        finished = self.store.finish_inactive(now=self.now(), days=self.policy.training_expires_days)
        for training_id in finished:
            self.release_training(training_id)
            _log.warning("training %s expired: its keys are deleted", training_id[:16])
        return finished

    def release_training(self, training_id: str) -> None:
        """Drop a training's model and records from memory."""
        self._joined.pop(training_id, None)
        self.sets.close(training_id)
        self.abstentions.end(training_id)

    def first_cost(self, joined: OpenTraining) -> Charge:
        """Build the charge of the first round; every other round of the training costs the same."""
        plan = joined.plan
        return round_charge(
            plan,
            joined.derived,
            round_number=1,
            model_hash=plan.initial_model_hash,
            policy_hash=self.policy.hash,
            seeded=self.is_seeded(plan),
        )

    def figures_cost(self, joined: OpenTraining) -> Charge | None:
        """Build the charge of the site figures; None where the plan asks for none."""
        return figures_charge(joined.plan, joined.derived, self.first_cost(joined))

    def precompute_costs(self, joined: OpenTraining) -> None:
        """Compose the epsilons of all rounds once per training, so that each charge is a look-up."""
        if joined.plan.training_id != self._precomputed_for and self.precomputes_costs:
            self._precomputed_for = joined.plan.training_id
            self.ledger.prepare(self.first_cost(joined))

    def signed_head(self, plan: TrainingPlan, round_number: int, moment: HeadMoment) -> SignedLedgerHead:
        """Sign the ledger's head for the server.

        Args:
            plan: the training's plan.
            round_number: the round, 0 for the join.
            moment: the event after which the head is sent.

        Returns:
            The signed head.
        """
        return self.ledger.signed_head(
            training_id=plan.training_id, round_number=round_number, merchant=self.name, moment=moment
        )

    def answered_head(self, plan: TrainingPlan, round_number: int) -> SignedLedgerHead:
        """Sign the ledger's head after an answer.

        Args:
            plan: the training's plan.
            round_number: the round.

        Returns:
            The signed head.
        """
        return self.signed_head(plan, round_number, "answered")

    def mark_answer(
        self, plan: TrainingPlan, *, round_number: int, request_hash: str, receipt: Receipt | None
    ) -> None:
        """Write an entry into the ledger that a request is answered, before any key is used.

        Args:
            plan: the training's plan.
            round_number: the round.
            request_hash: hash of the request.
            receipt: the receipt that came with it.

        Raises:
            FedrecError: the receipt is refused, or the ledger has an answer of this round.
        """
        self.accept_receipt(plan, receipt)
        self.ledger.answer(
            Answer(training_id=plan.training_id, round_number=round_number, request_hash=request_hash)
        )

    def accept_receipt(self, plan: TrainingPlan, receipt: Receipt | None) -> None:
        """Check the ledger against the server's receipt for an earlier head of it.

        A server has a receipt for this merchant from the join on. A request without one is refused once the
        ledger has a charge or an answer. A server that sends an old receipt isn't detected.

        Args:
            plan: the training's plan.
            receipt: the receipt of the request, if it has one.

        Raises:
            RefusedError: the receipt is missing.
            ProtocolError: the receipt is from another server, or is not valid.
            LedgerError: the ledger lacks the entry that the receipt names.
        """
        if receipt is None:
            if self.ledger.begun:
                raise RefusedError(
                    "the request brings no ledger receipt, and this merchant's ledger already has charges"
                )
            return
        if receipt.server_key != plan.server_key:
            raise ProtocolError("a ledger receipt is from another server than the plan's")
        self.ledger.accept_receipt(receipt)
