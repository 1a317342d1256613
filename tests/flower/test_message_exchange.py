"""The exchange with a cohort: memory of replies on their way, order of arrival, bounds by the plan."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from fedrec.flower import new_message, set_task_identity
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.messages import (
    CloseRequest,
    JoinRequest,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrec.protocol.transport import pack, unpack
from fedrec.server.message_exchange import Answer, ExchangeSettings, ask
from tests.support.cohort import Cohort, InProcessGrid

MIB = 2**20
NODES = 40


class LastFirst(InProcessGrid):
    """Computes a reply when it is asked for, and brings the last request's first."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.waiting = {f"message {number}": message for number, message in enumerate(messages)}
        return list(self.waiting)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        for key in [key for key in list(self.waiting)[::-1] if key in wanted]:
            message = self.waiting.pop(key)
            node = message.metadata.dst_node_id
            set_task_identity(run_id=1, node_id=node)
            context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
            reply = self.app(message, context)
            reply.metadata.__dict__["_reply_to_message_id"] = key
            self.replies.append(reply)
            yield reply


def test_replies_are_released_as_they_are_taken() -> None:
    """Forty uploads of a mebibyte: an exchange that kept them would need forty."""

    def answer(message: Message, context: Context) -> Message:
        content = pack(TrainReply(merchant="m0"), {"ciphertext": bytes(MIB)})
        return Message(content, reply_to=message)

    class Forgetful(LastFirst):
        """Keeps no list of the replies for the test's eyes."""

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            for reply in super().pull_messages(message_ids):
                self.replies.clear()
                yield reply

    taken: list[int] = []
    grid = Forgetful(answer, NODES)  # type: ignore[arg-type]
    request = pack(CloseRequest(training_id="ab" * 32))

    def take(reply: Answer[TrainReply]) -> None:
        taken.append(len(reply.blobs["ciphertext"]))

    tracemalloc.start()
    try:
        answers = ask(
            grid,
            dict.fromkeys(range(1, NODES + 1), request),
            ExchangeSettings(
                message_type="train",
                reply_type=TrainReply,
                max_blob_bytes=MIB,
                timeout=60,
                group_id="1",
            ),
            take=take,
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken == [MIB] * NODES and answers.replies == () and not answers.failed
    assert answers.bytes_up >= NODES * MIB
    assert peak < 10 * MIB


def test_the_order_of_arrival_changes_nothing(tmp_path: Path) -> None:
    one, two = Cohort(tmp_path / "a", size=5), Cohort(tmp_path / "b", size=5)
    first, _ = one.train(one.plan(rounds=2))
    grid = LastFirst(two.app(), 5)
    second, records = two.train(two.plan(rounds=2), grid)
    assert [record.opened for record in records] == [True, True]
    np.testing.assert_array_equal(first, second)
    # They did come the other way round, and members were still shown the survivors in the roster's order.
    trained = [reply for reply in grid.replies if reply.metadata.message_type == "train"]
    came = [unpack(reply.content, TrainReply, max_blob_bytes=10**7)[0].merchant for reply in trained]
    assert came == two.names[::-1] * 2
    coordinator, _ = two.coordinator(two.plan(rounds=1), LastFirst(two.app(), 5))
    asked: list[list[str]] = []

    def note(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.unmask":
            body, _ = unpack(message.content, UnmaskRequest, max_blob_bytes=10**7)
            asked.append([signed.commitment.merchant for signed in body.survivors])
        return two.app()(message, context)

    coordinator.grid.app = note  # type: ignore[attr-defined]
    coordinator.run()
    assert asked == [two.names] * 5


@pytest.mark.parametrize(
    "scheme", [{}, {"scheme": "ckks", "committee": ("m0",), "threshold": 1}, {"scheme": "none"}]
)
def test_blobs_beyond_what_the_plan_allows_are_not_read(tmp_path: Path, scheme: dict[str, object]) -> None:
    if scheme == {"scheme": "none"}:
        scheme |= {"committee": (), "threshold": 0}
    cohort = Cohort(tmp_path)
    plan = cohort.plan(**scheme)
    derived = derive(plan)
    app = cohort.app()

    def reason(message_type: str, body: TrainRequest | UnmaskRequest, size: int) -> str:
        set_task_identity(run_id=1, node_id=1)
        message = new_message(
            cohort.signed(body, {"x": bytes(size)}),
            message_type=message_type,
            node_id=1,
            group_id="1",
            ttl=60,
        )
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        reply = app(message, context)
        kind: type[TrainReply | UnmaskReply] = TrainReply if message_type == "train" else UnmaskReply
        return str(unpack(reply.content, kind, max_blob_bytes=0)[0].refused)

    train = TrainRequest(training_id=plan.training_id, round_number=1, model_hash="0" * 64, sealing_keys=())
    unmask = UnmaskRequest(training_id=plan.training_id, round_number=1, survivors=())
    assert "no training is open" in reason("train", train, 0)
    cohort.merchants["m0"].join(JoinRequest(plan=plan))
    for restarted in (False, True):
        if restarted:
            cohort.restart("m0")
        for kind, body, limit in (
            ("train", train, derived.train_bytes),
            ("query.unmask", unmask, derived.unmask_bytes),
        ):
            assert "too large" not in reason(kind, body, limit)
            assert "too large" in reason(kind, body, limit + 1)
    # A whole training fits its bounds, to the byte where every survivor is there.
    grid = InProcessGrid(cohort.app(), 4)
    coordinator, records = cohort.coordinator(plan, grid)
    coordinator.run()
    assert all(record.opened for record in records)
    sizes = {
        kind: max(
            sum(map(len, unpack(m.content, body, max_blob_bytes=10**8)[1].values()))
            for m in grid.requests
            if m.metadata.message_type == kind
        )
        for kind, body in (("train", TrainRequest), ("query.unmask", UnmaskRequest))
        if kind == "train" or plan.committee
    }
    assert sizes.pop("train") == derived.train_bytes
    assert not sizes or sizes["query.unmask"] == derived.unmask_bytes
