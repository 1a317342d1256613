"""Sealing keys that seal nothing, signed by their own merchant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message
from pydantic import ValidationError

from fedrec.errors import ProtocolError, TrainingError
from fedrec.protocol.messages import (
    JoinReply,
    JoinRequest,
    TrainRequest,
)
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import SEALING_KEY_CONTEXT, SealingKey, SignedSealingKey
from fedrec.protocol.transport import pack, unpack
from tests.support.cohort import Cohort, InProcessGrid


def with_sealing_key(cohort: Cohort, plan: TrainingPlan, name: str, public: bytes) -> SignedSealingKey:
    statement = SealingKey(training_id=plan.training_id, merchant=name, public_key=public.hex())
    signature = cohort.identities[name].sign(statement.canonical_bytes(), context=SEALING_KEY_CONTEXT)
    return SignedSealingKey(statement=statement, signature=signature.hex())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda good: bytes(32) + good[32:], "the X25519 half of a sealing key is of small order"),
        (lambda good: good[:32] + b"\xff" * 1184, "the ML-KEM-768 half of a sealing key is malformed"),
    ],
)
def test_a_sealing_key_that_seals_nothing_costs_nobody_a_round(
    tmp_path: Path, spoil: Callable[[bytes], bytes], reason: str
) -> None:
    """Signed by its own merchant, so that nothing but the key itself is wrong with it."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1)
    replies = [cohort.merchants[name].join(JoinRequest(plan=plan))[0] for name in cohort.names]
    keys = [reply.sealing_key for reply in replies if reply.sealing_key is not None]
    public = spoil(bytes.fromhex(keys[2].statement.public_key))
    keys[2] = with_sealing_key(cohort, plan, "m2", public)
    request = TrainRequest(
        training_id=plan.training_id,
        round_number=1,
        model_hash=plan.initial_model_hash,
        sealing_keys=tuple(keys),
    )
    with pytest.raises(ProtocolError, match=f"'m2' is refused: {reason}"):
        cohort.merchants["m0"].train(request, {"model": bytes(4 * plan.dimension)})
    assert cohort.charges("m0") == []

    def degenerate(reply: Message, index: int) -> Message:
        if reply.metadata.message_type == "query.join" and index == 2:
            body, blobs = unpack(reply.content, JoinReply, max_blob_bytes=0)
            reply.content = pack(body.model_copy(update={"sealing_key": keys[2]}), blobs)
        return reply

    coordinator, _ = cohort.coordinator(plan, InProcessGrid(cohort.app(), 4, tamper=degenerate))
    with pytest.raises(TrainingError, match=f"m2: the sealing key of 'm2' is refused: {reason}"):
        coordinator.run()
    assert coordinator.checkpoint.sealing_keys() == ()


@pytest.mark.parametrize("half", ["X25519", "ML-KEM-768"])
def test_a_sealing_key_without_one_of_its_halves_is_not_a_sealing_key(tmp_path: Path, half: str) -> None:
    """Whoever sends it, signed or not: it isn't read, so nothing is charged, or sealed to one half."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1)
    reply, _ = cohort.merchants["m2"].join(JoinRequest(plan=plan))
    assert reply.sealing_key is not None
    public = bytes.fromhex(reply.sealing_key.statement.public_key)
    left = public[32:] if half == "X25519" else public[:32]
    with pytest.raises(ValidationError, match="public_key"):
        with_sealing_key(cohort, plan, "m2", left)
    body = reply.canonical_bytes().replace(public.hex().encode(), left.hex().encode())
    content = pack(reply)
    content.config_records["body"]["json"] = body
    with pytest.raises(ProtocolError, match="malformed"):
        unpack(content, JoinReply, max_blob_bytes=0)
