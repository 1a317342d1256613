"""Answers under another name, and of another training."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import Message

from fedrec.errors import RefusedError
from fedrec.protocol.messages import (
    CloseRequest,
    JoinReply,
    JoinRequest,
    TrainReply,
)
from fedrec.protocol.refusals import Refusal
from fedrec.protocol.transport import pack, unpack
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.complaints import Complaints
from fedrec.server.reservation import ConductRecord
from tests.support.cohort import Cohort, InProcessGrid


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


@pytest.mark.parametrize("refused", [Refusal(code="plan"), None])
def test_a_reply_under_another_name_is_blamed_on_its_sender(tmp_path: Path, refused: Refusal | None) -> None:
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


def test_left_out_merchants_are_stored_before_the_next_round(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, training_id="t")
    checkpoint.reserve(3)
    complaints = Complaints(colluders=1, complaints={"m2": {"m0", "m1"}})
    checkpoint.keep_conduct(ConductRecord(complaints=complaints.record()))
    again = Checkpoint(tmp_path, training_id="t")
    assert again.last_reserved() == 3
    again.reserve(4)
    kept = Checkpoint(tmp_path, training_id="t").conduct()
    assert kept is not None and Complaints.of(kept.complaints, colluders=1).left_out == {"m2"}
