"""One merchant: it checks a plan, charges its ledger, trains, shares its key, and helps to open only a sum.

What makes it safe to stop at any instant is the order on disk: charge; compute; store the exact signed
upload; send. A round that is charged and has no stored upload is dropped, never computed again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedrec.clients.charging import check_replies, lost_rounds, round_charge
from fedrec.clients.contribution import contribution
from fedrec.clients.gate import RequestGate
from fedrec.clients.joining import join_reply, make_secrets
from fedrec.clients.opening import answer_as_holder, answer_as_member, parts_of
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.records import TrainingData
from fedrec.clients.store import CountedSet, FixedSet, MerchantStore, StoredTraining
from fedrec.clients.stored_reply import freeze, thaw
from fedrec.clients.training_set import TrainingSets
from fedrec.clients.uploading import make_upload, round_keys
from fedrec.errors import AggregationError, ConfigError, MissingExtraError, ProtocolError, RefusedError
from fedrec.privacy.accounting.kinds import Answer, Charge
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.aggregation.committee import (
    check_plan,
    check_survivors,
)
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme
from fedrec.privacy.derive import (
    Derived,
    derive,
)
from fedrec.privacy.dp.vectors import count_from_shapes
from fedrec.privacy.identity import SealingKey, SigningIdentity
from fedrec.privacy.randomness import Randomness
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
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import Commitment, Receipt
from fedrec.protocol.transport import request_hash, take_blob

Blobs = Mapping[str, bytes]
PAUSED = "the merchant has paused: it takes part in no new round until it resumes"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Joined:
    """What a merchant derived from a plan it joined."""

    plan: TrainingPlan
    derived: Derived
    model: nn.Module


@dataclass
class Merchant:
    """A merchant's side of every training.

    ``gate`` holds the key of the server that this merchant serves, and takes that server's requests alone.
    ``data_for`` reads the records as the plan's model takes them, ``build_model`` makes that model, and
    ``randomness_for`` a fresh stream per (training, round): from the operating system, unless the
    merchant itself asked for a simulation's. ``on_event`` is told each durable step; tests stop there.
    ``works_ahead`` has the epsilons of the rounds to come composed once: a waste for a merchant that lives
    for one message. ``seconds_train`` and ``seconds_encrypt`` add up CPU time for the merchant's own eyes: a
    reply to the server never holds a timing.
    """

    name: str
    identity: SigningIdentity
    ledger: Ledger
    store: MerchantStore
    gate: RequestGate
    policy: MerchantPolicy
    data_for: Callable[[TrainingPlan], TrainingData]
    build_model: Callable[[TrainingPlan], nn.Module]
    randomness_for: Callable[[TrainingPlan, int], Randomness]
    device: torch.device
    on_event: Callable[[str], None] = lambda event: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    works_ahead: bool = True
    seconds_train: float = 0.0
    seconds_encrypt: float = 0.0

    def __post_init__(self) -> None:
        check_replies(self.ledger, self.store)
        self._joined: dict[str, _Joined] = {}
        self._worked_out: set[str] = set()
        self._suspended: RefusedError | None = None
        self._unfixed: TrainingPlan | None = None
        self._sets = TrainingSets(
            store=self.store,
            identity=self.identity,
            data_for=lambda plan: self.data_for(plan),
            declared=self.ledger.declared,
            device=self.device,
        )

    def follow(self, policy: MerchantPolicy) -> None:
        """Hold plans, rounds and charges to come against another policy of the merchant's own."""
        self.ledger.follow(
            epsilon_lifetime=policy.lifetime_epsilon,
            delta_lifetime=policy.lifetime_delta,
        )
        self.policy = policy
        self._suspended = None

    def suspend(self, reason: str) -> None:
        """Refuse every plan and every new round with this reason, until there is a policy to follow."""
        self._suspended = RefusedError(reason, code="paused")

    def _check_suspended(self) -> None:
        if self._suspended is not None:
            raise self._suspended

    def join(self, request: JoinRequest) -> tuple[JoinReply, dict[str, bytes]]:
        """Join a training, or raise ``RefusedError`` with the rule that the plan breaks.

        No photo is looked at: what a join brings follows from plan, policy, ledger and keys. The records that
        the training uses are fixed by :meth:`prepare`, or with its first round.
        """
        plan = request.plan
        self._check_suspended()
        self._check_server(plan)
        self.policy.check(plan)
        least = plan.privacy_mode.least_merchants
        if plan.cohort < least:
            raise RefusedError(
                f"'{plan.mode}' needs at least {least} merchants, the plan has {plan.cohort}", code="plan"
            )
        check_plan(plan)
        if plan.key_of(self.name) != self.identity.public:
            raise RefusedError("the roster has another key under this merchant's name", code="plan")
        joined = self._prepare(plan)
        self.policy.check_cost(plan, joined.derived)
        self.ledger.check_ahead(self._first_cost(joined))
        self.expire()
        if self.store.is_closed(plan.training_id):
            raise RefusedError("this training was closed", code="training")
        # One training at a time: whoever starts the next can't leave the last one's sealing key behind.
        self.store.finish_others(plan.training_id)
        stored = self.store.join(
            plan.training_id,
            plan=plan.canonical_bytes(),
            seeded=self._is_seeded(plan),
            make_secrets=lambda: make_secrets(plan, joined.derived.scheme, merchant=self.name),
        )
        self._check_seeded(stored, plan)
        self.store.see(plan.training_id, now=self.now())
        self._work_out_costs(joined)
        self._unfixed = plan
        return join_reply(
            plan,
            stored.secrets,
            merchant=self.name,
            identity=self.identity,
            seeded=self._is_seeded(plan),
            head=self.ledger.signed_head(
                training_id=plan.training_id, round_number=0, merchant=self.name, moment="joined"
            ),
        )

    def prepare(self) -> None:
        """Fix the records of the training that was joined last, once the answer to its join is sent."""
        plan, self._unfixed = self._unfixed, None
        if plan is not None:
            self._sets.fix(plan, policy=self.policy)

    def _work_out_costs(self, joined: _Joined) -> None:
        """Have the ledger compose the training's rounds, once a life: each charge is then a look-up."""
        if joined.plan.training_id not in self._worked_out and self.works_ahead:
            self._worked_out = {joined.plan.training_id}
            self.ledger.prepare(self._first_cost(joined))

    def _first_cost(self, joined: _Joined) -> Charge:
        """What the first round costs, and so any of them."""
        plan = joined.plan
        return self._cost(joined, 1, model_hash=plan.initial_model_hash, seeded=self._is_seeded(plan))

    def _cost(self, joined: _Joined, round_number: int, *, model_hash: str, seeded: bool) -> Charge:
        return round_charge(
            joined.plan,
            joined.derived,
            round_number=round_number,
            model_hash=model_hash,
            policy_hash=self.policy.hash,
            seeded=seeded,
        )

    def _is_seeded(self, plan: TrainingPlan) -> bool:
        return self.randomness_for(plan, 1).is_seeded

    def train(self, request: TrainRequest, blobs: Blobs) -> tuple[TrainReply, dict[str, bytes]]:
        """Answer a round's train request: charge, compute, store, and only then return the upload.

        Raises ``RefusedError`` when the round was charged before without a stored upload, was answered to
        another request, or is beyond the plan; ``BudgetExceededError`` when the ledger is full.
        """
        joined = self._training(request.training_id)
        plan = joined.plan
        if request.round_number > plan.rounds:
            raise RefusedError(f"round {request.round_number} is beyond the plan's {plan.rounds}")
        hashed = request_hash(request, blobs)
        stored = self.store.reply("upload", plan.training_id, request.round_number, request_hash=hashed)
        if stored is not None:
            return thaw(stored, TrainReply)
        if request.round_number == 1 and request.model_hash != plan.initial_model_hash:
            raise RefusedError("the first round's model is not the one that the plan names")
        parameters = self._parameters(request, blobs, dimension=plan.dimension)
        keys = round_keys(request, blobs, plan=plan, scheme=joined.derived.scheme)
        self._check_suspended()
        now = self.now()
        today = self.ledger.rounds_since(self.policy.day_start(now))
        self.policy.check_round(now=now, rounds_today=today)
        lost = lost_rounds(self.ledger.entries(), training_id=plan.training_id, model_hash=request.model_hash)
        self.policy.check_lost(lost=lost, rounds=plan.rounds)
        self._keep_receipt(plan, request.receipt)
        self._work_out_costs(joined)
        fixed = self._sets.fix(plan, policy=self.policy)
        # Before the charge: a photo that is gone by now takes no part in the step.
        records = self._sets.records(plan, fixed)
        # What is written about the noise is true of the very stream that it is drawn from.
        rng = self.randomness_for(plan, request.round_number)
        self._charge(joined, request, fixed, seeded=rng.is_seeded)
        self.on_event("charged")
        started = time.process_time()
        values = contribution(
            joined.model, parameters, records, plan=plan, noise=joined.derived.noise, rng=rng
        )
        trained = time.process_time()
        signed, sent = make_upload(
            values,
            request,
            plan=plan,
            scheme=joined.derived.scheme,
            keys=keys,
            identity=self.identity,
            merchant=self.name,
            rng=rng,
        )
        head = self.ledger.signed_head(
            training_id=plan.training_id,
            round_number=request.round_number,
            merchant=self.name,
            moment="charged",
        )
        reply = TrainReply(merchant=self.name, signed=signed, head=head)
        self.seconds_train += trained - started
        self.seconds_encrypt += time.process_time() - trained
        self.store.put_upload(
            plan.training_id, request.round_number, request_hash=hashed, body=freeze(reply, sent)
        )
        self.on_event("stored")
        return reply, sent

    def unmask(self, request: UnmaskRequest, blobs: Blobs) -> tuple[UnmaskReply, dict[str, bytes]]:
        """Answer one survivor set of a round, about its sum alone; any other set gets a no."""
        joined = self._training(request.training_id)
        plan = joined.plan
        if self.name not in plan.committee:
            raise RefusedError("this merchant is not on the committee")
        if request.round_number > plan.rounds:
            raise RefusedError(f"round {request.round_number} is beyond the plan's {plan.rounds}")
        # What is asked, whatever receipt comes with it.
        hashed = request_hash(request.model_copy(update={"receipt": None}), blobs)
        stored = self.store.reply("answer", plan.training_id, request.round_number, request_hash=hashed)
        if stored is not None:
            return thaw(stored, UnmaskReply)
        survivors = check_survivors(request.survivors, plan=plan, round_number=request.round_number)
        parts = parts_of(survivors, blobs, scheme=joined.derived.scheme)
        self._keep_receipt(plan, request.receipt)
        # A key is used only once the entry is on disk: whatever fails below, no other set gets a second try.
        self.ledger.answer(
            Answer(training_id=plan.training_id, round_number=request.round_number, request_hash=hashed)
        )
        self.on_event("marked")
        answered, sent = self._answer(joined, survivors, parts, round_number=request.round_number)
        head = self.ledger.signed_head(
            training_id=plan.training_id,
            round_number=request.round_number,
            merchant=self.name,
            moment="answered",
        )
        reply = answered.model_copy(update={"head": head})
        self.store.put_answer(
            plan.training_id, request.round_number, request_hash=hashed, body=freeze(reply, sent)
        )
        self.on_event("answered")
        return reply, sent

    def _answer(
        self, joined: _Joined, survivors: Sequence[Commitment], parts: Sequence[bytes], *, round_number: int
    ) -> tuple[UnmaskReply, dict[str, bytes]]:
        plan, scheme = joined.plan, joined.derived.scheme
        secrets = self.store.training(plan.training_id).secrets
        if isinstance(scheme, CommitteeScheme) and secrets.sealing_private is not None:
            return answer_as_member(
                scheme,
                survivors,
                parts,
                plan=plan,
                round_number=round_number,
                member=self.name,
                sealing_key=SealingKey.from_private_bytes(secrets.sealing_private),
            )
        if isinstance(scheme, HolderScheme) and secrets.decryption_private is not None:
            return answer_as_holder(scheme, parts, merchant=self.name, private_key=secrets.decryption_private)
        raise RefusedError("this merchant has no key of this training")

    def close_training(self, request: CloseRequest) -> CloseReply:
        """Delete the training's sealing key and stored bodies."""
        stored = self.store.training(request.training_id)
        if request.receipt is not None:
            self._keep_receipt(TrainingPlan.model_validate_json(stored.plan), request.receipt)
        self.store.finish(request.training_id)
        self._let_go(request.training_id)
        return CloseReply(merchant=self.name)

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
        finished = self.store.finish_unseen(now=self.now(), days=self.policy.training_expires_days)
        for training_id in finished:
            self._let_go(training_id)
            _log.warning("training %s expired: its keys are deleted", training_id[:16])
        return finished

    def _let_go(self, training_id: str) -> None:
        self._joined.pop(training_id, None)
        self._sets.close(training_id)

    def _prepare(self, plan: TrainingPlan) -> _Joined:
        """Derive what a plan means here; ``RefusedError`` when it can't be carried out."""
        if plan.training_id in self._joined:
            return self._joined[plan.training_id]
        try:
            # From shapes alone, before anything of the plan's sizes is allocated: those passed the policy.
            parameters = count_from_shapes(lambda: self.build_model(plan))
            if parameters != plan.dimension:
                raise RefusedError(
                    f"model '{plan.model}' has {parameters} parameters, not {plan.dimension}", code="plan"
                )
            derived = derive(plan)
            model = self.build_model(plan).to(self.device)
        except (ConfigError, AggregationError, MissingExtraError) as error:
            raise RefusedError(f"the plan can't be carried out: {error}", code="plan") from None
        joined = _Joined(plan=plan, derived=derived, model=model)
        self._joined = {plan.training_id: joined}
        return joined

    def _training(self, training_id: str) -> _Joined:
        self.expire()
        stored = self.store.training(training_id)
        if stored.closed:
            raise RefusedError("this training was closed", code="training")
        self.store.see(training_id, now=self.now())
        plan = TrainingPlan.model_validate_json(stored.plan)
        self._check_server(plan)
        self._check_seeded(stored, plan)
        return self._prepare(plan)

    def _check_server(self, plan: TrainingPlan) -> None:
        """Take plans of the merchant's own server alone: a plan may name any key."""
        if plan.server_key != self.gate.server_key:
            raise RefusedError("the plan names another server's key than the merchant's join file")

    def _check_seeded(self, stored: StoredTraining, plan: TrainingPlan) -> None:
        """Keep to what was said at the join: a report that calls noise unseeded must stay true."""
        if stored.seeded != self._is_seeded(plan):
            said = "from a seed" if stored.seeded else "without one"
            raise RefusedError(f"this merchant joined that training with its noise {said}: it stays so")

    @staticmethod
    def _parameters(request: TrainRequest, blobs: Blobs, *, dimension: int) -> NDArray[np.float32]:
        blob = take_blob(blobs, "model")
        if len(blob) != 4 * dimension or sha256_hex(blob) != request.model_hash:
            raise ProtocolError("the model is not the one its hash names, or of a wrong size")
        parameters: NDArray[np.float32] = np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False)
        if not np.isfinite(parameters).all():
            raise ProtocolError("the model holds values that are not finite")
        return parameters

    def _keep_receipt(self, plan: TrainingPlan, receipt: Receipt | None) -> None:
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

    def _charge(self, joined: _Joined, request: TrainRequest, fixed: FixedSet, *, seeded: bool) -> None:
        charge = self._cost(joined, request.round_number, model_hash=request.model_hash, seeded=seeded)
        # The entry names the rules of its time; an auditor who has only later ones could check nothing.
        self.store.keep_policy(self.policy.rules)
        entry = self.ledger.charge(charge, version=fixed.version)
        if entry.already_charged:
            raise RefusedError(
                f"round {request.round_number} was charged before and has no stored upload: it stays dropped"
            )
        counted = CountedSet(held=fixed.held, version=fixed.version)
        if fixed.version and counted != self.store.counted():
            self.store.put_counted(counted)
