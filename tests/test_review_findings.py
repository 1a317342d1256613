"""Attacks that were found by review: each was possible once, and must stay impossible."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from pydantic import ValidationError

from fedrec.errors import ConfigError, ProtocolError, RefusedError, TrainingError
from fedrec.privacy.dp.calibration import NoiseRequest, plan_noise
from fedrec.protocol.messages import (
    CloseReply,
    CloseRequest,
    JoinReply,
    JoinRequest,
    TrainReply,
    TrainRequest,
    UnmaskRequest,
)
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.refusals import Refusal
from fedrec.protocol.shape import shape_of
from fedrec.protocol.statements import SEALING_KEY_CONTEXT, SealingKey, SignedSealingKey
from fedrec.protocol.transport import pack, unpack
from fedrec.server.blame import Blame
from fedrec.server.checkpoint import Checkpoint
from tests.cohort import Cohort, InProcessGrid


@pytest.mark.parametrize("clip", [1e-306, 5e-324, 1e-7, 1e7, 1e300])
def test_no_plan_has_a_clip_at_which_floats_fail(tmp_path: Path, clip: float) -> None:
    """At 1e-306 scale / clip is infinite: every coordinate met the clamp, far beyond the sensitivity."""
    with pytest.raises(ValidationError, match="clip"):
        Cohort(tmp_path).plan(clip=clip)
    with pytest.raises(ConfigError, match="clip"):
        plan_noise(
            NoiseRequest(
                mode="local",
                epsilon=None,
                noise_multiplier=1.0,
                delta=1e-5,
                sample_rate=0.1,
                steps=1,
                dimension=10,
                clip=clip,
                cohort=1,
                min_contributors=1,
                colluders=0,
                records_per_merchant=100,
            )
        )


def test_a_merchant_cannot_join_under_another_name(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, seats=("m1", "m2", "m3"))

    def take_name(reply: Message, index: int) -> Message:
        """The second merchant says that it is the first, and the first answers later than it."""
        if reply.metadata.message_type == "query.join" and index == 0:
            body, blobs = unpack(reply.content, JoinReply, max_blob_bytes=0)
            reply.content = pack(body.model_copy(update={"merchant": "m1"}), blobs)
        return reply

    coordinator, records = cohort.coordinator(
        cohort.plan(rounds=1, committee=("m1", "m2", "m3"), threshold=3),
        InProcessGrid(cohort.app(), cohort.size, tamper=take_name),
    )
    coordinator.run()
    # The thief is out; the merchant whose name it took is in.
    assert (records[0].opened, records[0].contributors) == (True, 3)
    assert "m1" not in coordinator.refusals


def test_a_join_reply_of_another_training_does_not_count(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, seats=("m1", "m2", "m3"))
    plan = cohort.plan(rounds=1, committee=("m1", "m2", "m3"), threshold=3)
    old, _ = cohort.merchants["m0"].join(JoinRequest(plan=cohort.plan()))

    def replay(reply: Message, index: int) -> Message:
        if reply.metadata.message_type == "query.join" and index == 0:
            body, blobs = unpack(reply.content, JoinReply, max_blob_bytes=0)
            reply.content = pack(body.model_copy(update={"signature": old.signature}), blobs)
        return reply

    coordinator, _ = cohort.coordinator(plan, InProcessGrid(cohort.app(), cohort.size, tamper=replay))
    coordinator.run()
    assert "not signed by its merchant" in coordinator.refusals["m0"]


@pytest.mark.parametrize(
    "raw",
    [
        b"{" + b",".join(b'"k%d":1' % number for number in range(300_000)) + b"}",
        b'{"training_id":"' + b"a" * 64 + b'","round_number":1,"survivors":[' + b"1," * 500_000 + b"1]}",
    ],
    ids=["unknown keys", "wrong items"],
)
def test_a_malformed_body_costs_little_more_than_its_size(raw: bytes) -> None:
    import resource

    assert len(raw) < shape_of(UnmaskRequest).bytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    content = RecordDict({"body": ConfigRecord({"json": raw})})
    with pytest.raises(ProtocolError, match="malformed"):
        unpack(content, UnmaskRequest, max_blob_bytes=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_closed_training_cannot_be_used_to_close_the_open_one(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    merchant = cohort.merchants["m0"]
    old, new = cohort.plan(), cohort.plan()
    merchant.join(JoinRequest(plan=old))
    merchant.close_training(CloseRequest(training_id=old.training_id))
    merchant.join(JoinRequest(plan=new))
    with pytest.raises(RefusedError, match="was closed"):
        merchant.join(JoinRequest(plan=old))
    stored = merchant.store.training(new.training_id)
    assert not stored.closed and stored.secrets.sealing_private is not None


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


@pytest.mark.parametrize("refused", [Refusal(code="plan"), None])
def test_a_reply_under_another_name_is_held_against_its_sender(
    tmp_path: Path, refused: Refusal | None
) -> None:
    cohort = Cohort(tmp_path)

    def blame_another(reply: Message, index: int) -> Message:
        if reply.metadata.message_type == "train" and index == 1:
            reply.content = pack(TrainReply(merchant="m3", refused=refused))
        return reply

    grid = InProcessGrid(cohort.app(), 4, tamper=blame_another)
    coordinator, records = cohort.coordinator(cohort.plan(rounds=1), grid)
    coordinator.run()
    assert (records[0].opened, records[0].contributors) == (True, 3)
    assert list(coordinator.refusals) == ["round 1, m1"]


def test_who_is_left_out_is_on_disk_before_the_next_round(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, training_id="t")
    checkpoint.reserve(3)
    checkpoint.keep_conduct({"blame": Blame(colluders=1, complaints={"m2": {"m0", "m1"}}).state()})
    again = Checkpoint(tmp_path, training_id="t")
    assert again.last_reserved() == 3
    again.reserve(4)
    blame = Blame.from_state((Checkpoint(tmp_path, training_id="t").conduct() or {})["blame"], colluders=1)
    assert blame.left_out == {"m2"}


def test_json_of_a_close_reply_still_passes() -> None:
    raw = json.dumps({"merchant": "m0", "refused": None}).encode()
    content = RecordDict({"body": ConfigRecord({"json": raw})})
    assert unpack(content, CloseReply, max_blob_bytes=0)[0].merchant == "m0"
