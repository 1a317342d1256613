"""Join a training: check the plan, make the merchant's keys, and sign the reply."""

from __future__ import annotations

from fedrec._internal.text import one_line
from fedrec.clients.context import MerchantContext, OpenTraining
from fedrec.clients.store_types import TrainingSecrets
from fedrec.errors import RefusedError
from fedrec.privacy.accounting.ledger_entries import rotations
from fedrec.privacy.aggregation.committee import check_plan
from fedrec.privacy.aggregation.scheme import HolderScheme, Scheme
from fedrec.privacy.identity import SealingKey, SigningIdentity
from fedrec.protocol.messages import JoinReply, JoinRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.refusals import refusal_of
from fedrec.protocol.schema import MAX_REASON, sha256_hex
from fedrec.protocol.statements import (
    ENCRYPTION_KEY_CONTEXT,
    JOINED_CONTEXT,
    SEALING_KEY_CONTEXT,
    EncryptionKey,
    Joined,
    SignedEncryptionKey,
    SignedLedgerHead,
    SignedSealingKey,
)
from fedrec.protocol.statements import SealingKey as SealingKeyStatement


def join(context: MerchantContext, request: JoinRequest) -> tuple[JoinReply, dict[str, bytes]]:
    """Join a training if policy and ledger allow its plan.

    No photo is read: the reply depends only on plan, policy, ledger and keys. The records of the training are
    fixed after the reply is sent, or in the first round.

    Args:
        context: the merchant's state.
        request: the server's proposal.

    Returns:
        The signed reply and its blobs. Where the training was joined before, and a pause, a rule or the
        budget left doesn't allow it any more, the reply says so.

    Raises:
        RefusedError: the plan breaks a rule, which the message names, or the training is closed.
        BudgetExceededError: the plan's rounds don't fit the lifetime budget.
    """
    plan, store = request.plan, context.store
    # One that was joined is joined again after a restart, since the others may need this merchant's answer
    # about a sum that they were charged for; a new round is refused.
    rejoins = plan.training_id in store.open_trainings()
    if not rejoins:
        context.check_not_suspended()
    context.check_server(plan)
    context.follow_roster(request)
    if not rejoins:
        context.policy.check(plan)
    check_terms(plan)
    if plan.key_of(context.name) != context.identity.public:
        earlier = {rotation.old_key for rotation in rotations(context.ledger.entries())}
        raise RefusedError(
            "this merchant exchanged its key: its newest enrolment file must be enrolled, and the training "
            "planned anew"
            if plan.key_of(context.name).hex() in earlier
            else "the roster has another key under this merchant's name",
            code="plan",
        )
    joined = context.prepare_training(plan)
    refusal = _refusal(context, joined)
    if refusal is not None and not rejoins:
        raise refusal
    context.expire()
    if store.is_closed(plan.training_id):
        raise RefusedError("this training was closed", code="training")
    # One training at a time: otherwise the last one's private key would stay on disk.
    store.finish_others(plan.training_id)
    stored = store.join(
        plan.training_id,
        plan=plan.canonical_bytes(),
        seeded=context.is_seeded(plan),
        make_secrets=lambda: make_secrets(plan, joined.derived.scheme, merchant=context.name),
    )
    context.check_seeded(stored, plan)
    store.mark_active(plan.training_id, now=context.now())
    reply, sent = join_reply(
        plan,
        stored.secrets,
        merchant=context.name,
        identity=context.identity,
        seeded=context.is_seeded(plan),
        head=context.signed_head(plan, 0, "joined"),
    )
    if refusal is None:
        context.abstentions.end(plan.training_id)
        context.precompute_costs(joined)
        return reply, sent
    # A server whose training waits for this merchant asks every few seconds.
    context.abstentions.write(
        plan.training_id,
        f"training {plan.training_id[:16]}, which was joined before: {refusal}; while that holds, nothing "
        "more of it is charged, and this merchant only helps to open the sums of its rounds",
    )
    store.note_refusal(kind="query.join", reason=one_line(refusal, most=MAX_REASON))
    return reply.model_copy(update={"refused": refusal_of(refusal)}), sent


def _refusal(context: MerchantContext, joined: OpenTraining) -> RefusedError | None:
    """Return why a pause, the rules in force, or the budget left allow no round of a training."""
    try:
        context.check_not_suspended()
        context.allow(joined)
        context.ledger.check_ahead(context.first_cost(joined), figures=context.figures_cost(joined))
    except RefusedError as error:
        return error
    return None


def check_terms(plan: TrainingPlan) -> None:
    """Check the rules that hold for every party; raise ``RefusedError`` for a plan that breaks one."""
    least = plan.privacy_mode.least_merchants
    if plan.cohort < least:
        raise RefusedError(
            f"'{plan.mode}' needs at least {least} merchants, the plan has {plan.cohort}", code="plan"
        )
    check_plan(plan)


def make_secrets(plan: TrainingPlan, scheme: Scheme, *, merchant: str) -> TrainingSecrets:
    """Make a party's keys of a training.

    Args:
        plan: the training's plan.
        scheme: its aggregation scheme.
        merchant: the name of the merchant or witness.

    Returns:
        The keys; none if it isn't on the committee.
    """
    if merchant not in plan.committee:
        return TrainingSecrets()
    if isinstance(scheme, HolderScheme):
        pair = scheme.make_keys()
        return TrainingSecrets(decryption_private=pair.private, encryption_public=pair.public)
    return TrainingSecrets(sealing_private=SealingKey.generate().private_bytes())


def join_reply(
    plan: TrainingPlan,
    secrets: TrainingSecrets,
    *,
    merchant: str,
    identity: SigningIdentity,
    seeded: bool,
    head: SignedLedgerHead | None,
) -> tuple[JoinReply, dict[str, bytes]]:
    """Build and sign the reply to a join request.

    Args:
        plan: the training's plan.
        secrets: the merchant's keys of the training; the reply contains their public halves.
        merchant: the merchant's name.
        identity: its signing identity.
        seeded: whether its noise comes from a seed.
        head: the signed head of its ledger; None of a witness, which has none.

    Returns:
        The reply, and the blob ``encryption-key`` if the merchant holds the training's key.
    """
    joined = Joined(training_id=plan.training_id, merchant=merchant, seeded=seeded)
    joins = identity.sign(joined.canonical_bytes(), context=JOINED_CONTEXT).hex()
    reply = JoinReply(merchant=merchant, seeded=seeded, signature=joins, head=head)
    if secrets.sealing_private is not None:
        sealing = SealingKeyStatement(
            training_id=plan.training_id,
            merchant=merchant,
            public_key=SealingKey.from_private_bytes(secrets.sealing_private).public.hex(),
        )
        signature = identity.sign(sealing.canonical_bytes(), context=SEALING_KEY_CONTEXT).hex()
        signed = SignedSealingKey(statement=sealing, signature=signature)
        return reply.model_copy(update={"sealing_key": signed}), {}
    if secrets.encryption_public is not None:
        encryption = EncryptionKey(
            training_id=plan.training_id,
            merchant=merchant,
            key_hash=sha256_hex(secrets.encryption_public),
        )
        signature = identity.sign(encryption.canonical_bytes(), context=ENCRYPTION_KEY_CONTEXT).hex()
        made = SignedEncryptionKey(statement=encryption, signature=signature)
        return reply.model_copy(update={"encryption_key": made}), {
            "encryption-key": secrets.encryption_public
        }
    return reply, {}
