"""Rounds that go on without who is slow: how long they wait, whom they ask again, and what comes too late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from flwr.app import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.protocol.messages import UnmaskReply
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.protocol.transport import pack, unpack
from fedrec.server import attendance
from fedrec.server.coordinator import Coordinator
from fedrec.server.stragglers import GracePeriod, Lateness
from tests.support.cohort import Cohort, InProcessGrid

Delay = Callable[[str, str, int], float]
"""Seconds after which a reply is there: by kind of message, group, and merchant."""
NEVER = float("inf")


class SlowGrid(InProcessGrid):
    """Replies come when their time has come; ``fetched`` are those that the server has read."""

    def __init__(self, cohort: Cohort, delay: Delay) -> None:
        super().__init__(cohort.app(), cohort.size)
        self._delay = delay
        self._due: dict[str, float] = {}
        self.fetched: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        now = time.monotonic()
        ids = list(super().push_messages(messages))
        for key, message in zip(ids, messages, strict=True):
            about = message.metadata
            self._due[key] = now + self._delay(about.message_type, about.group_id, about.dst_node_id - 1)
        return ids

    def arrive(self) -> None:
        """Let every reply that is still on its way arrive now."""
        self._due = dict.fromkeys(self._due, 0.0)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        there = [key for key in message_ids if self._due[key] <= time.monotonic()]
        found = list(super().pull_messages(there))
        self.fetched += found
        return found


def patient(
    cohort: Cohort, delay: Delay, *, floor: float = 0.05, **changes: object
) -> tuple[Coordinator, list[RoundRecord], SlowGrid]:
    grid = SlowGrid(cohort, delay)
    coordinator, records = cohort.coordinator(cohort.plan(**changes), grid, grace=GracePeriod(floor=floor))
    return coordinator, records, grid


def asked(grid: InProcessGrid, kind: str, index: int) -> list[str]:
    return [
        message.metadata.group_id
        for message in grid.requests
        if message.metadata.message_type == kind and message.metadata.dst_node_id == index + 1
    ]


def test_a_silent_merchant_is_asked_less_and_less_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    coordinator, records, grid = patient(
        cohort,
        lambda kind, group, index: NEVER if index == 3 and kind in ("train", "query.unmask") else 0.0,
        rounds=9,
        committee=("m0", "m1", "m2"),
        threshold=3,
    )
    told: list[dict[str, str]] = []

    def note(record: RoundRecord) -> None:
        records.append(record)
        told.append(coordinator.notes())

    coordinator.on_round = note
    coordinator.run()
    assert [(record.opened, record.contributors) for record in records] == [(True, 3)] * 9
    # Twice, then after 4 rounds, then after 8.
    assert asked(grid, "train", 3) == ["1", "2", "7"]
    assert len(cohort.charges("m3")) == 3
    assert told[0]["m3"] == "late 1 times in a row"
    assert told[1]["m3"] == "late 2 times in a row, not asked before round 7"
    assert all(record.seconds_train < 5 for record in records)


def test_an_upload_after_the_set_is_fixed_is_never_read(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, seats=("m0", "m1", "m3"))
    coordinator, records, grid = patient(
        cohort,
        lambda kind, group, index: NEVER if (kind, group, index) == ("train", "1", 2) else 0.0,
        rounds=1,
        committee=("m0", "m1", "m3"),
        threshold=3,
    )

    def arrive_late(reply: Message, index: int) -> Message:
        # The set is fixed before a member is asked about it.
        if reply.metadata.message_type == "query.unmask":
            grid.arrive()
        return reply

    grid.tamper = arrive_late
    coordinator.run()
    assert records[0].merchants == ("m0", "m1", "m3") and records[0].opened
    late = next(m for m in grid.replies if m.metadata.message_type == "train" and m not in grid.fetched)
    assert late.has_content() and len([m for m in grid.replies if m.metadata.message_type == "train"]) == 4
    # Who didn't contribute has no receipt for it, only the one of its join.
    last = coordinator.receipts.last("m2")
    assert last is not None and last.head.statement.moment == "joined"


def test_no_phase_ends_before_the_minimum_has_replied(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    coordinator, records, _ = patient(
        cohort,
        lambda kind, group, index: 0.5 if kind == "train" and index > 0 else 0.0,
        rounds=1,
        min_contributors=4,
    )
    coordinator.run()
    assert records[0].contributors == 4 and records[0].seconds_train >= 0.5


def test_an_opening_is_final_only_where_its_noise_is_right(tmp_path: Path) -> None:
    """As many answers as are needed come at once, and one is a lie: another one is waited for."""
    cohort = Cohort(tmp_path)

    def lie(reply: Message, index: int) -> Message:
        if reply.metadata.message_type == "query.unmask" and index == 0:
            body, blobs = unpack(reply.content, UnmaskReply, max_blob_bytes=10**7)
            share = bytearray(blobs["answer"])
            share[-4] ^= 1
            reply.content = pack(body, {"answer": bytes(share)})
        return reply

    def delay(kind: str, group: str, index: int) -> float:
        return 0.3 if kind == "query.unmask" and index == 3 else 0.0

    coordinator, records, grid = patient(cohort, delay, floor=5.0, rounds=1, threshold=3)
    grid.tamper = lie
    coordinator.run()
    assert records[0].opened and records[0].seconds_unmask >= 0.3
    assert "not the sum of the key shares" in coordinator.refusals["round 1, m0"]
    assert [len(asked(grid, "query.unmask", index)) for index in range(4)] == [1, 1, 1, 1]


def test_answers_enough_to_open_are_not_waited_beyond(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    coordinator, records, _ = patient(
        cohort,
        lambda kind, group, index: NEVER if kind == "query.unmask" and index == 3 else 0.0,
        floor=30.0,
        rounds=1,
        threshold=3,
    )
    coordinator.timeout = 60.0
    coordinator.run()
    assert records[0].opened and records[0].seconds_unmask < 10


def test_a_merchant_silent_from_the_start_delays_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = Cohort(tmp_path)
    coordinator, records, _ = patient(
        cohort,
        lambda kind, group, index: NEVER if index == 3 else 0.0,
        rounds=2,
        committee=("m0", "m1", "m2"),
        threshold=3,
    )
    monkeypatch.setattr(attendance, "OPENING_SECONDS", 0.2)
    started = time.monotonic()
    coordinator.run()
    assert [record.contributors for record in records] == [3, 3] and time.monotonic() - started < 10


@settings(max_examples=200, deadline=None)
@given(
    speeds=st.lists(st.floats(0.01, 100.0), min_size=4, max_size=12),
    stretch=st.floats(1.0, 1e6),
    rounds=st.integers(1, 20),
)
def test_fewer_than_a_quarter_cannot_stretch_a_phase(
    speeds: list[float], stretch: float, rounds: int
) -> None:
    """Slow ones reply as late as they like, in the hope that the next grace period is longer."""
    grace = GracePeriod(floor=1.0)
    needed = 3
    slow = (len(speeds) - 1) // 4
    honest = sorted(speeds)[: len(speeds) - slow]
    for _ in range(rounds):
        with grace.phase(asked=len(speeds), needed=needed) as phase:
            ends = None
            for count, at in enumerate(honest, start=1):
                if ends is not None and at > ends:
                    break
                ends = phase.end(count, seconds=at)
            assert ends is not None
            late = ends * min(stretch, 0.999)
            phase.end(len(honest) + slow, seconds=max(late, honest[-1]))
        assert ends <= max(1.0, 2.5 * honest[-1])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["late", "replied", "away"]), max_size=60))
def test_a_late_merchant_is_always_asked_again(events: list[str]) -> None:
    lateness = Lateness()
    run = 0
    for number, event in enumerate(events, start=1):
        if "m" in lateness.resting(number):
            run += 1
            assert run <= 32
            continue
        run = 0
        lateness.note(
            number, late=["m"] if event == "late" else [], replied=["m"] if event == "replied" else []
        )
        assert event == "late" or event == "away" or not lateness.resting(number + 1)
