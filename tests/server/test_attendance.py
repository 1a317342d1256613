"""Who a training takes for joined: replies under another's name, or with another's key, change nothing."""

from __future__ import annotations

from pathlib import Path

from fedrec.protocol.messages import JoinReply, JoinRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.refusals import Refusal
from fedrec.protocol.statements import SignedEncryptionKey
from fedrec.server.attendance import Attendance
from fedrec.server.message_exchange import Answer
from tests.support.cohort import Cohort


class Start:
    """A training that merchants join one by one."""

    def __init__(self, cohort: Cohort, plan: TrainingPlan) -> None:
        self.cohort, self.plan = cohort, plan
        self.attendance: Attendance = cohort.coordinator(plan)[0]._cohort
        self.nodes = {name: node for node, name in self.attendance.signer.names().items()}

    def reply(self, name: str) -> tuple[JoinReply, dict[str, bytes]]:
        return self.cohort.merchants[name].join(JoinRequest(plan=self.plan))

    def key(self) -> tuple[SignedEncryptionKey | None, bytes]:
        """What updates are encrypted under."""
        return self.attendance.encryption_key, self.attendance.encryption_key_bytes

    def take(self, reply: JoinReply, blobs: dict[str, bytes] | None = None, *, node: str = "") -> None:
        """Give the server a reply, from its merchant's node or another's."""
        answer = Answer(self.nodes[node or reply.merchant], reply, blobs or {})
        self.attendance._take_answer(answer, present=set(self.nodes.values()))


def test_a_sealing_key_counts_for_the_merchant_that_signed_it(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    start = Start(cohort, cohort.plan())
    (first, _), (second, _) = start.reply("m1"), start.reply("m2")
    start.take(first.model_copy(update={"sealing_key": second.sealing_key}))
    assert start.attendance.refusals["m1"].startswith("a sealing key is of another merchant")
    assert not start.attendance.nodes and not start.attendance.sealing_keys
    start.take(first)
    assert start.attendance.sealing_keys == (first.sealing_key,)
    # The first one stays: uploads may be dealt under it.
    start.take(first.model_copy(update={"sealing_key": second.sealing_key}))
    assert start.attendance.sealing_keys == (first.sealing_key,)
    assert list(start.attendance.nodes) == ["m1"] and not start.attendance.refusals


def test_nobody_refuses_or_closes_in_another_s_name(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    start = Start(cohort, cohort.plan())
    start.take(start.reply("m1")[0])
    refusal = JoinReply(merchant="m1", refused=Refusal(code="training", detail="it is closed"))
    start.take(refusal, node="m2")
    assert list(start.attendance.nodes) == ["m1"]
    assert not start.attendance.closed_by and not start.attendance.refusals
    start.take(refusal)
    assert not start.attendance.nodes and start.attendance.closed_by == {"m1"}
    assert "it is closed" in start.attendance.refusals["m1"]


def test_a_merchant_is_at_one_node_while_that_is_connected(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    start = Start(cohort, cohort.plan())
    reply, _ = start.reply("m1")
    start.take(reply)
    start.take(reply, node="m2")
    assert start.attendance.nodes == {"m1": start.nodes["m1"]}
    answer = Answer(start.nodes["m2"], reply, {})
    start.attendance._take_answer(answer, present={start.nodes["m2"]})
    assert start.attendance.nodes == {"m1": start.nodes["m2"]}


def test_the_key_that_updates_are_encrypted_under_is_the_holder_s(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    start = Start(cohort, cohort.plan(scheme="ckks", committee=("m0",), threshold=1))
    own, blobs = start.reply("m0")
    other, _ = start.reply("m1")
    start.take(other.model_copy(update={"encryption_key": own.encryption_key}), {"encryption-key": b"mine"})
    assert start.key() == (None, b"")
    start.take(own, blobs)
    assert own.encryption_key is not None
    assert start.key() == (own.encryption_key, blobs["encryption-key"])
    start.take(own, {"encryption-key": b"another"})
    assert start.key() == (own.encryption_key, blobs["encryption-key"])
