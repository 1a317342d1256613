"""One merchant: it checks a plan, charges its ledger, trains, shares its key, and helps to open only a sum.

What makes it safe to stop at any instant is the order on disk: charge; compute; store the exact signed
upload; send. A round that is charged and has no stored upload is dropped, never computed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.store import MerchantStore
from fedrec.errors import AggregationError, ConfigError, MissingExtraError, ProtocolError, RefusedError
from fedrec.privacy.accounting.ledger import Charge, Ledger
from fedrec.privacy.aggregation.committee import check_plan, check_sealing_keys, check_survivors
from fedrec.privacy.derive import Derived, derive, reported_views, rounded_size
from fedrec.privacy.dp.clipping import load_parameter_vector, parameter_count
from fedrec.privacy.dp.step import contribute, local_update
from fedrec.privacy.identity import SealingKey, SigningIdentity, seal
from fedrec.privacy.randomness import Randomness
from fedrec.protocol import (
    COMMITMENT_CONTEXT,
    SEALING_KEY_CONTEXT,
    CloseReply,
    CloseRequest,
    Commitment,
    JoinReply,
    JoinRequest,
    SignedCommitment,
    SignedSealingKey,
    TrainingPlan,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
    freeze,
    request_hash,
    sha256_hex,
    share_binding,
    take_blob,
    thaw,
)
from fedrec.protocol import (
    SealingKey as SealingKeyStatement,
)

UNIT = "record"
ADJACENCY = "add-or-remove"
DUPLICATE_POLICY = "exact duplicates (decoded pixels and label) dropped"

Blobs = Mapping[str, bytes]


@dataclass(frozen=True)
class TrainingData:
    """A merchant's records as model inputs, float32 (n, views, ...), and labels, int64 (n,)."""

    inputs: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class _Joined:
    """What a merchant derived from a plan it joined."""

    plan: TrainingPlan
    derived: Derived
    model: nn.Module
    data: TrainingData


