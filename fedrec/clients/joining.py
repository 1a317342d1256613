"""What a merchant brings to a training that it joins: the secrets of its part in it, and its signed reply."""

from __future__ import annotations

from fedrec.clients.store import TrainingSecrets
from fedrec.privacy.aggregation.scheme import HolderScheme, Scheme
from fedrec.privacy.identity import SealingKey, SigningIdentity
from fedrec.protocol.messages import JoinReply
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
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


def make_secrets(plan: TrainingPlan, scheme: Scheme, *, merchant: str) -> TrainingSecrets:
    """Make the keys that a merchant's part in the training needs; none where it isn't on the committee."""
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
    head: SignedLedgerHead,
) -> tuple[JoinReply, dict[str, bytes]]:
    """Return the signed reply with the secrets' public keys, and blob ``encryption-key`` if there is one."""
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
