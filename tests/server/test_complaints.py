"""Dealers that cheat few members: the rounds that they cost, and whom the server does without afterwards."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.server.complaints import Complaints
from fedrec.server.reservation import ConductRecord
from tests.support.cheating_parties import deal_badly
from tests.support.cohort import Cohort, InProcessGrid

SMALL = {"committee": ("m0", "m1", "m2"), "threshold": 3}
"""No member of this committee may be missing: one cheated member is one lost round."""


def outcomes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, size: int, rounds: int, dealers: set[str]
) -> list[tuple[bool, int]]:
    deal_badly(monkeypatch, dealers, targets={2})
    cohort = Cohort(folder, size=size)
    _, records = cohort.train(cohort.plan(rounds=rounds, **SMALL))
    return [(record.opened, record.contributors) for record in records]


def test_a_dealer_that_cheats_one_member_costs_one_round_where_it_can_be_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcomes(tmp_path, monkeypatch, size=5, rounds=4, dealers={"m4"})
    assert found == [(False, 5), (True, 4), (True, 4), (True, 4)]


def test_every_round_is_lost_if_nobody_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit that the documentation states."""
    found = outcomes(tmp_path, monkeypatch, size=3, rounds=3, dealers={"m0"})
    assert found == [(False, 3)] * 3


def test_suspects_that_cannot_all_be_spared_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal_badly(monkeypatch, {"m4"}, targets={2})
    cohort = Cohort(tmp_path, size=5)
    plan = cohort.plan(rounds=3, min_contributors=4, **SMALL)
    coordinator, records = cohort.coordinator(plan)
    # The member complained about an honest dealer, too: one of its words isn't to be had any more.
    coordinator.checkpoint.keep_conduct(
        ConductRecord(complaints=Complaints(colluders=1, complaints={"m3": {"m0"}}).record())
    )
    coordinator.run()
    assert [(record.opened, record.contributors) for record in records] == [(False, 5), (False, 4), (True, 4)]
    assert "does without m3" in (records[0].reason or "")
    assert "does without m4" in (records[1].reason or "")


def test_suspects_stay_aside_after_a_restart_and_come_back_where_others_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal_badly(monkeypatch, {"m4"}, targets={2})
    cohort = Cohort(tmp_path, size=5)
    plan = cohort.plan(rounds=4, min_contributors=4, **SMALL)

    def drop(kind: str, group: str, index: int) -> bool:
        return kind == "train" and group in ("2", "3") and index == 3

    class Stopped(Exception): ...  # noqa: N818

    first, records = cohort.coordinator(plan)

    def stop(record: object) -> None:
        raise Stopped

    first.on_round = stop
    with pytest.raises(Stopped):
        first.run()
    second, records = cohort.coordinator(plan, InProcessGrid(cohort.app(), 5, drop=drop))
    second.run()
    assert [(record.opened, record.contributors) for record in records] == [
        (False, 5),
        (False, 3),  # m4 aside and m3 missing: too few
        (False, 4),  # m4 asked again, and complained about again
        (True, 4),
    ]


names = st.sampled_from(["a", "b", "c", "d", "e", "f"])


@settings(max_examples=300, deadline=None)
@given(
    faulty=st.sets(names, max_size=2),
    complaints=st.lists(st.tuples(names, names), max_size=20),
    spare=st.integers(-1, 4),
)
def test_no_honest_dealer_is_excluded_whatever_those_at_fault_say(
    faulty: set[str], complaints: list[tuple[str, str]], spare: int
) -> None:
    known = Complaints(colluders=2)
    for dealer, member in complaints:
        if dealer in faulty or member in faulty:  # of two honest parties neither complains
            known.add({dealer: {member}})
    assert known.excluded <= faulty
    known.lost_over_complaints(spare=spare)
    assert len(known.aside) == min(max(spare, 0), len(known.suspects))
    again = Complaints.of(known.record(), colluders=2)
    assert again == known and again.left_out == known.excluded | known.aside


@settings(max_examples=100, deadline=None)
@given(
    cheats=st.dictionaries(names, st.sets(names, min_size=1, max_size=3), max_size=2),
    honest=st.sets(st.sampled_from(["g", "h", "i"]), min_size=1),
)
def test_cheating_dealers_cost_a_few_rounds_at_most(cheats: dict[str, set[str]], honest: set[str]) -> None:
    """Dealers cheat whom they please; members say so, and any complaint loses the round."""
    known = Complaints(colluders=2)
    everyone = honest | cheats.keys() | set(chain(*cheats.values()))
    lost = 0
    while complaints := {d: by - cheats.keys() for d, by in cheats.items() if d not in known.left_out}:
        complaints = {dealer: by for dealer, by in complaints.items() if by}
        if not complaints:
            break
        known.add(complaints)
        known.lost_over_complaints(spare=len(everyone - known.excluded) - len(honest))
        lost += 1
        assert lost <= 2
    assert known.left_out <= cheats.keys()


def test_a_member_that_complains_about_too_many_is_not_believed() -> None:
    known = Complaints(colluders=1)
    known.add({"a": {"x"}})
    assert known.suspects == {"a"}
    known.lost_over_complaints(spare=1)
    assert known.left_out == {"a"}
    known.add({"b": {"x"}})
    assert not known.suspects and not known.left_out
    known.add({"b": {"y"}})
    assert known.suspects == {"b"}
    known.add({"b": {"z"}})
    assert known.excluded == known.left_out == {"b"}


def test_complaints_are_read_from_another_thread_while_they_are_added() -> None:
    complaints = Complaints(colluders=1)
    complaints.add({"a": {"x", "y", "z"}})

    class Adding(dict[str, set[str]]):
        """Complaints that grow while they are gone through."""

        def items(self) -> Any:
            for item in super().items():
                yield item
                complaints.add({f"b{len(complaints.complaints)}": {"x"}})

    complaints.complaints = Adding(complaints.complaints)
    assert complaints.excluded == {"a"}
