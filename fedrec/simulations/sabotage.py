"""Make the messages of a cheating merchant: uploads and answers that only the sum reveals as wrong."""

from __future__ import annotations

import numpy as np

from fedrec.clients.context import MerchantContext
from fedrec.errors import ProtocolError
from fedrec.privacy.aggregation.scalar_sharing import SCALAR_BYTES
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import TrainReply
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import COMMITMENT_CONTEXT, SignedCommitment
from fedrec.protocol.transport import Blobs


def under_another_key(
    context: MerchantContext, reply: TrainReply, blobs: Blobs
) -> tuple[TrainReply, dict[str, bytes]]:
    """Replace an upload's ciphertext by zeros encrypted under another key; the dealt shares stay.

    Args:
        context: the merchant's keys and plan.
        reply: the reply to spoil.
        blobs: its large parts, by name.

    Returns:
        The spoilt reply, signed again, and its blobs.

    Raises:
        ProtocolError: the reply is a refusal.
    """
    if reply.signed is None:
        raise ProtocolError("a refusal holds no upload to spoil")
    commitment, derived = reply.signed.commitment, context.derived_of_open_training()
    other = derived.scheme.encrypt(
        np.zeros(derived.noise.dimension, dtype=np.int64),
        training_id=commitment.training_id,
        round_number=commitment.round_number,
        rng=Randomness.from_os(),
    )
    changed = commitment.model_copy(update={"ciphertext_hash": sha256_hex(other.ciphertext)})
    signature = context.identity.sign(changed.canonical_bytes(), context=COMMITMENT_CONTEXT)
    signed = SignedCommitment(commitment=changed, signature=signature.hex())
    return reply.model_copy(update={"signed": signed}), {**blobs, "ciphertext": other.ciphertext}


def wrong_share(blobs: Blobs) -> dict[str, bytes]:
    """Change the last share of a key in a member's answer, before the random one; it stays well formed."""
    answer = bytearray(blobs["answer"])
    answer[-SCALAR_BYTES - 4] ^= 1
    return {**blobs, "answer": bytes(answer)}