@dataclass
class Merchant:
    """A merchant's side of every training.

    ``data_for`` gives the records as the plan's model takes them, ``build_model`` that model, and
    ``randomness_for`` a fresh stream per (training, round): from the operating system, unless the
    merchant itself asked for a simulation's. ``on_event`` is told each durable step; tests stop there.
    ``seconds_train`` and ``seconds_encrypt`` add up CPU time for the merchant's own eyes: a reply to the
    server never holds a timing.
    """

    name: str
    identity: SigningIdentity
    ledger: Ledger
    store: MerchantStore
    policy: MerchantPolicy
    data_for: Callable[[TrainingPlan], TrainingData]
    build_model: Callable[[TrainingPlan], nn.Module]
    randomness_for: Callable[[TrainingPlan, int], Randomness]
    device: torch.device
    on_event: Callable[[str], None] = lambda event: None
    seconds_train: float = 0.0
    seconds_encrypt: float = 0.0

    def __post_init__(self) -> None:
        self._joined: dict[str, _Joined] = {}

    def join(self, request: JoinRequest) -> JoinReply:
        """Join a training, or raise ``RefusedError`` with the rule that the plan breaks."""
        plan = request.plan
        self.policy.check(plan)
        if plan.mode == "distributed" and plan.cohort < 3:
            raise RefusedError(f"'distributed' needs at least 3 merchants, the plan has {plan.cohort}")
        check_plan(plan)
        if plan.key_of(self.name) != self.identity.public:
            raise RefusedError("the roster has another key under this merchant's name")
        self._prepare(plan)
        # One training at a time: whoever starts the next can't leave the last one's sealing key behind.
        self.store.finish_others(plan.training_id)
        sealing = SealingKey.generate()
        stored = self.store.join(
            plan.training_id, plan=plan.canonical_bytes(), sealing_private=sealing.private_bytes()
        )
        if stored.closed or stored.sealing_private is None:
            raise RefusedError("this training was closed")
        if self.name not in plan.committee:
            return JoinReply(merchant=self.name)
        statement = SealingKeyStatement(
            training_id=plan.training_id,
            merchant=self.name,
            public_key=SealingKey.from_private_bytes(stored.sealing_private).public.hex(),
        )
        signature = self.identity.sign(statement.canonical_bytes(), context=SEALING_KEY_CONTEXT)
        return JoinReply(
            merchant=self.name, sealing_key=SignedSealingKey(statement=statement, signature=signature.hex())
        )

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
        sealing_keys = check_sealing_keys(request.sealing_keys, plan=plan)
        self._charge(joined, request)
        self.on_event("charged")
        rng = self.randomness_for(plan, request.round_number)
        started = time.process_time()
        values = self._contribution(joined, parameters, rng=rng)
        trained = time.process_time()
        reply, sent = self._upload(joined, request, values, sealing_keys=sealing_keys, rng=rng)
        self.seconds_train += trained - started
        self.seconds_encrypt += time.process_time() - trained
        self.store.put_reply(
            "upload", plan.training_id, request.round_number, request_hash=hashed, body=freeze(reply, sent)
        )
        self.on_event("stored")
        return reply, sent

    def unmask(self, request: UnmaskRequest, blobs: Blobs) -> tuple[UnmaskReply, dict[str, bytes]]:
        """Answer one survivor set of a round with ONE share of its summed key; any other set gets a no."""
        joined = self._training(request.training_id)
        plan, scheme = joined.plan, joined.derived.scheme
        if self.name not in plan.committee:
            raise RefusedError("this merchant is not on the committee")
        if request.round_number > plan.rounds:
            raise RefusedError(f"round {request.round_number} is beyond the plan's {plan.rounds}")
        hashed = request_hash(request, blobs)
        stored = self.store.reply("answer", plan.training_id, request.round_number, request_hash=hashed)
        if stored is not None:
            return thaw(stored, UnmaskReply)
        commitments = check_survivors(request.survivors, plan=plan, round_number=request.round_number)
        position = plan.committee.index(self.name)
        private = self.store.training(plan.training_id).sealing_private
        if private is None:
            raise RefusedError("this training was closed")
        key = SealingKey.from_private_bytes(private)
        shares: list[bytes] = []
        for number, commitment in enumerate(commitments, start=1):
            box = take_blob(blobs, f"share-{number}")
            if sha256_hex(box) != commitment.share_hashes[position]:
                raise ProtocolError(f"the share of '{commitment.merchant}' is not the one it committed to")
            binding = share_binding(
                training_id=plan.training_id,
                round_number=request.round_number,
                dealer=commitment.merchant,
                member=self.name,
            )
            share = key.open(box, binding=binding)
            if scheme.check_share(share) != position + 1:
                raise ProtocolError(f"'{commitment.merchant}' dealt a share that is not this member's")
            shares.append(share)
        reply, sent = UnmaskReply(merchant=self.name), {"share": scheme.combine_shares(shares)}
        self.store.put_reply(
            "answer", plan.training_id, request.round_number, request_hash=hashed, body=freeze(reply, sent)
        )
        self.on_event("answered")
        return reply, sent

    def close_training(self, request: CloseRequest) -> CloseReply:
        """Delete the training's sealing key and stored bodies."""
        self.store.finish(request.training_id)
        self._joined.pop(request.training_id, None)
        return CloseReply(merchant=self.name)

    def _prepare(self, plan: TrainingPlan) -> _Joined:
        """Derive what a plan means here; ``RefusedError`` when it can't be carried out."""
        if plan.training_id in self._joined:
            return self._joined[plan.training_id]
        try:
            derived = derive(plan)
            model = self.build_model(plan).to(self.device)
            data = self.data_for(plan)
        except (ConfigError, AggregationError, MissingExtraError) as error:
            raise RefusedError(f"the plan can't be carried out: {error}") from None
        if parameter_count(model) != plan.dimension:
            raise RefusedError(
                f"model '{plan.model}' has {parameter_count(model)} parameters, not {plan.dimension}"
            )
        joined = _Joined(plan=plan, derived=derived, model=model, data=data)
        self._joined = {plan.training_id: joined}
        return joined

    def _training(self, training_id: str) -> _Joined:
        stored = self.store.training(training_id)
        if stored.closed:
            raise RefusedError("this training was closed")
        return self._prepare(TrainingPlan.model_validate_json(stored.plan))

    @staticmethod
    def _parameters(request: TrainRequest, blobs: Blobs, *, dimension: int) -> NDArray[np.float64]:
        blob = take_blob(blobs, "model")
        if len(blob) != 4 * dimension or sha256_hex(blob) != request.model_hash:
            raise ProtocolError("the model is not the one its hash names, or of a wrong size")
        parameters = np.frombuffer(blob, dtype="<f4").astype(np.float64)
        if not np.isfinite(parameters).all():
            raise ProtocolError("the model holds values that are not finite")
        return parameters

    def _charge(self, joined: _Joined, request: TrainRequest) -> None:
        plan, noise = joined.plan, joined.derived.noise
        both = reported_views(plan, noise)
        entry = self.ledger.charge(
            Charge(
                training_id=plan.training_id,
                round_number=request.round_number,
                model_hash=request.model_hash,
                mode=plan.mode,
                unit=UNIT,
                adjacency=ADJACENCY,
                duplicate_policy=DUPLICATE_POLICY,
                sample_rate=plan.sample_rate,
                clip=plan.clip,
                planned_noise_multiplier=noise.noise_multiplier,
                guaranteed_noise_multiplier=both.server,
                broken_noise_multiplier=both.aggregation_broken,
                beta=noise.beta,
                scale=noise.scale,
                sensitivity=noise.sensitivity,
                min_contributors=plan.min_contributors,
                colluders=plan.colluders,
                delta=plan.delta,
                steps=plan.local_steps,
            )
        )
        if entry.already_charged:
            raise RefusedError(
                f"round {request.round_number} was charged before and has no stored upload: it stays dropped"
            )

    def _contribution(
        self, joined: _Joined, parameters: NDArray[np.float64], *, rng: Randomness
    ) -> NDArray[np.int64]:
        plan, data = joined.plan, joined.data
        load_parameter_vector(joined.model, parameters)
        if plan.mode == "local" or plan.local_steps > 1:
            return local_update(
                joined.model,
                data.inputs,
                data.labels,
                clip=plan.clip,
                plan=joined.derived.noise,
                sample_rate=plan.sample_rate,
                learning_rate=plan.local_learning_rate,
                own_size=rounded_size(len(data.labels)),
                rng=rng,
            )
        return contribute(
            joined.model,
            data.inputs,
            data.labels,
            clip=plan.clip,
            plan=joined.derived.noise,
            sample_rate=plan.sample_rate,
            rng=rng,
        )

    def _upload(
        self,
        joined: _Joined,
        request: TrainRequest,
        values: NDArray[np.int64],
        *,
        sealing_keys: Mapping[str, bytes],
        rng: Randomness,
    ) -> tuple[TrainReply, dict[str, bytes]]:
        plan, scheme = joined.plan, joined.derived.scheme
        encrypted = scheme.encrypt(
            values,
            training_id=plan.training_id,
            round_number=request.round_number,
            rng=rng.child("encryption", plan.training_id),
        )
        boxes: list[bytes] = []
        if encrypted.key is not None:
            shares = scheme.key_shares(
                encrypted.key,
                members=len(plan.committee),
                threshold=plan.threshold,
                rng=rng.child("shares", plan.training_id),
            )
            for (member, public), share in zip(sealing_keys.items(), shares, strict=True):
                binding = share_binding(
                    training_id=plan.training_id,
                    round_number=request.round_number,
                    dealer=self.name,
                    member=member,
                )
                boxes.append(seal(public, share, binding=binding))
        commitment = Commitment(
            training_id=plan.training_id,
            round_number=request.round_number,
            merchant=self.name,
            model_hash=request.model_hash,
            ciphertext_hash=sha256_hex(encrypted.ciphertext),
            share_hashes=tuple(map(sha256_hex, boxes)),
        )
        signature = self.identity.sign(commitment.canonical_bytes(), context=COMMITMENT_CONTEXT)
        signed = SignedCommitment(commitment=commitment, signature=signature.hex())
        blobs = {"ciphertext": encrypted.ciphertext}
        blobs |= {f"share-{x}": box for x, box in enumerate(boxes, start=1)}
        return TrainReply(merchant=self.name, signed=signed), blobs
