"""Who takes part in a training as merchants fail to answer, come back, or come back as another node."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import Message

from fedrec.clients.client_app import build_client_app
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.server import attendance, pauses
from tests.support.cohort import Cohort, InProcessGrid


def test_a_merchant_that_did_not_answer_the_join_is_asked_again_after_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = Cohort(tmp_path, seats=("m0", "m1", "m3"))
    clock = [0.0]
    monkeypatch.setattr(pauses, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    deaf = True
    grid = InProcessGrid(
        cohort.app(), 4, drop=lambda kind, group, index: deaf and index == 2 and "join" in kind
    )
    coordinator, records = cohort.coordinator(cohort.plan(rounds=6, committee=("m0", "m1", "m3")), grid)
    asked: list[int] = []

    def pass_time(record: RoundRecord) -> None:
        nonlocal deaf
        records.append(record)
        clock[0] += 10.0
        joins = [m for m in grid.requests if m.metadata.message_type == "query.join"]
        asked.append(sum(m.metadata.dst_node_id == 3 for m in joins))
        deaf = record.round < 3

    coordinator.on_round = pass_time
    coordinator.run()
    # At the start, 10 s later, and 20 s after that, when it answers.
    assert asked == [1, 2, 2, 3, 3, 3]
    assert [record.contributors for record in records] == [3, 3, 3, 4, 4, 4]


def test_a_merchant_that_comes_back_as_another_node_takes_its_place_again(tmp_path: Path) -> None:
    """Its node key was exchanged: the old node is gone, and a new one speaks for the same merchant."""
    cohort = Cohort(tmp_path)

    away = {5}

    class Moving(InProcessGrid):
        def get_node_ids(self) -> Iterable[int]:
            return [node for node in super().get_node_ids() if node not in away]

    speaks_for = ("m0", "m1", "m2", "m3", "m1")
    app = build_client_app(lambda context: cohort.merchants[speaks_for[int(context.node_id) - 1]])
    grid = Moving(app, 5)
    coordinator, records = cohort.coordinator(cohort.plan(rounds=4), grid)
    coordinator.signer.names = lambda: dict(enumerate(speaks_for, start=1))

    def move(record: RoundRecord) -> None:
        records.append(record)
        if record.round == 2:
            away.clear()
            away.add(2)

    coordinator.on_round = move
    coordinator.run()
    assert [(record.opened, record.contributors) for record in records] == [(True, 4)] * 4
    trained = [m.metadata.dst_node_id for m in grid.requests if m.metadata.message_type == "train"]
    assert trained.count(2) == trained.count(5) == 2


def test_a_merchant_that_comes_and_goes_does_not_cost_another_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = Cohort(tmp_path)
    clock = [0.0]
    monkeypatch.setattr(pauses, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    there, arrived = {1, 2}, False

    class Slow(InProcessGrid):
        def get_node_ids(self) -> Iterable[int]:
            return there

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return super().pull_messages(message_ids) if arrived else []

    grid = Slow(cohort.app(), 4)
    coordinator, _ = cohort.coordinator(cohort.plan(), grid)
    # Both are asked at 0 s and at 10 s, and the first alone at 20 s, since it was away in between.
    for second, present in ((0, {1, 2}), (10, {1, 2}), (15, {2}), (20, {1, 2})):
        clock[0], there = float(second), present
        assert coordinator._cohort.admit(cohort.names) == set()
    assert [message.metadata.dst_node_id for message in grid.requests] == [1, 2, 1, 2, 1]
    arrived = True
    assert coordinator._cohort.admit(cohort.names) == {"m0", "m1"}


def test_absent_merchants_are_named(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    grid = InProcessGrid(cohort.app(), 4, drop=lambda kind, group, index: index == 2)
    coordinator, records = cohort.coordinator(cohort.plan(min_contributors=4), grid)
    with pytest.raises(attendance.CohortIncompleteError, match=r"3 of 4 merchants joined.*; not there: m2$"):
        coordinator.run()
    assert records == []
