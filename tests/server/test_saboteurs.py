"""One merchant that spoils sums: it is left out in a few rounds, or the training stops where it can't be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from fedrec.clients.merchant import Merchant
from fedrec.errors import TrainingError
from fedrec.protocol.messages import TrainReply, TrainRequest, UnmaskReply, UnmaskRequest
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.protocol.transport import Blobs
from fedrec.simulations.injected_faults import Saboteur
from fedrec.simulations.sabotage import under_another_key, wrong_share
from tests.support.cohort import Cohort, InProcessGrid


def spoil(cohort: Cohort, saboteur: Saboteur) -> None:
    """Have one of the cohort's merchants lie."""
    index = saboteur.merchant
    merchant = cohort.merchants[cohort.names[index]]

    def train(request: TrainRequest, blobs: Blobs) -> tuple[TrainReply, dict[str, bytes]]:
        reply, sent = Merchant.train(merchant, request, blobs)
        if saboteur.lies("key", merchant=index, round_number=request.round_number):
            return under_another_key(merchant.context, reply, sent)
        return reply, sent

    def unmask(request: UnmaskRequest, blobs: Blobs) -> tuple[UnmaskReply, dict[str, bytes]]:
        reply, sent = Merchant.unmask(merchant, request, blobs)
        if sent and saboteur.lies("share", merchant=index, round_number=request.round_number):
            return reply, wrong_share(sent)
        return reply, sent

    merchant.train, merchant.unmask = train, unmask  # type: ignore[method-assign]


