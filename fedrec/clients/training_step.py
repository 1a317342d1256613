"""Take a merchant's step of a round: check, charge the ledger, compute, store the exact upload, send it.

The process may stop at any instant, because the steps reach the disk in this order. A round that is charged
but has no stored upload is dropped and never computed again.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from fedrec.clients.charging import lost_rounds, round_charge
from fedrec.clients.context import MerchantContext, OpenTraining
from fedrec.clients.contribution import compute_contribution
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.store_types import CountedSet, FixedSet
from fedrec.clients.uploading import make_upload, round_keys
from fedrec.errors import ProtocolError, RefusedError
from fedrec.protocol.messages import TrainReply, TrainRequest
from fedrec.protocol.reply_encoding import decode_reply, encode_reply
from fedrec.protocol.transport import Blobs, blob_hash, request_hash, take_blob


def train(
    context: MerchantContext, request: TrainRequest, blobs: Blobs
) -> tuple[TrainReply, dict[str, bytes]]:
    """Answer a train request: charge, compute, store, and only then return the upload.

    Args:
        context: the merchant's state.
        request: the server's request.
        blobs: its blobs by name; ``model`` has the parameters.

    Returns:
        The reply and its blobs.

    Raises:
        RefusedError: the round was charged before and has no stored upload, another request was answered in
            it, it is beyond the plan, or a rule doesn't allow it.
        BudgetExceededError: the round doesn't fit the lifetime budget.
        ProtocolError: the model or a key of the request is missing or wrong.
    """
    joined = context.training(request.training_id)
    plan, store = joined.plan, context.store
    if request.round_number > plan.last_round:
        raise RefusedError(f"round {request.round_number} is beyond the plan's {plan.last_round}")
    # Hashed without the receipt, which may differ when the same upload is asked for again.
    hashed = request_hash(request.model_copy(update={"receipt": None}), blobs)
    stored = store.reply("upload", plan.training_id, request.round_number, request_hash=hashed)
    if stored is not None:
        return decode_reply(stored, TrainReply)
    if request.round_number == 1 and request.model_hash != plan.initial_model_hash:
        raise RefusedError("the first round's model is not the initial model of the plan")
    parameters = _parameters(request, blobs, dimension=plan.dimension)
    current = joined.in_round(request.round_number)
    keys = round_keys(request, blobs, plan=plan, scheme=current.derived.scheme)
    rules = _check_rules(context, joined, request)
    context.accept_receipt(plan, request.receipt)
    context.precompute_costs(joined)
    fixed = context.sets.fix(plan, policy=context.policy)
    # Loaded before the charge: a photo that is missing by now is not used in the step.
    records = context.sets.records(plan, fixed)
    # The charge records whether this very stream is seeded.
    rng = context.resources.randomness_for(plan, request.round_number)
    _charge(context, joined, request, fixed, seeded=rng.is_seeded, rules=rules)
    context.on_event("charged")
    started = time.process_time()
    values = compute_contribution(
        joined.model,
        parameters,
        records,
        plan=plan,
        noise=current.derived.noise,
        rng=rng,
        figures=plan.is_of_figures(request.round_number),
    )
    trained = time.process_time()
    signed, sent = make_upload(
        values,
        request,
        training=current,
        keys=keys,
        identity=context.identity,
        merchant=context.name,
        rng=rng,
    )
    head = context.signed_head(plan, request.round_number, "charged")
    reply = TrainReply(merchant=context.name, signed=signed, head=head)
    context.seconds_train += trained - started
    context.seconds_encrypt += time.process_time() - trained
    store.put_upload(
        plan.training_id, request.round_number, request_hash=hashed, body=encode_reply(reply, sent)
    )
    context.on_event("stored")
    return reply, sent


def _check_rules(context: MerchantContext, joined: OpenTraining, request: TrainRequest) -> MerchantPolicy:
    """Return the rules of a round; raise ``RefusedError`` if they don't allow it now."""
    context.check_not_suspended()
    policy, now = context.allow(joined), context.now()
    policy.check_round(now=now, rounds_today=context.ledger.rounds_since(policy.day_start(now)))
    lost = lost_rounds(
        context.ledger.entries(), training_id=joined.plan.training_id, model_hash=request.model_hash
    )
    policy.check_lost(lost=lost, rounds=joined.plan.rounds)
    return policy


def _parameters(request: TrainRequest, blobs: Blobs, *, dimension: int) -> NDArray[np.float32]:
    blob = take_blob(blobs, "model")
    if len(blob) != 4 * dimension or blob_hash(blobs, "model") != request.model_hash:
        raise ProtocolError("the model doesn't match its hash, or has a wrong size")
    parameters: NDArray[np.float32] = np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False)
    if not np.isfinite(parameters).all():
        raise ProtocolError("the model holds values that are not finite")
    return parameters


def _charge(
    context: MerchantContext,
    joined: OpenTraining,
    request: TrainRequest,
    fixed: FixedSet,
    *,
    seeded: bool,
    rules: MerchantPolicy,
) -> None:
    charge = round_charge(
        joined.plan,
        joined.derived,
        round_number=request.round_number,
        model_hash=request.model_hash,
        policy_hash=rules.hash,
        seeded=seeded,
    )
    # The ledger entry contains only the policy's hash; an auditor needs the text of that policy.
    context.store.keep_policy(rules.rules)
    entry = context.ledger.charge(charge, version=fixed.version)
    if entry.already_charged:
        raise RefusedError(
            f"round {request.round_number} was charged before and has no stored upload: it stays dropped"
        )
    counted = CountedSet(held=fixed.held, version=fixed.version)
    if fixed.version and counted != context.store.counted():
        context.store.put_counted(counted)