def planned(cohort: Cohort, **changes: object) -> Mapping[str, object]:
    """Committee, threshold and minimum as the defaults plan them."""
    members = min(cohort.size, 10)
    minimum = max(cohort.size - 1, 3)
    values = {"threshold": min(2 * members // 3 + 1, members), "min_contributors": minimum}
    return values | changes


def train(cohort: Cohort, *, rounds: int, grid: InProcessGrid | None = None) -> list[RoundRecord]:
    return cohort.train(cohort.plan(rounds=rounds, **planned(cohort)), grid)[1]


def lost(records: list[RoundRecord]) -> list[int]:
    return [record.round for record in records if not record.opened]


@pytest.mark.slow
@pytest.mark.parametrize(("honest_each", "merchant"), [(0, 3), (5, 8)])
def test_a_dealer_of_a_wrong_key_is_found_in_ten_rounds(
    tmp_path: Path, honest_each: int, merchant: int
) -> None:
    cohort = Cohort(tmp_path, size=10)
    spoil(cohort, Saboteur(merchant, "key", honest_each))
    records = train(cohort, rounds=16)
    assert 1 <= len(lost(records)) <= 10 and lost(records)[0] == 1
    assert all(record.opened for record in records[-3:])
    assert all(record.contributors >= 9 for record in records)
    assert f"m{merchant}" not in records[-1].merchants
    reason = records[0].reason or ""
    assert "one of these is the cause: m0, m1, m2" in reason and "the next round does without m" in reason


def test_a_restart_forgets_nothing_of_the_search(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=4)
    spoil(cohort, Saboteur(3, "key"))
    plan = cohort.plan(rounds=5, **planned(cohort))

    class Stopped(Exception): ...  # noqa: N818

    records: list[RoundRecord] = []

    def stop(record: RoundRecord) -> None:
        if not records or record.round > records[-1].round:
            records.append(record)
            raise Stopped

    while len(records) < 5:
        coordinator, _ = cohort.coordinator(plan)
        coordinator.on_round = stop
        try:
            coordinator.run()
        except Stopped:
            continue
    left_out = [set(cohort.names) - set(record.merchants) for record in records]
    assert left_out[0] == set() and all(len(names) == 1 for names in left_out[1:])
    first = next(record.round for record in records if record.opened)
    # Nobody is left out twice before the one that it was.
    assert len({name for names in left_out[1:first] for name in names}) == first - 1
    assert lost(records) == list(range(1, first)) and left_out[first - 1] == {"m3"}


def test_three_merchants_stop_early_and_say_that_they_cannot_tell(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=3)
    spoil(cohort, Saboteur(1, "key"))
    coordinator, records = cohort.coordinator(cohort.plan(rounds=20, **planned(cohort)))
    with pytest.raises(
        TrainingError,
        match="one of these is the cause: m0, m1, m2; 3 merchants are too few to find out which",
    ):
        coordinator.run()
    assert len(records) == 2
    assert [len(cohort.charges(name)) for name in cohort.names] == [2] * 3


def test_three_merchants_know_which_of_them_answers_wrongly_and_lose_one_round(tmp_path: Path) -> None:
    """All three must answer, so that no sum opens without the liar; who it is is known at once."""
    cohort = Cohort(tmp_path, size=3)
    spoil(cohort, Saboteur(1, "share"))
    plan = cohort.plan(rounds=20, **planned(cohort))
    assert (len(plan.committee), plan.threshold) == (3, 3)
    coordinator, records = cohort.coordinator(plan)
    with pytest.raises(TrainingError, match="wrong answers came from m1, and of 3 seats 3 must answer"):
        coordinator.run()
    assert [record.opened for record in records] == [False]
    assert "2 committee members answered" in (records[0].reason or "")
    assert "wrong answers came from m1" in (records[0].reason or "")
    assert list(coordinator.refusals) == ["round 1, m1"]
    assert [len(cohort.charges(name)) for name in cohort.names] == [1] * 3
    # Resumed, it is still known; and should the member answer rightly now, rounds open again.
    cohort.restart("m1")
    again, later = cohort.coordinator(plan.model_copy(), InProcessGrid(cohort.app(), 3))
    again.on_round = lambda record: later.append(record) or record.round == 3  # type: ignore[func-returns-value]
    again.run()
    assert [(record.round, record.opened) for record in later[1:]] == [(2, True), (3, True)]
    assert "its answer was wrong" in again.notes()["m1"]


@pytest.mark.parametrize("size", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 6, 10))])
def test_a_member_that_lies_costs_no_round_and_is_asked_no_more(tmp_path: Path, size: int) -> None:
    """One answer more than the threshold is enough: the commitments show which is wrong."""
    cohort = Cohort(tmp_path, size=size)
    spoil(cohort, Saboteur(1, "share"))
    grid = InProcessGrid(cohort.app(), size)
    coordinator, records = cohort.coordinator(cohort.plan(rounds=2, **planned(cohort)), grid)
    coordinator.run()
    assert [(record.opened, record.contributors) for record in records] == [(True, size)] * 2
    assert list(coordinator.refusals) == ["round 1, m1"]
    assert "not the sum of the key shares" in coordinator.refusals["round 1, m1"]
    asked = [m.metadata.group_id for m in grid.requests if m.metadata.message_type == "query.unmask"]
    assert (asked.count("1"), asked.count("2")) == (size, size - 1)
    assert "its answer was wrong" in coordinator.notes()["m1"]


def test_a_lying_member_is_asked_when_the_others_are_too_few(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=4)
    spoil(cohort, Saboteur(1, "share", honest_each=2))
    grid = InProcessGrid(
        cohort.app(),
        4,
        drop=lambda kind, group, index: kind == "query.unmask" and group == "2" and index == 3,
    )
    coordinator, records = cohort.coordinator(cohort.plan(rounds=2, **planned(cohort)), grid)
    coordinator.run()
    assert [record.opened for record in records] == [True, True]


def test_a_lost_round_is_never_opened_with_another_set(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=4)
    spoil(cohort, Saboteur(0, "key"))
    grid = InProcessGrid(cohort.app(), 4)
    records = train(cohort, rounds=2, grid=grid)
    assert lost(records)
    for number in range(1, 3):
        asked = [
            m
            for m in grid.requests
            if m.metadata.message_type == "query.unmask" and m.metadata.group_id == str(number)
        ]
        nodes = [m.metadata.dst_node_id for m in asked]
        assert len(set(nodes)) == len(nodes)
